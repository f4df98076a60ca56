"""The verdict of a report in three points: how good and how dark, which confidence to set, what goes wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

from yolo_wnlb.imaging.brightness import DAYLIGHT
from yolo_wnlb.report.content import Content, Estimate, HalfStop, Threshold

NAMES = {"segm": "mask AP", "bbox": "box AP"}
MEAN_OVER_STOPS, ALL_PICTURES = "mean over stops", "all pictures"  # where models are compared
LITTLE = 0.01  # AP50 below which a model has learnt almost nothing
FEW, FOUND = 30, 10  # objects, and objects found, below which no confidence is recommended
DARK = -2  # stops, from which on darkened pictures count as dark
MARGIN = 1.5  # times as high or as low must the confidences in the dark be, for one of their own to be recommended
ADVICE = {  # kind of error: what it is called in a sentence, and what helps where it costs most
    "class": (
        "objects found but given a wrong class",
        "give it more pictures of the classes that it mistakes for each other, and look at their labels",
    ),
    "localisation": (
        "objects found but not fitted closely",
        "train and predict at a larger imgsz, and look at how tightly the labels lie",
    ),
    "both": (
        "objects neither given their class nor fitted closely",
        "give it more pictures like the worst ones below, labelled carefully",
    ),
    "duplicate": ("objects found more than once", "lower iou= of the non-maximum suppression"),
    "background": (
        "detections on the background",
        "add pictures without objects to the training, and set a higher confidence if alarms matter more",
    ),
    "missed": ("missed objects", "train it for the dark (lowlight=) or at a larger imgsz"),
}


def verdict(content: Content) -> list[str]:
    """Write the three points from the numbers of a content, whose own `verdict` is not read.

    The second and third are about the model that `best_model` chooses.
    """
    best = best_model(content)
    return [how_good(content, best), which_confidence(content, best), what_goes_wrong(content, best)]


def best_model(content: Content) -> str:
    """Return the name of the model that is best over the stops.

    Where its lead over another one is not clear, and that one is clearly better on the pictures as they are, return the
    other: a lead that may be chance does not outweigh one that is none. Only differences to the first model are known.
    """
    best = best_in_the_dark(content)
    better = {}
    for name in (model.name for model in content.models):
        as_they_are, in_the_dark = lead(content, ALL_PICTURES, name, best), lead(content, MEAN_OVER_STOPS, best, name)
        if as_they_are and in_the_dark and is_ahead(as_they_are) and not is_ahead(in_the_dark):
            better[name] = as_they_are.value or 0.0
    return max(better, key=lambda name: better[name], default=best)


def best_in_the_dark(content: Content) -> str:
    """Return the name of the model with the highest mean AP over the stops, of equal ones the first.

    The pictures as they are, which have a row among the stops, do not count.
    """
    rows = [row for row in content.stops if row.stop is not None and row.kind == content.kind]
    sums = {model.name: sum(row.ap.value or 0.0 for row in rows if row.model == model.name) for model in content.models}
    return max(sums, key=lambda name: sums[name])


def how_good(content: Content, best: str) -> str:
    """Write how good the best model is, how dark it may get, and whether another one is clearly worse."""
    [score] = [row for row in content.scores if (row.model, row.kind) == (best, content.kind)]
    what = NAMES[content.kind]
    dark = how_dark(content, best)
    if not score.ap.value:
        return f"{best} finds nothing that is right on these {content.data.pictures} pictures: its {what} is 0{dark}"
    reached = f"{best} has a {what} of {in_points(score.ap)} on these {content.data.pictures} pictures"
    if len(content.models) == 1:
        return f"{reached}{dark}"
    return f"{compared(content, best)} {reached}{dark}"


def how_dark(content: Content, best: str) -> str:
    """Write at which stop half of the AP is left, and of which pictures where they are fewer."""
    [row] = [row for row in content.half_stops if (row.model, row.kind) == (best, content.kind)]
    fewer = content.data.pictures_of_stops < content.data.pictures
    which = f"the {content.data.pictures_of_stops} of them that were darkened"
    if row.stop.value is None:  # AP is 0 as they are
        return ", and how dark it may get cannot be told" + (f" from {which}, on which it is 0." if fewer else ".")
    start, it = ", and", "it"
    if fewer:
        [as_is] = [r for r in content.stops if (r.model, r.kind, r.stop) == (best, content.kind, None)]
        start, it = f". On {which} it is {in_points(as_is.ap)} as they are, and", "that"
    if is_vague(content, row):
        return f"{start} how dark it may get cannot be told, for on so few pictures {it} is too uncertain."
    if not row.reached:
        return f"{start} more than half of {it} is left at {rounded(row.stop.value, 0)} stops, the darkest measured."
    if row.stop.value == 0:
        return f"{start} the noise alone, at 0 stops, leaves half of {it} or less."
    return f"{start} half of {it} is left at {in_stops(row.stop, row.open)}."


def is_vague(content: Content, half: HalfStop) -> bool:
    """Tell whether it means nothing that a model keeps half of its AP: by chance AP may be half of that as they are."""
    aps = [row.ap for row in content.stops if (row.model, row.kind, row.stop) == (half.model, half.kind, None)]
    return not half.reached and any(ap.value and ap.low is not None and ap.low <= ap.value / 2 for ap in aps)


def compared(content: Content, best: str) -> str:
    """Write how far the best model is ahead over the stops: of the first one, or as the first one of the next best.

    Where it is best on the pictures as they are instead, write how far it is ahead of the best over the stops there.
    """
    darkest = best_in_the_dark(content)
    if best != darkest:
        [ahead, behind] = [lead(content, where, best, darkest) for where in (ALL_PICTURES, MEAN_OVER_STOPS)]
        assert ahead and behind  # best_model saw both
        return (
            f"On the pictures as they are {best} is better than {darkest}, by {in_points(ahead)} points. "
            f"{no_difference(darkest, best, negative(behind))}"
        )
    first = content.models[0].name
    others = [model.name for model in content.models if model.name != best] if best == first else [first]
    leads = {other: ahead for other in others if (ahead := lead(content, MEAN_OVER_STOPS, best, other))}
    other = min(leads, key=lambda name: leads[name].value or 0.0)
    if is_ahead(leads[other]):
        return f"In the dark {best} is better than {other}, by {in_points(leads[other])} points over the stops."
    return no_difference(best, other, leads[other])


def no_difference(one: str, other: str, lead: Estimate) -> str:
    """Write that neither of two models is better in the dark, as far as the pictures tell."""
    return (
        f"In the dark no difference between {one} and {other} can be told: {one} less {other} is {in_points(lead)} "
        "points over the stops."
    )


def lead(content: Content, where: str, one: str, other: str) -> Estimate | None:
    """Return how far a model is ahead of another one in AP; None where neither is the first: unknown."""
    for row in content.comparisons:
        if (row.where, row.kind, row.metric) == (where, content.kind, "AP"):
            if (row.model, row.first) == (one, other):
                return row.difference
            if (row.model, row.first) == (other, one):
                return negative(row.difference)
    return None


def is_ahead(difference: Estimate) -> bool:
    """Tell whether the whole interval of a difference lies above 0."""
    return difference.low is not None and difference.low > 0


def which_confidence(content: Content, best: str) -> str:
    """Write which confidence to set, what it gives on new pictures, and whether the dark wants another one."""
    rows = [row for row in content.thresholds if row.model == best]
    whole = rows[0]
    if whole.confidence is None:
        return f"No confidence can be recommended for {best}, for nothing that it finds is right."
    if whole.objects < FEW:
        return (
            f"No confidence can be recommended for {best}, for {whole.objects} objects are too few: {FEW} or more are "
            "needed."
        )
    if not is_enough(whole):
        return (
            f"No confidence can be recommended for {best}: with the best one it finds {found(whole)} of "
            f"{whole.objects} objects, and {FOUND} or more are needed to choose by."
        )
    text = f"Set conf={as_confidence(whole.confidence)}"
    if rates := whole.expected or whole.in_sample:
        alarms = f"with {rates.false_alarms:,.0f} false alarms in 1,000 pictures"
        if whole.expected:
            text += f": on new pictures of this kind it finds {100 * rates.recall:.0f} of 100 objects, {alarms}"
        else:
            text += (
                f": on these very pictures, which are too few to tell of new ones, it finds {found(whole)} of "
                f"{whole.objects} objects, {alarms}"
            )
    half = [
        row.stop.value for row in content.half_stops if (row.model, row.kind) == (best, content.kind) and row.reached
    ]
    dark = darkest(rows[1:], whole, half[0] if half and half[0] is not None else -math.inf)
    if dark and dark.confidence is not None and far_apart(dark, whole):
        text += f"; in the dark ({dark.where}) set conf={as_confidence(dark.confidence)}"
    return f"{text}."


def as_confidence(value: float) -> str:
    """Write a confidence with two decimals, below 0.1 with two significant digits; none rounds to 0 or 1."""
    digits = 2 if value >= 0.1 or value <= 0 else 1 - math.floor(math.log10(value))
    while value < 1 <= round(value, digits):
        digits += 1
    return f"{value:.{digits}f}"


def found(row: Threshold) -> int:
    """Return how many objects of the pictures are found with the confidence that was chosen on them."""
    return round(row.in_sample.recall * row.objects) if row.in_sample else 0


def is_enough(row: Threshold) -> bool:
    """Tell whether a confidence can be recommended: the objects, and those that are found, are enough to choose by."""
    return row.confidence is not None and row.objects >= FEW and found(row) >= FOUND


def darkest(rows: Sequence[Threshold], whole: Threshold, half: float) -> Threshold | None:
    """Return the darkest row of dark pictures with objects enough: of real pictures, or where there is none of stops.

    Stops below `half`, where less than half of the AP is left, are passed over: nobody should rely on the model there.

    A range of brightness that holds all pictures is passed over: its confidence is that of the whole.
    """
    enough = [row for row in rows if is_enough(row)]
    real = [row for row in enough if row.where.startswith("brightness") and row.pictures < whole.pictures]
    dark = [row for row in real if row.high <= DAYLIGHT]
    if dark:
        return min(dark, key=lambda row: row.high)
    stops = {int(row.where.removeprefix("stop ")): row for row in enough if row.where.startswith("stop ")}
    stops = {stop: row for stop, row in stops.items() if stop > half - 1}
    return stops[min(stops)] if stops and min(stops) <= DARK else None


def far_apart(one: Threshold, other: Threshold) -> bool:
    """Tell whether the confidence of every half of one is MARGIN times as high, or as low, as of any of the other.

    That the halves merely lie apart is no sign of a difference: by chance alone they do in a third of all samples.
    """
    if not one.of_halves or not other.of_halves:
        return False
    return min(one.of_halves) >= MARGIN * max(other.of_halves) or min(other.of_halves) >= MARGIN * max(one.of_halves)


def what_goes_wrong(content: Content, best: str) -> str:
    """Write which kind of error costs most, and what helps against it."""
    [score] = [row for row in content.scores if (row.model, row.kind) == (best, content.kind)]
    if score.numbers["AP50"] < LITTLE:
        return (
            f"{best} finds almost nothing that it should (AP50 is {100 * max(score.numbers['AP50'], 0):.1f}): train it "
            "longer, and check that its classes, the labels and these pictures fit together."
        )
    rows = [row for row in content.errors if row.model == best]
    worst = max(rows, key=lambda row: row.cost, default=None)
    if worst is None or worst.cost <= 0:
        return f"No kind of error costs {best} any AP by itself."
    what, remedy = ADVICE[worst.name]
    return f"Most is lost to {what} ({100 * worst.cost:.1f} points of AP50): {remedy}."


def in_points(estimate: Estimate) -> str:
    """Write an estimate in hundredths with its interval."""
    value = rounded(100 * (estimate.value or 0.0))
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({rounded(100 * estimate.low)} to {rounded(100 * estimate.high)})"


def in_stops(estimate: Estimate, is_open: bool) -> str:
    """Write a stop with its interval."""
    value = f"{rounded(estimate.value or 0.0)} stops"
    if estimate.low is None or estimate.high is None:
        return value
    return f"{value} ({'below ' if is_open else ''}{rounded(estimate.low)} to {rounded(estimate.high)})"


def rounded(value: float, digits: int = 1, form: str = "") -> str:
    """Write a number with so many digits, in a form of Python's such as "+"; what rounds to 0 is no negative 0."""
    return f"{round(value, digits) + 0.0:{form}.{digits}f}"


def negative(estimate: Estimate) -> Estimate:
    """Return a difference the other way round."""
    low, high = estimate.high, estimate.low
    return Estimate(
        None if estimate.value is None else -estimate.value,
        None if low is None else -low,
        None if high is None else -high,
    )
