"""What the blocks cost: time in one process, all alternatives taking turns; memory each in a fresh process.

    python scripts/benchmark.py block                        # one block against the usual implementation
    python scripts/benchmark.py inference --scale n m        # whole models, fused as for prediction
    python scripts/benchmark.py training --scale n --batch 4 # one step: forward, loss, backward, SGD
    python scripts/benchmark.py onnx --scale n               # ONNX Runtime: latency, memory, difference
    python scripts/benchmark.py sizes --scale n              # how inference grows with the image
    python scripts/benchmark.py loading --data coco8-seg.yaml # training pictures, bright and darkened

All print a Markdown table, and write it with device and versions to --out (default docs/results/benchmark) after each
row, so that a run that is stopped leaves what it has measured. On a CPU, times are those of one thread's work (not of
waiting for others), and memory is that of a fresh process. On CUDA, a time ends when the device has finished, memory is
what PyTorch allocates there, training uses AMP, and --half makes inference fp16.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from ultralytics import YOLO
from ultralytics import __version__ as ultralytics_version
from ultralytics.cfg import get_cfg
from ultralytics.data.build import build_yolo_dataset
from ultralytics.data.utils import check_det_dataset
from ultralytics.nn.tasks import SegmentationModel

from yolo_wnlb.wnlb import WNLB
from yolo_wnlb.yolo import denoise, terms
from yolo_wnlb.yolo.grafting import graft, load_yaml

Options = dict[str, Any] | list[dict[str, Any]]

THREE, FOUR = ["P3", "P4", "P5"], ["P2", "P3", "P4", "P5"]
POOLED: Options = [{"sub_sample": side} for side in (8, 4, 2, 1)]
MODELS: dict[str, tuple[list[str], Options]] = {
    "plain": ([], {}),
    "P3-P5": (THREE, {}),
    "P3-P5, 2x2": (THREE, {"sub_sample": 2}),
    "P3-P5, dot product": (THREE, {"operation": "dot_product"}),
    "P2-P5, dot product": (FOUR, {"operation": "dot_product"}),
    "P2-P5, pooled 8/4/2/1": (FOUR, POOLED),
    "P2-P5, 2x2": (FOUR, {"sub_sample": 2}),
    "P2-P5": (FOUR, {}),
}
TARGETS = ("features", "bright")  # of the cases denoise=..., which are plain models trained with that word
WITH_DENOISE = tuple(f"denoise={target}" for target in TARGETS)
STAGES = {"P2": (96, 160), "P3": (192, 80), "P4": (384, 40), "P5": (576, 20)}  # of yolov8m at 640 px: channels, side


class Usual(nn.Module):
    """The block as it is usually written: all pairs in one matrix (the pattern of mmcv's NonLocal2d)."""

    def __init__(self, channels: int, operation: str) -> None:
        super().__init__()
        self.operation, half = operation, channels // 2
        self.g, self.theta, self.phi = (nn.Conv2d(channels, half, 1) for _ in range(3))
        self.out = nn.Sequential(nn.Conv2d(half, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return x + W_z(y)."""
        q, k, v = (conv(x).flatten(2).transpose(1, 2) for conv in (self.theta, self.phi, self.g))
        pairs = q @ k.transpose(1, 2)
        pairs = pairs / pairs.shape[-1] if self.operation == "dot_product" else pairs.softmax(-1)
        return x + self.out((pairs @ v).transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:]))


def usual(channels: int, operation: str) -> nn.Module:
    """Return mmcv's block, unmodified, where mmcv is installed, else the same written here."""
    try:
        from mmcv.cnn import NonLocal2d
    except ImportError:
        return Usual(channels, operation)
    return NonLocal2d(channels, use_scale=False, mode=operation, norm_cfg={"type": "BN"})


def model_of(scale: str, case: str) -> SegmentationModel:
    """Build yolov8-seg with the blocks of a case, whose w is 0.1: at 0 they would be left out."""
    after, options = MODELS["plain" if case in WITH_DENOISE else case]
    definition = load_yaml(f"yolov8{scale}-seg.yaml")
    definition = graft(definition, after, options)[0] if after else definition
    model = SegmentationModel({**definition, "scale": scale}, nc=80, verbose=False)
    with torch.no_grad():
        for block in model.modules():
            if isinstance(block, WNLB):
                block.w.fill_(0.1)
    return model


def add_term(model: SegmentationModel, target: str) -> None:
    """Give a model the term of denoise=TARGET; the teacher of features is its own copy."""
    asked = denoise.read_request(target)
    if target == "features":
        terms.give(model, denoise.FeatureTwin(model, deepcopy(model).eval().requires_grad_(False), asked))
    else:
        terms.give(model, denoise.Reconstruction(model, asked, None))


def step_of(scale: str, case: str, device: str) -> Callable[[int, int], None]:
    """Return a training step of a case for pictures of a size, (side, batch)."""
    model = model_of(scale, case).to(device).train()
    model.args = get_cfg(overrides={"task": "segment"})
    channels = 3
    if case in WITH_DENOISE:  # pictures come in pairs, each with its mark
        add_term(model, case.removeprefix("denoise="))
        channels = 2 * (3 + 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.001, momentum=0.9)
    scaler = torch.amp.GradScaler(device, enabled=device == "cuda")

    def step(side: int, batch: int) -> None:
        n = 4 * batch
        scene = {
            "img": torch.rand(batch, channels, side, side, device=device),
            "batch_idx": torch.arange(batch).repeat_interleave(4).to(device),
            "cls": torch.zeros(n, 1, device=device),
            "bboxes": torch.tensor([[0.5, 0.5, 0.3, 0.3]], device=device).repeat(n, 1),
            "masks": torch.ones(batch, side // 4, side // 4, device=device),
        }
        scene["img"][:, 3:4] = 1  # all of them is picture
        with torch.autocast(device, enabled=device == "cuda"):
            loss = model.loss(scene)[0].sum()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()

    return step


# ---- measuring -------------------------------------------------------------------------------------


def clock(device: str) -> float:
    """Return the time spent so far, in seconds."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def take_turns(works: Mapping[str, Callable[[], object]], rounds: int, device: str) -> dict[str, list[float]]:
    """Run each work once to warm up, then all of them in an order drawn anew each round: {name: s of each round}."""
    times: dict[str, list[float]] = {name: [] for name in works}
    order = random.Random(0)
    for work in works.values():
        for _ in range(3 if device == "cuda" else 1):  # the first calls choose kernels
            work()
    for _ in range(rounds):
        for name in order.sample(list(works), len(works)):
            begun = clock(device)
            works[name]()
            times[name].append(clock(device) - begun)
    return times


def ms(times: list[float]) -> str:
    """Return the median in milliseconds."""
    return f"{1e3 * statistics.median(times):.1f}"


def ratio(times: list[float], base: list[float]) -> float:
    """Return the median multiple of what the other takes in the same round: machines slow down and recover."""
    return statistics.median(a / b for a, b in zip(times, base, strict=True))


def peak(work: Callable[[], object], device: str) -> float:
    """Return the MiB that a work adds at most to this process, or to the memory of the GPU."""
    if device == "cuda":
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # start the high-water mark anew
    work()
    return resident("VmHWM") - before


def resident(key: str) -> float:
    """Return a line of /proc/self/status in MiB."""
    found = re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found, f"no {key} in /proc/self/status"
    return int(found[1]) / 1024


def in_fresh_process(task: str, *words: object, rounds: int = 3) -> float:
    """Run this script with --here in new processes; the median of what they print."""
    # glibc gives back at once what is freed: without this the figures vary by 3 %
    env = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "131072", **os.environ}
    said = []
    for _ in range(rounds):
        command = [sys.executable, __file__, task, "--here", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}: {done.stderr[-600:]}")
        said.append(float(done.stdout.split("RESULT ")[-1]))
    return statistics.median(said)


# ---- what is measured ------------------------------------------------------------------------------


def block_of(name: str, stage: str, batch: int, device: str, backward: bool) -> Callable[[], object]:
    """Return one pass of a block: 'ours embedded_gaussian', 'usual dot_product', ..."""
    kind, operation = name.split()
    channels, side = STAGES[stage]
    block: Any = WNLB(channels, operation=operation, w_init=0.1) if kind == "ours" else usual(channels, operation)
    block.to(device)
    x = torch.randn(batch, channels, side, side, device=device, requires_grad=backward)
    if not backward:
        block.eval()
        if isinstance(block, WNLB):
            block.fold()
        elif isinstance(block, Usual):
            block.out = fuse_conv_bn_eval(*block.out)

    def forward() -> None:
        with torch.inference_mode(), torch.autocast(device, enabled=device == "cuda"):
            block(x)

    def both() -> None:
        with torch.autocast(device, enabled=device == "cuda"):
            z = block(x)
        z.float().square().mean().backward()

    return both if backward else forward


def bench_block(args: argparse.Namespace) -> list[list[str]]:
    """Our block and the usual one, on maps of yolov8m."""
    if args.here:
        stage, name, backward = args.here[0], " ".join(args.here[1:3]), args.here[3] == "True"
        print("RESULT", peak(block_of(name, stage, 1, args.device, backward), args.device))
        raise SystemExit
    rows = [["map", "form", "pass", "usual, ms", "ours, ms", "ratio", "usual, MiB", "ours, MiB", "ratio"]]
    for stage in args.stages:
        for operation in ("embedded_gaussian", "dot_product"):
            for backward in (False, True):
                names = [f"usual {operation}", f"ours {operation}"]
                works = {name: block_of(name, stage, 1, args.device, backward) for name in names}
                took = take_turns(works, args.rounds, args.device)
                del works
                mb = {name: memory_of_block(name, stage, args.device, backward) for name in names}
                (a, b), (c, d) = [took[name] for name in names], [mb[name] for name in names]
                channels, side = STAGES[stage]
                what = [
                    f"{stage}: {channels} x {side} x {side}",
                    operation,
                    "forward, backward" if backward else "forward",
                ]
                rows.append([*what, ms(a), ms(b), f"{ratio(b, a):.3f}", f"{c:.0f}", f"{d:.0f}", f"{d / c:.3f}"])
                save(rows, args)
    return rows


def memory_of_block(name: str, stage: str, device: str, backward: bool) -> float:
    """Return the MiB that a pass of a block adds at most."""
    if device == "cuda":
        return peak(block_of(name, stage, 1, device, backward), device)
    return in_fresh_process("block", stage, *name.split(), backward, "--device", device)


def bare_operations(model: nn.Module, x: Tensor) -> tuple[dict[str, Callable[[], None]], float, float]:
    """Return what softmax blocks cannot do without, as works, and its operations and exponentials, in 1e9.

    The products of the convolutions, those of queries, keys and values, and the exponentials, once each, by
    the same libraries, written into memory that lasts; no maxima, sums, pooling, copies or additions. Pairs
    are made in tiles of 128, 256 or 512 x 512, which stay in the cache; under "fused" by PyTorch's fused kernel.
    """
    shapes: list[tuple[int, int, int, int]] = []

    def note(block: Any, inputs: tuple[Tensor, ...]) -> None:
        (h, w), k = inputs[0].shape[2:], block.sub_sample
        shapes.append((block.in_channels, block.embed_dim, h * w, -(-h // k) * -(-w // k)))

    hooks = [block.register_forward_pre_hook(note) for block in model.modules() if isinstance(block, WNLB)]
    model(x)
    for hook in hooks:
        hook.remove()

    def product(rows: int, inner: int, columns: int) -> tuple[Callable[[], object], Tensor]:
        out = torch.empty(rows, columns)
        return partial(torch.mm, torch.randn(rows, inner), torch.randn(inner, columns), out=out), out

    def fused(d: int, n: int, m: int) -> list[tuple[int, Callable[[], object]]]:
        q, k, v = (torch.randn(1, 1, size, d) for size in (n, m, m))
        return [(1, partial(F.scaled_dot_product_attention, q, k, v))]

    def tiled(d: int, n: int, m: int, tile: int) -> list[tuple[int, Callable[[], object]]]:
        rows, columns = min(n, tile), min(m, 512)
        tiles = n * m // (rows * columns)
        logits, pairs = product(rows, d, columns)
        exponentials = partial(torch.exp, torch.rand_like(pairs), out=pairs)
        return [(tiles, logits), (tiles, exponentials), (tiles, product(rows, columns, d)[0])]

    def work(attention: Callable[[int, int, int], list[tuple[int, Callable[[], object]]]]) -> Callable[[], None]:
        steps: list[tuple[int, Callable[[], object]]] = []
        for c, d, n, m in shapes:
            steps += [(1, product(3 * d, c, n)[0]), (1, product(c, d, n)[0]), *attention(d, n, m)]

        def run() -> None:
            for times, step in steps:
                for _ in range(times):
                    step()

        return run

    operations = sum(8 * n * c * d + 4 * n * m * d for c, d, n, m in shapes)
    tiles = {f"tiles of {tile}": work(partial(tiled, tile=tile)) for tile in (128, 256, 512)}
    works = {"fused": work(fused), **tiles}
    return works, operations / 1e9, sum(n * m for _, _, n, m in shapes) / 1e9


def bench_inference(args: argparse.Namespace) -> list[list[str]]:
    """Whole models, fused, against the plain one; on a CPU also what blocks cannot do without."""
    columns = ["bare, fused kernel", "bare, tiles", "GFLOP of blocks", "1e9 exponentials"]
    rows = [["model", "blocks", "ms", "ratio", *columns]]
    precision = torch.float16 if args.half else torch.float32
    x = torch.rand(args.batch, 3, args.imgsz, args.imgsz, device=args.device, dtype=precision)
    for scale, case in itertools.product(args.scale, args.cases):
        plain, model = (
            model_of(scale, name).eval().to(args.device).fuse(verbose=False).to(precision) for name in ("plain", case)
        )
        works: dict[str, Callable[[], object]] = {"plain": partial(plain, x), case: partial(model, x)}
        bare: dict[str, Callable[[], None]] = {}
        counts: list[float] = []
        with torch.inference_mode():
            if case != "plain" and "dot product" not in case and args.device == "cpu":
                bare, *counts = bare_operations(model, x)
            took = take_turns({**works, **bare}, args.rounds, args.device)
        row = [f"yolov8{scale}-seg", case, ms(took[case]), f"{ratio(took[case], took['plain']):.3f}"]
        if bare:
            fused, *tiles = (1 + ratio(took[name], took["plain"]) for name in bare)
            row += [f"{fused:.3f}", f"{min(tiles):.3f}", *(f"{n:.4g}" for n in counts)]
        rows.append(row + [""] * (len(rows[0]) - len(row)))
        save(rows, args)
    return rows


def bench_training(args: argparse.Namespace) -> list[list[str]]:
    """A training step, against the model without blocks."""
    if args.here:
        print("RESULT", memory_of_step(args.scale[0], args.cases[0], args))
        raise SystemExit
    rows = [["model", "blocks", "ms", "ratio", "MiB", "ratio"]]
    for scale in args.scale:
        took: dict[str, list[float]] = {}
        if args.rounds:
            steps = {case: step_of(scale, case, args.device) for case in args.cases}
            works = {case: partial(step, args.imgsz, args.batch) for case, step in steps.items()}
            took = take_turns(works, args.rounds, args.device)
            del steps, works
        words = ["--imgsz", args.imgsz, "--batch", args.batch, "--device", args.device, "--scale", scale]
        mb: dict[str, float] = {}
        for case in args.cases:
            if args.device == "cuda":
                mb[case] = memory_of_step(scale, case, args)
            else:
                rounds = min(args.rounds or 3, 3)
                mb[case] = in_fresh_process("training", "-", *words, "--cases", case, rounds=rounds)
            time_taken = [ms(took[case]), f"{ratio(took[case], took['plain']):.3f}"] if took else ["-", "-"]
            rows.append([f"yolov8{scale}-seg", case, *time_taken, f"{mb[case]:.0f}", f"{mb[case] / mb['plain']:.3f}"])
            save(rows, args)
    return rows


def memory_of_step(scale: str, case: str, args: argparse.Namespace) -> float:
    """Return the MiB that a training step adds at most to a model and its optimizer."""
    step = step_of(scale, case, args.device)
    step(64, args.batch)  # one-time buffers are not counted
    return peak(lambda: step(args.imgsz, args.batch), args.device)


def bench_onnx(args: argparse.Namespace) -> list[list[str]]:
    """Exported models in ONNX Runtime, one thread: latency, memory of a run, difference from PyTorch."""
    import numpy as np
    import onnxruntime

    def session(file: str) -> Callable[[Any], list[Any]]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        providers = ["CUDAExecutionProvider"] if args.device == "cuda" else ["CPUExecutionProvider"]
        loaded = onnxruntime.InferenceSession(file, options, providers=providers)
        if loaded.get_providers()[0] != providers[0]:  # ONNX Runtime falls back to the CPU with a mere warning
            raise RuntimeError(f"ONNX Runtime {onnxruntime.__version__} runs on {loaded.get_providers()}, not on CUDA")
        return lambda x: loaded.run(None, {loaded.get_inputs()[0].name: x})

    x = np.random.default_rng(0).random((1, 3, args.imgsz, args.imgsz), dtype=np.float32)
    if args.here:
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        session(args.here[0])(x)
        print("RESULT", resident("VmHWM") - before)
        raise SystemExit
    rows = [
        [
            "model",
            "blocks",
            "ms",
            "ratio",
            "MiB of main memory, weights and run",
            "ratio",
            "largest difference, share of the largest value",
        ]
    ]
    for scale in args.scale:
        with tempfile.TemporaryDirectory() as folder:
            files, off = {}, {}
            for number, case in enumerate(args.cases):
                yolo, weights = YOLO(f"yolov8{scale}-seg.yaml"), Path(folder) / f"{number}.pt"
                yolo.model = model_of(scale, case)
                yolo.model.task = "segment"
                yolo.save(weights)
                files[case] = YOLO(weights).export(format="onnx", imgsz=args.imgsz, verbose=False)
                with torch.inference_mode():
                    wanted = YOLO(weights).model.eval()(torch.from_numpy(x))[0]  # saved in 16 bits, read in 32
                wanted = [w.numpy() for w in (wanted if isinstance(wanted, tuple) else [wanted])]
                found = {f.shape: f for f in session(files[case])(x)}
                off[case] = max(float(np.abs(found[w.shape] - w).max() / np.abs(w).max()) for w in wanted)
            runs = {case: session(file) for case, file in files.items()}
            works: dict[str, Callable[[], object]] = {case: partial(run, x) for case, run in runs.items()}
            took = take_turns(works, args.rounds, args.device)
            words = ["--imgsz", args.imgsz, "--device", args.device]
            mb = {case: in_fresh_process("onnx", file, *words) for case, file in files.items()}
        for case in args.cases:
            time_taken = [ms(took[case]), f"{ratio(took[case], took['plain']):.3f}"]
            memory = [f"{mb[case]:.0f}", f"{mb[case] / mb['plain']:.3f}"]
            rows.append([f"yolov8{scale}-seg", case, *time_taken, *memory, f"{off[case]:.1e}"])
            save(rows, args)
    return rows


def bench_sizes(args: argparse.Namespace) -> list[list[str]]:
    """Inference at several sizes, each against the model without blocks."""
    sides = [320, 640, 1280, 1920]
    rows = [["model", "blocks", *(f"{side} px" for side in sides)]]
    for scale in args.scale:
        models = {case: model_of(scale, case).eval().fuse(verbose=False).to(args.device) for case in args.cases}
        ratios: dict[str, list[str]] = {case: [] for case in args.cases}
        for side in sides:
            x = torch.rand(1, 3, side, side, device=args.device)
            with torch.inference_mode():
                works = {case: partial(model, x) for case, model in models.items()}
                took = take_turns(works, args.rounds if side <= 640 else max(args.rounds // 3, 3), args.device)
            for case, times in took.items():
                ratios[case].append(f"{ratio(times, took['plain']):.2f}")
        rows += [[f"yolov8{scale}-seg", case, *values] for case, values in ratios.items()]
    return rows


def bench_loading(args: argparse.Namespace) -> list[list[str]]:
    """Training pictures with mosaic and all augmentations, as they are and darkened: what one core makes of them."""
    data, works = check_det_dataset(args.data), {}
    for preset in (None, "mild", "severe"):
        settings = {"task": "segment", "imgsz": args.imgsz, "lowlight": preset, "mosaic": 1.0}
        made = build_yolo_dataset(get_cfg(overrides=settings), data["train"], 4, data, mode="train", rect=False)
        pictures = itertools.cycle(range(len(made)))
        works[preset or "as it is"] = lambda made=made, pictures=pictures: made[next(pictures)]
    took = take_turns(works, 20 * args.rounds, "cpu")
    rows = [["pictures", "ms", "ratio", "a second, one core"]]
    for name, times in took.items():
        rows.append([name, ms(times), f"{ratio(times, took['as it is']):.2f}", f"{1 / statistics.median(times):.0f}"])
    return rows


def save(rows: list[list[str]], args: argparse.Namespace) -> str:
    """Print the last row, write all rows so far with device and versions, and return what the Markdown file holds."""
    origin = {
        "command": shlex.join(["python", "scripts/benchmark.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name(0) if args.device == "cuda" else f"CPU, one thread of {os.cpu_count()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ultralytics": ultralytics_version,
        **({"usual block": type(usual(8, "dot_product")).__module__} if args.task == "block" else {}),
        "date": time.strftime("%Y-%m-%d"),
    }
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, f"|{'---|' * len(rows[0])}")
    text = "\n".join([*lines, "", *(f"- {key}: {value}" for key, value in origin.items())])
    args.out.mkdir(parents=True, exist_ok=True)
    usual_batch = 4 if args.task == "training" else 1
    changes = [f"-batch{args.batch}"] * (args.batch != usual_batch) + ["-fp16"] * args.half
    name = f"{args.task}-{args.device}-{''.join(args.scale)}-{args.imgsz}{''.join(changes)}"
    (args.out / f"{name}.md").write_text(f"{text}\n", encoding="utf-8")
    (args.out / f"{name}.json").write_text(json.dumps({**origin, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    print(rows[-1], flush=True)
    return text


BENCHES = {
    "block": bench_block,
    "inference": bench_inference,
    "training": bench_training,
    "onnx": bench_onnx,
    "sizes": bench_sizes,
    "loading": bench_loading,
}


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    """Read the command line, or the words of one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=BENCHES)
    parser.add_argument("--scale", nargs="+", default=["n"])
    cases = [*MODELS, *WITH_DENOISE]
    parser.add_argument("--cases", nargs="+", default=[*MODELS], choices=cases, metavar="CASE", help=", ".join(cases))
    parser.add_argument("--stages", nargs="+", default=[*STAGES], choices=[*STAGES])
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, help="pictures at once; default 4 for training, 1 for inference")
    parser.add_argument("--half", action="store_true", help="inference in fp16, on CUDA")
    parser.add_argument("--data", default="coco8-seg.yaml", help="whose pictures are loaded")
    parser.add_argument("--rounds", type=int, default=9, help="of taking turns; 0 for memory alone (training)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--out", type=Path, default=Path("docs/results/benchmark"))
    parser.add_argument("--here", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args(words)
    if args.half and (args.task != "inference" or args.device != "cuda"):
        parser.error("--half is for inference on CUDA")
    if args.task != "training" and {*WITH_DENOISE} & {*args.cases}:
        parser.error(f"{', '.join(WITH_DENOISE)} are for training: prediction is that of the plain model")
    args.batch = args.batch or (4 if args.task == "training" else 1)
    if "plain" not in args.cases and not args.here:
        args.cases = ["plain", *args.cases]
    return args


def main() -> None:
    """Run one benchmark, print its table, write it."""
    args = read_arguments()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(save(BENCHES[args.task](args), args))


if __name__ == "__main__":
    main()
