"""Which detection found an object: all that average precision depends on, and how it is kept in a file."""

from __future__ import annotations

import base64
import binascii
import zlib
from typing import Any, NamedTuple

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # of IoU
RECALLS = np.linspace(0, 1, 101)
MAX_BYTES = 2**30  # of one array that is read from a file: 130 million detections with their scores


class Matches(NamedTuple):
    """Which detection found an object, at each of the ten thresholds of IoU (0.5, 0.55 ... 0.95).

    Rows are detections, sorted by class, then by falling score; equal scores by image. Images and
    classes are numbered from 0 in the order of their ids in the truth.

    Attributes:
        image: Image of each detection, int (D,).
        category: Class of each detection, int (D,).
        score: Score of each detection, float (D,).
        hit: Bit t is set where the detection is the one that found some object at threshold t, int (D,).
        ignored: Bit t is set where the detection counts neither for nor against at threshold t: it lies in a
            crowd, or is larger than 10^10 pixels. int (D,).
        object_image: Image of each object that counts (crowds do not), int (G,).
        object_category: Class of each object that counts, int (G,).
        images: Number of images.
        classes: Number of classes.
    """

    image: np.ndarray
    category: np.ndarray
    score: np.ndarray
    hit: np.ndarray
    ignored: np.ndarray
    object_image: np.ndarray
    object_category: np.ndarray
    images: int
    classes: int

    def of_images(self, kept: np.ndarray) -> Matches:
        """Return the matches of some images alone, numbered anew in the same order; kept: which, bool (images,)."""
        rows, objects, number = kept[self.image], kept[self.object_image], np.cumsum(kept) - 1
        return Matches(
            image=number[self.image[rows]],
            category=self.category[rows],
            score=self.score[rows],
            hit=self.hit[rows],
            ignored=self.ignored[rows],
            object_image=number[self.object_image[objects]],
            object_category=self.object_category[objects],
            images=int(kept.sum()),
            classes=self.classes,
        )

    def average_precision(self, weights: np.ndarray | None = None, thresholds: slice = slice(None)) -> np.ndarray:
        """Average precision by threshold and class, float (B, T, K); -1 for classes without objects.

        It is the mean over the 101 recalls R of the highest precision at recall R or above. Recall rises at hits
        alone, so all recalls between one hit and the next share one value and need not be listed:

            AP  =  1/101 Σ_h  best(h) · (reached(h) - reached(h - 1))

        best(h) is the highest precision at hit h or a later one, reached(h) the number of R up to the recall of hit h.

        Args:
            weights: How often each image counts, whole numbers (B, images). Default: once, B = 1.
            thresholds: Which of `THRESHOLDS`. Default: all ten.
        """
        weights = np.ones((1, self.images), np.int64) if weights is None else weights
        bits = range(len(THRESHOLDS))[thresholds]
        result = -np.ones((len(weights), len(bits), self.classes))
        starts = np.searchsorted(self.category, np.arange(self.classes + 1))
        for k in range(self.classes):
            objects = weights[:, self.object_image[self.object_category == k]].sum(1)  # (B,)
            some = objects > 0
            result[some, :, k] = 0
            end = starts[k] + np.flatnonzero(self.hit[starts[k] : starts[k + 1]]).max(initial=-1) + 1
            if end == starts[k] or not some.any():
                continue
            rows = slice(starts[k], end)  # what comes after the last hit changes nothing
            weight = np.take(weights, self.image[rows], axis=1)  # (B, D)
            total = np.cumsum(weight, axis=1)
            for t, bit in enumerate(bits):
                hits = np.flatnonzero(self.hit[rows] >> bit & 1)
                if not len(hits):
                    continue
                ignored = self.ignored[rows] >> bit & 1
                counted = np.cumsum(weight * (1 - ignored), axis=1) if ignored.any() else total
                found = np.cumsum(weight[:, hits], axis=1)  # (B, H)
                precision = found / (counted[:, hits] + np.spacing(1))
                best = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
                reached = np.searchsorted(RECALLS, found / np.maximum(objects, 1)[:, None], "right")
                value = (best * np.diff(reached, axis=1, prepend=0)).sum(1) / len(RECALLS)
                result[some, t, k] = value[some]
        return result


def pack(matches: Matches) -> dict[str, Any]:
    """Turn matches into JSON: each array as [type, text], the array compressed by zlib and written in base64.

    Types are those of NumPy, little-endian, and the narrowest that holds all values exactly.
    """
    return {
        name: to_text(value) if isinstance(value, np.ndarray) else value for name, value in matches._asdict().items()
    }


def unpack(content: Any) -> Matches:
    """Turn what `pack` returned into matches again.

    Raises: ValueError: it is something else, or does not hang together.
    """
    if not isinstance(content, dict) or set(content) != set(Matches._fields):
        raise ValueError(f"its matches are not made of {', '.join(Matches._fields)}")
    for name in ("images", "classes"):
        if type(content[name]) is not int or content[name] < 0:
            raise ValueError(f"its matches have {name} {content[name]!r}; wanted a whole number, 0 or more")
    arrays = {name: to_array(name, content[name]) for name in Matches._fields if name not in ("images", "classes")}
    matches = Matches(**arrays, images=content["images"], classes=content["classes"])
    for names, limit in (
        (("image", "object_image"), matches.images),
        (("category", "object_category"), matches.classes),
        (("hit", "ignored"), 2 ** len(THRESHOLDS)),
    ):
        for name in names:
            values = arrays[name]
            if values.size and not 0 <= values.min() <= values.max() < limit:
                raise ValueError(f"its matches have {name} {values.min()} to {values.max()}; wanted 0 to {limit - 1}")
    rows = {len(arrays[name]) for name in ("image", "category", "score", "hit", "ignored")}
    if len(rows) > 1 or len(matches.object_image) != len(matches.object_category):
        raise ValueError("its matches have columns of different lengths")
    if not np.isfinite(matches.score).all():
        raise ValueError("its matches have scores that are no finite numbers")
    order = np.lexsort((-matches.score, matches.category))
    if (matches.category[order] != matches.category).any() or (matches.score[order] != matches.score).any():
        raise ValueError("its matches are not sorted by class and falling score")
    return matches


def to_text(values: np.ndarray) -> list[str]:
    """Write one array as [type, text]."""
    if values.dtype.kind == "f":
        exact = (values.astype(np.float32) == values).all()
        narrow = values.astype("<f4" if exact else "<f8")
    else:
        narrow = values.astype(np.min_scalar_type(int(values.max(initial=0))).newbyteorder("<"))
    return [narrow.dtype.str, base64.b64encode(zlib.compress(narrow.tobytes(), 9)).decode()]


def to_array(name: str, content: Any) -> np.ndarray:
    """Read one array of `to_text`; integers come back as int64, so that sums of them cannot overflow."""
    kinds = ("<f4", "<f8") if name == "score" else ("|u1", "<u2", "<u4", "<u8")
    if not isinstance(content, list) or len(content) != 2 or content[0] not in kinds or not isinstance(content[1], str):
        raise ValueError(f"its matches have a {name} that is not a list of one of {', '.join(kinds)} and a text")
    try:
        reader = zlib.decompressobj()
        raw = reader.decompress(base64.b64decode(content[1], validate=True), MAX_BYTES)
        if reader.unconsumed_tail:
            raise ValueError(f"more than {MAX_BYTES:,} bytes")
        if not reader.eof:
            raise ValueError("it is cut off")
        return np.frombuffer(raw, content[0]).astype(float if name == "score" else np.int64)
    except (ValueError, binascii.Error, zlib.error) as error:
        raise ValueError(f"its matches have a {name} that cannot be read ({error})") from None
