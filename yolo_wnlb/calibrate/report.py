"""What a calibration found: as text, as the YAML file of the camera, and as one picture."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolo_wnlb.calibrate.noise import CODES, Fit, Noise, edges
from yolo_wnlb.calibrate.sources import evenly
from yolo_wnlb.imaging.camera import CAMERA_VERSION, PRESETS, Settings, as_changes, settings
from yolo_wnlb.imaging.capture import capture
from yolo_wnlb.imaging.chance import picture_rng

SHOWN = 3  # day pictures and night pictures below the curves
HEIGHT, CAPTION = 260, 24  # pixels of each of them, and of the line above them


@dataclass(frozen=True)
class Found:
    """One number: its span in the settings, its standard error (or None), where it is from."""

    span: tuple[float, float]
    error: float | None
    source: str


@dataclass
class Calibration:
    """A calibrated camera.

    Attributes:
        camera: Its settings.
        found: What was found, by the name of the setting.
        fit: The fit that distances and curves are of.
        noise: Octaves between the noise of the pictures and that of "fit" and of each preset: the mean over brightness
            of |log2| of the ratio of standard deviations.
        brightness: The same of the mean brightness of day pictures that were darkened and of the night pictures;
            empty without either.
        remarks: What to know of it.
        file, picture: What was written.
    """

    camera: Settings
    found: dict[str, Found]
    fit: Fit
    noise: dict[str, float]
    brightness: dict[str, float]
    remarks: list[str] = field(default_factory=list)
    file: Path = Path()
    picture: Path = Path()

    def __str__(self) -> str:
        lines = ["| setting | span | standard error | from |", "|---|---|---|---|"]
        for name, one in self.found.items():
            span = " to ".join(f"{value:.4g}" for value in dict.fromkeys(one.span))
            lines.append(f"| {name} | {span} | {'-' if one.error is None else f'{one.error:.2g}'} | {one.source} |")
        columns = list(dict.fromkeys([*self.noise, *self.brightness]))
        lines += ["", f"| octaves from the pictures | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
        measured = {"noise": self.noise, "brightness": self.brightness}
        for name, distances in measured.items():
            if distances:
                values = [distances.get(column, math.nan) for column in columns]
                lines.append(f"| {name} | {' | '.join(map(shown, values))} |")
        lines += [
            "",
            *filter(None, map(in_words, measured, measured.values())),
            *(f"note: {remark}" for remark in self.remarks),
        ]
        use = shlex.quote(f"lowlight={self.file}")
        return "\n".join([*lines, f"wrote {self.file} and {self.picture}; use it as {use}"])

    def content(self) -> dict[str, Any]:
        """Return what the YAML file holds."""
        return {
            "camera": CAMERA_VERSION,
            "settings": as_changes(self.camera),
            "found": {
                name: {"span": list(one.span), "standard_error": one.error, "from": one.source}
                for name, one in self.found.items()
            },
            "octaves_from_the_pictures": {"noise": plain(self.noise), "brightness": plain(self.brightness)},
            "remarks": self.remarks,
        }


def shown(octaves: float) -> str:
    """Write a distance; '-' for one that could not be measured."""
    return "-" if math.isnan(octaves) else f"{octaves:.2f}"


def in_words(name: str, distances: dict[str, float]) -> str:
    """Say what the distances mean as factors: that of the fit, and of the nearest preset; "" without a distance."""
    known = {column: octaves for column, octaves in distances.items() if not math.isnan(octaves)}
    if "fit" not in known or len(known) < 2:
        return ""
    nearest = min((column for column in known if column != "fit"), key=known.__getitem__)
    return (
        f"{name}: that of the fit differs from that of the pictures by a factor of {2 ** known['fit']:.2f} in the "
        f"mean, that of {nearest}, the nearest preset, by {2 ** known[nearest]:.2f} (1 is equal)"
    )


def plain(distances: dict[str, float]) -> dict[str, float | None]:
    """Round distances for a file; None for one that could not be measured."""
    return {name: None if math.isnan(value) else round(value, 3) for name, value in distances.items()}


def middle_noise(preset: str) -> Noise:
    """Return the noise in the middle of a preset's spans."""
    camera = settings(preset)
    return Noise(sum(camera.sigma_s) / 2, sum(camera.sigma_c) / 2)


def draw(calibration: Calibration, day: list[np.ndarray], night: list[np.ndarray]) -> np.ndarray:
    """Draw noise against brightness of the pictures, the presets and the fit; below, darkened day above real night.

    Without day pictures there is no darkened one, without night pictures no real one.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    fit, crf = calibration.fit, calibration.fit.scene.shot.crf
    figure = Figure(figsize=(9, 4.5), dpi=100, layout="constrained")
    canvas, axes = FigureCanvasAgg(figure), figure.add_subplot()
    light = np.geomspace(edges(crf)[1] / 4, edges(crf)[len(CODES) - 1], 100)
    for name in PRESETS:
        noise = middle_noise(name)
        axes.plot(light, np.sqrt(light * noise.sigma_s**2 + noise.sigma_c**2), lw=1, label=name)
    own = fit.noise
    axes.plot(
        light, np.sqrt(light * own.sigma_s**2 + own.sigma_c**2 + own.sigma_row**2 + own.sigma_column**2), "k", lw=2.5,
        label="this camera",
    )  # fmt: skip
    with np.errstate(divide="ignore", invalid="ignore"):
        level, variance = fit.real.curve()
        raw = level * own.sigma_s**2 + own.sigma_c**2 + own.sigma_row**2 + own.sigma_column**2
        axes.plot(level, np.sqrt(raw * variance / fit.simulated.curve()[1]), "ko", label="measured")
    axes.set(xscale="log", yscale="log", xlabel="light, share of white", ylabel="noise of the sensor, share of white")
    axes.legend(fontsize=8, ncols=2)
    canvas.draw()
    chart = np.asarray(canvas.buffer_rgba())[..., 2::-1]
    dark = [
        capture(picture, calibration.camera.draw(picture_rng(0, str(i))))
        for i, picture in enumerate(evenly(day, SHOWN))
    ]
    strips = {"day pictures, darkened by this camera": dark, "night pictures, as they are": evenly(night, SHOWN)}
    return np.vstack([chart, *(strip(name, row, chart.shape[1]) for name, row in strips.items() if row)])


def strip(caption: str, pictures: list[np.ndarray], width: int) -> np.ndarray:
    """Put up to SHOWN pictures beside each other in a strip of this width, below a caption."""
    side = width // SHOWN
    cells = np.full((HEIGHT, width, 3), 255, np.uint8)
    head = np.full((CAPTION, width, 3), 255, np.uint8)
    cv2.putText(head, caption, (4, CAPTION - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    for i, picture in enumerate(pictures):
        coloured = cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR) if picture.ndim == 2 else picture
        scale = min((side - 8) / coloured.shape[1], (HEIGHT - 8) / coloured.shape[0])
        small = cv2.resize(coloured, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        cells[4 : 4 + small.shape[0], i * side + 4 : i * side + 4 + small.shape[1]] = small
    return np.vstack([head, cells])
