"""What the blocks of a model do on a few of the pictures: their w, how much they change, how far attention spreads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean

from yolo_wnlb.data.sources import spread
from yolo_wnlb.report.content import Block
from yolo_wnlb.study.subject import Scene, Subject
from yolo_wnlb.visualize.block_statistics import BlockStatistics, add_image, statistics_of
from yolo_wnlb.visualize.observation import Sample, blocks_of, load_model, observe, recorded_maps
from yolo_wnlb.yolo.models import channels_of, read_picture
from yolo_wnlb.yolo.sixteen_bits import curve_of

PICTURES = 8  # that the means are taken of, evenly spaced by name
CONFIDENCE = 0.25  # of what is found meanwhile, which nobody looks at


def rows_of(subjects: Sequence[Subject], scene: Scene, notes: list[str]) -> list[Block]:
    """Look into the blocks of those models that have any, on the CPU; exports hide theirs.

    Args:
        subjects: The models.
        scene: The pictures.
        notes: Grows by a line for blocks whose features are no finite numbers.
    """
    rows = []
    for subject in subjects:
        if not hasattr(subject.model, "backend") or subject.file.suffix != ".pt":
            continue
        model = load_model(subject.file)
        modules = blocks_of(model)
        if not modules:
            continue
        size = max(subject.module.choose_size(subject.model, scene.options.get("imgsz")))
        maps, statistics = recorded_maps(model), list[BlockStatistics]()
        for image_id in spread(scene.ids, PICTURES):
            picture = read_picture(scene.files[image_id], channels_of(model), curve_of(None, model))
            seen = observe(
                Sample(scene.keys[image_id], [picture], None), [model], maps, None, imgsz=size, conf=CONFIDENCE
            )
            if not statistics:
                statistics = [statistics_of(layer, block, seen) for layer, block in modules.items()]
            for found in statistics:
                add_image(found, modules[found.layer], seen)
        for found in statistics:
            change, neighbours = mean(found.change), mean(found.neighbours)
            if not (math.isfinite(change) and math.isfinite(neighbours)):
                notes.append(
                    f"{subject.name}, layer {found.layer}: its features are no finite numbers; the training has "
                    "diverged"
                )
                continue
            w = found.w_text if found.w is not None else "-"
            form = (found.stage, found.stride, found.channels, found.operation, found.sub_sample)
            rows.append(Block(subject.name, found.layer, *form, w, change, neighbours, round(mean(found.keys))))
    return rows
