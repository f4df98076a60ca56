"""Processes that darken shards, or all, of a tiny data set into one folder at the same moment.

`python tests/stress_shards.py [ROUNDS]` prints, for each mixture of runs, how many of them were refused, how
many twins were incomplete when all had ended, and how many another run did not mend.
"""

import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import ultralytics.data.utils  # noqa: F401 - once, before the forks

from yolo_wnlb import darken_dataset, verify


def run_all(source, out, jobs, spread):
    """Fork a process for each job; return what they end with."""
    pipes = {}
    for job in jobs:
        reads, writes = os.pipe()
        child = os.fork()
        if child == 0:
            time.sleep(random.random() * spread)
            try:
                darken_dataset(source, out, workers=1, preset="severe", **job)
                told = ""
            except BaseException as error:
                told = f"{type(error).__name__}: {error}"
            os.write(writes, told.encode()[:500])
            os._exit(0)
        os.close(writes)
        pipes[child] = reads
    results = []
    for child, reads in pipes.items():
        os.waitpid(child, 0)
        results.append(os.read(reads, 500).decode())
        os.close(reads)
    return results


def stress(title, jobs, rounds, spread, folder):
    """Do it several times, and print what went wrong."""
    source, out = folder / "source", folder / "out"
    refused, incomplete, not_mended = [], 0, 0
    for _ in range(rounds):
        shutil.rmtree(out, ignore_errors=True)
        refused += [told for told in run_all(source, out, jobs, spread) if told]
        incomplete += not (out / "manifest.jsonl").exists() or (out / ".darken").exists()
        darken_dataset(source, out, workers=1, preset="severe")
        not_mended += not verify(out).ok
    counts = f"{len(refused)} refused, {incomplete} incomplete, {not_mended} not mended"
    print(f"== {title}, {rounds} rounds: {counts}", *sorted(set(refused)), sep="\n   ", flush=True)


def shards(number):
    return [{"shard": f"{part}/{number}"} for part in range(1, number + 1)]


rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 60
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    (folder / "source").mkdir()
    for i in range(16):
        noise = np.random.default_rng(i).integers(0, 255, (16, 16, 3), np.uint8)
        cv2.imwrite(str(folder / f"source/{i}.png"), noise)
    stress("8 shards at the same moment", shards(8), rounds, 0, folder)
    stress("8 shards within 60 ms", shards(8), rounds, 0.06, folder)
    stress("3 whole runs within 100 ms", [{}] * 3, rounds, 0.1, folder)
    stress("2 shards, each started twice within 60 ms", shards(2) * 2, rounds, 0.06, folder)
    stress("4 shards and 2 whole runs within 80 ms", [*shards(4), {}, {}], rounds, 0.08, folder)
