"""Peak memory of one training step (forward, loss, backward, SGD) of models, each in a fresh process.

    python scripts/training_memory.py yolov8n-seg.yaml yolov8n-seg-wnlb.yaml yolov8n-seg-wnlb4.yaml

Prints what the step added to the resident memory of the process (Linux), and the ratio to the first
model. The step is run once on small images before, so that one-time buffers are not counted.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path


def measure(name: str, imgsz: int, batch: int) -> float:
    """Return the peak memory in MB that a training step adds in this process."""
    import torch
    from ultralytics.cfg import get_cfg
    from ultralytics.nn.tasks import SegmentationModel

    model = SegmentationModel(name, nc=80, verbose=False).train()
    model.args = get_cfg(overrides={"task": "segment"})
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)

    def step(side: int) -> None:
        n = 4 * batch
        scene = {
            "img": torch.rand(batch, 3, side, side),
            "batch_idx": torch.arange(batch).repeat_interleave(4),
            "cls": torch.zeros(n, 1),
            "bboxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]]).repeat(n, 1),
            "masks": torch.ones(batch, side // 4, side // 4),
        }
        model.loss(scene)[0].sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    step(64)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # start the high-water mark anew
    step(imgsz)
    return resident("VmHWM") - before


def resident(key: str) -> float:
    """Return a line of /proc/self/status in MB."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, f"no {key} in /proc/self/status"
    return int(found[1]) / 1024


def main() -> None:
    """Measure each model in a process of its own and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3, help="rounds over all models; the median is printed")
    parser.add_argument("--here", action="store_true", help="measure the first model in this very process")
    args = parser.parse_args()
    if args.here:
        print(f"MB {measure(args.models[0], args.imgsz, args.batch)}")
        return
    figures: dict[str, list[float]] = {name: [] for name in args.models}
    for _ in range(args.rounds):
        for name in args.models:
            size = ["--imgsz", str(args.imgsz), "--batch", str(args.batch)]
            command = [sys.executable, __file__, name, "--here", *size]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            figures[name].append(float(said.split("MB ")[-1]))
    medians = {name: sorted(values)[len(values) // 2] for name, values in figures.items()}
    print(f"one training step, batch {args.batch}, {args.imgsz} px, median of {args.rounds}:")
    for name, value in medians.items():
        print(f"  {name:<28}{value:8.0f} MB   {value / medians[args.models[0]]:.3f}x")


if __name__ == "__main__":
    main()
