"""Work in several processes, which end with the process that started them and run no code from the current folder.

A worker is a bare interpreter (`python -I -S`) that takes over the import path of its parent without the current
folder, then answers one question at a time over its standard input and output. `multiprocessing` does not serve: its
children, and the process that watches over its resources, import from the current folder before any code of ours
runs, and they run the user's script once more.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any, TypeVar

import yolo_wnlb

T = TypeVar("T")
R = TypeVar("R")

START = """
import sys, importlib.util
sys.path[:] = sys.argv[2:]
spec = importlib.util.spec_from_file_location("yolo_wnlb", sys.argv[1])
sys.modules["yolo_wnlb"] = package = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from yolo_wnlb.twins.workers import answer
answer()
"""


def in_processes(work: Callable[[T], R], items: Sequence[T], workers: int) -> Generator[R, None, None]:
    """Yield `work(item)` for all items as they are done, in any order.

    Args:
        work: A function that can be pickled, or a `functools.partial` of one.
        items: What can be pickled.
        workers: Number of processes; with 1, or a single item, the work is done in this one.
    Raises: ChildProcessError: a process died. What `work` raises, too. All workers are gone then, also after Ctrl-C.
    """
    workers = min(workers, len(items))
    if workers <= 1:
        yield from map(work, items)
        return
    idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
    crew: list[Worker] = []
    pool = ThreadPoolExecutor(workers)

    def ask(item: T) -> R:
        worker = idle.get()
        try:
            return worker.ask(item)
        finally:
            idle.put(worker)

    waiting: set[Future[R]] = set()
    try:
        for _ in range(workers):
            crew.append(Worker(work))
            idle.put(crew[-1])
        for item in items:
            waiting.add(pool.submit(ask, item))
            if len(waiting) == 4 * workers:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        for worker in crew:
            worker.process.kill()
        pool.shutdown(cancel_futures=True)
        for worker in crew:
            worker.close()


def processors() -> int:
    """Count the processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """A process that answers questions, one at a time."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        places = [place for place in sys.path if os.path.realpath(place) != os.path.realpath(os.curdir)]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", START, yolo_wnlb.__file__, *places],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent to answer
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self.work: Callable[[Any], Any] | None = work

    def ask(self, item: Any) -> Any:
        """Return what the work gives for an item, or raise what it raises."""
        assert self.process.stdin and self.process.stdout
        try:
            if self.work:
                pickle.dump(self.work, self.process.stdin)
                self.work = None
            pickle.dump(item, self.process.stdin)
            self.process.stdin.flush()
            result, error, trace = pickle.load(self.process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as lost:
            raise ChildProcessError(
                f"a worker process died at {item}; was memory short? Nothing is lost: run the same command again, "
                "with fewer workers="
            ) from lost
        if error:
            raise error from RuntimeError(f"in a worker process:\n{trace}")
        return result

    def close(self) -> None:
        """Let go of a process that was killed."""
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # what could not be sent any more
                stream.close()  # type: ignore[union-attr]


def answer() -> None:
    """Answer the questions of the parent until it is gone; this is all that a worker does."""
    import traceback

    import cv2

    cv2.setNumThreads(1)
    questions, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    with suppress(EOFError, BrokenPipeError):
        work = pickle.load(questions)
        while True:
            item = pickle.load(questions)
            try:
                result: tuple[Any, Exception | None, str] = (work(item), None, "")
            except Exception as error:
                result = (None, error, traceback.format_exc())
            pickle.dump(result, answers)
            answers.flush()
