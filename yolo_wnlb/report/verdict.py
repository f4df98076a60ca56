"""The verdict of a report in three sentences: how good and how dark, which confidence to set, what goes wrong."""

from __future__ import annotations

from collections.abc import Sequence

from yolo_wnlb.report.content import Content, Estimate, Threshold

NAMES = {"segm": "mask AP", "bbox": "box AP"}
MEAN_OVER_STOPS = "mean over stops"  # of a comparison
FEW = 30  # objects, below which a confidence of their own is not recommended
ADVICE = {  # for the kind of error that costs most
    "class": "give it more pictures of the classes that it mistakes for each other, and look at their labels",
    "localisation": "train and predict at a larger imgsz, and look at how tightly the labels lie",
    "both": "give it more pictures like the worst ones below, labelled carefully",
    "duplicate": "lower iou= of the non-maximum suppression",
    "background": "add pictures without objects to the training, and set a higher confidence if alarms matter more",
    "missed": "train it for the dark (lowlight=), at a larger imgsz, or set a lower confidence if misses matter more",
}


def verdict(content: Content) -> list[str]:
    """Write the three sentences from the numbers of a content, whose own `verdict` is not read.

    The second and third are about the model that is best over all stops.
    """
    best = best_in_the_dark(content)
    return [how_good(content, best), which_confidence(content, best), what_goes_wrong(content, best)]


def best_in_the_dark(content: Content) -> str:
    """Return the name of the model with the highest mean AP over the stops, of equal ones the first."""
    means = {
        model.name: sum(row.ap.value or 0.0 for row in content.stops if row.model == model.name)
        for model in content.models
    }
    return max(means, key=lambda name: means[name])


def how_good(content: Content, best: str) -> str:
    """Write how good the best model is, how dark it may get, and whether another one is clearly worse."""
    [score] = [row for row in content.scores if (row.model, row.kind) == (best, content.kind)]
    what = NAMES[content.kind]
    if not score.ap.value:
        return f"{best} finds nothing that is right on these {content.data.pictures} pictures: its {what} is 0."
    reached = f"{best} has a {what} of {in_points(score.ap)} on these {content.data.pictures} pictures"
    dark = ""
    for row in content.half_stops:
        if row.model == best and row.stop.value is not None:
            dark = f", and half of it is left at {in_stops(row.stop, row.open)}"
            if not row.reached:
                dark = f", and more than half of it is left at {row.stop.value:.0f} stops, the darkest measured"
    if len(content.models) == 1:
        return f"{reached}{dark}."
    return f"{compared(content, best)}; {reached}{dark}."


def compared(content: Content, best: str) -> str:
    """Write how far the best model is ahead over the stops: of the first one, or as the first one of the next best."""
    rows = [row for row in content.comparisons if (row.where, row.kind) == (MEAN_OVER_STOPS, content.kind)]
    first = content.models[0].name
    if best != first:
        [row] = [row for row in rows if row.model == best]
        lead, other = row.difference, first
    else:
        row = max(rows, key=lambda row: row.difference.value or 0.0)
        lead, other = negative(row.difference), row.model
    if lead.clear:
        return f"In the dark {best} is better than {other}, by {in_points(lead)} points over the stops"
    return f"In the dark no model is clearly better: {best} is {in_points(lead)} points above {other} over the stops"


def which_confidence(content: Content, best: str) -> str:
    """Write which confidence to set, what it gives on new pictures, and whether the dark wants another one."""
    rows = [row for row in content.thresholds if row.model == best]
    whole = rows[0]
    if whole.confidence is None:
        return f"No confidence can be recommended for {best}, for nothing that it finds is right."
    rates, how = whole.expected, "on new pictures of this kind"
    if rates is None:
        rates, how = whole.in_sample, "on these very pictures, which are too few to tell of new ones,"
    text = f"Set conf={whole.confidence:.2f}"
    if rates:
        text += (
            f": {how} it finds {100 * rates.recall:.0f} of 100 objects, with {rates.false_alarms:,.0f} false alarms in "
            "1,000 pictures"
        )
    dark = darkest(rows[1:])
    if dark and dark.confidence is not None and differ(dark, whole):
        text += f"; in the dark ({dark.where}) set conf={dark.confidence:.2f}"
    return f"{text}."


def darkest(rows: Sequence[Threshold]) -> Threshold | None:
    """Return the darkest row that has objects enough for a confidence of its own: of real pictures, else of stops."""
    enough = [row for row in rows if row.confidence is not None and row.objects >= FEW]
    real = [row for row in enough if row.where.startswith("brightness")]
    return min(real if len(real) > 1 else enough, key=lambda row: row.high, default=None)


def differ(one: Threshold, other: Threshold) -> bool:
    """Tell whether two confidences differ by more than the choice of pictures: those of all halves lie apart."""
    return bool(one.of_halves and other.of_halves) and (
        max(one.of_halves) < min(other.of_halves) or min(one.of_halves) > max(other.of_halves)
    )


def what_goes_wrong(content: Content, best: str) -> str:
    """Write which kind of error costs most, and what helps against it."""
    rows = [row for row in content.errors if row.model == best]
    worst = max(rows, key=lambda row: row.cost, default=None)
    if worst is None or worst.cost <= 0:
        return f"No kind of error costs {best} any AP by itself."
    what = {"missed": "missed objects", "background": "detections on the background"}
    named = what.get(worst.name, f"errors of the kind {worst.name}")
    return f"Most is lost to {named} ({100 * worst.cost:.1f} points of AP50): {ADVICE[worst.name]}."


def in_points(estimate: Estimate) -> str:
    """Write an estimate in hundredths with its interval."""
    value = f"{100 * (estimate.value or 0.0):.1f}"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def in_stops(estimate: Estimate, is_open: bool) -> str:
    """Write a stop with its interval."""
    value = f"{estimate.value:.1f} stops"
    if estimate.low is None or estimate.high is None:
        return value
    low = f"below {estimate.low:.1f}" if is_open else f"{estimate.low:.1f}"
    return f"{value} ({low} to {estimate.high:.1f})"


def negative(estimate: Estimate) -> Estimate:
    """Return a difference the other way round."""
    low, high = estimate.high, estimate.low
    return Estimate(
        None if estimate.value is None else -estimate.value,
        None if low is None else -low,
        None if high is None else -high,
    )
