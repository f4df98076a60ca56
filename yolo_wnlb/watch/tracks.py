"""Objects followed through the frames, so that none flickers: Ultralytics' ByteTrack with two confidences.

An object is reported once it has had the confidence in two frames running. From then on a part of it is enough
(hysteresis: the upper threshold switches on, the lower one keeps on), and for a few frames it may be missed altogether:
it is reported where it should be by its motion, marked as not seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

MEMORY = 30  # frames after which a lost object that comes back counts as another one


class Tracked(NamedTuple):
    """An object in one frame.

    Attributes:
        track: Its number, 1, 2, ...: the same in all frames.
        name: Its class.
        score: Of the newest detection, in [0, 1].
        box: x1, y1, x2, y2 in pixels.
        detection: Its place among the detections of this frame; None where it is not seen, and box is a guess.
    """

    track: int
    name: str
    score: float
    box: tuple[float, float, float, float]
    detection: int | None


class Tracks:
    """Follow objects from frame to frame.

    Args:
        names: The model's classes, {index: name}.
        keep: Share of the confidence that keeps an object, in (0, 1].
        hold: For how many frames an object is reported that is not seen, 0 or more.
    Raises: ImportError: the tracker's package is not installed.
    """

    def __init__(self, names: Mapping[int, str], keep: float, hold: int):
        try:
            import lap  # noqa: F401 -- Ultralytics would install it, with what is at hand
        except ImportError as error:
            raise ImportError(
                "watch follows objects with Ultralytics' tracker, which needs lap; install it: pip install lap"
            ) from error
        from ultralytics.trackers.byte_tracker import BYTETracker

        self.names, self.keep, self.hold = names, keep, hold
        self.settings = SimpleNamespace(
            track_high_thresh=1.0,
            track_low_thresh=1.0,
            new_track_thresh=1.0,
            track_buffer=max(MEMORY, hold),
            match_thresh=0.8,
            fuse_score=False,
        )
        self.tracker = BYTETracker(self.settings)

    def update(self, boxes: Any, confidence: float) -> list[Tracked]:
        """Take the detections of the next frame.

        Args:
            boxes: Ultralytics' Boxes as NumPy, all above `keep` times the confidence.
            confidence: That a new object needs.
        Returns: The objects, by number.
        """
        self.settings.track_high_thresh = self.settings.new_track_thresh = confidence
        self.settings.track_low_thresh = self.keep * confidence
        rows = self.tracker.update(boxes)
        found = []
        for x1, y1, x2, y2, number, score, kind, _ in np.asarray(rows, float).reshape(-1, 8):
            # ByteTrack smooths boxes, and says in a way that differs with its release which detection one is from
            off = abs(boxes.xyxy - [x1, y1, x2, y2]).sum(1) + 1e6 * (abs(boxes.conf - score) > 1e-6)
            place = int(off.argmin())
            box = tuple(float(value) for value in boxes.xyxy[place])
            found.append(Tracked(int(number), self.names[int(kind)], float(score), box, place))  # type: ignore[arg-type]
        for track in self.tracker.lost_stracks:
            if track.is_activated and self.tracker.frame_id - track.end_frame <= self.hold:
                box = tuple(float(value) for value in track.xyxy)
                found.append(Tracked(track.track_id, self.names[int(track.cls)], float(track.score), box, None))  # type: ignore[arg-type]
        return sorted(found)
