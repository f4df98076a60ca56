"""The program `yolo-wnlb`: it finds the command that the user named, runs it, and turns what went wrong into a line.

Exit statuses: 0, or 1 for a check that failed; 2 for the user's mistake, answered with one line; 70 for a bug, shown
with its traceback (`terminal.mistakes` tells the two apart); 130 after Ctrl-C; 141 if nobody reads the output any more.
"""

from __future__ import annotations

import importlib
import shlex
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

from yolo_wnlb.commands.register import COMMANDS
from yolo_wnlb.terminal import mistakes, streams
from yolo_wnlb.terminal.arguments import explain, overview, parse
from yolo_wnlb.version import __version__
from yolo_wnlb.words import suggestion

ISSUES = "https://github.com/yolo-wnlb/yolo-wnlb/issues"
OF_YOLO = ("train", "val", "predict", "track", "export", "benchmark")  # commands that stay with Ultralytics

for module in ("pictures", "models", "evaluation", "studies", "watch", "installation"):  # the order of the overview
    importlib.import_module(f"yolo_wnlb.commands.{module}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    streams.make_usable()
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = COMMANDS.get(words[0]) if words else None
    name = f"yolo-wnlb {command.name}" if command else "yolo-wnlb"
    try:
        with streams.without_library_warnings():
            status = run(words)
        streams.finish(sys.stdout)
        return status
    except KeyboardInterrupt:
        resumes = "; nothing is lost, the same command goes on from here" if command and command.resumes else ""
        streams.say(f"{name}: stopped{resumes}", fresh_line=True)
        return mistakes.STOPPED
    except BrokenPipeError:  # `| head -1` has read enough
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):
                streams.finish(stream)
        return mistakes.PIPE_CLOSED
    except Exception as error:
        if mistakes.is_mistake(error):
            streams.say(f"{name}: {mistakes.message(error, shlex.join(['yolo-wnlb', *words]))}")
            return mistakes.MISTAKE
        streams.say(traceback.format_exc().rstrip())
        streams.say(f"{name}: this is a bug in yolo_wnlb; report the lines above, and what doctor prints, at {ISSUES}")
        return mistakes.BUG


def run(words: list[str]) -> int:
    """Find the command and run it, or print the help that was asked for."""
    if not words or words[0] == "--version":
        print(f"yolo-wnlb {__version__}" if words else overview(COMMANDS))
        return 0
    plain = words[: words.index("--")] if "--" in words else words
    asks = {"-h", "--help"} & {*plain} or words[0] == "help"
    names = [word for word in plain if word not in ("-h", "--help", "help")]
    if asks and not names:
        print(overview(COMMANDS))
        return 0
    name = names[0] if asks else words[0]
    if name not in COMMANDS:
        elsewhere = f"; that is a command of yolo: yolo {name}" if name in OF_YOLO else ""
        raise ValueError(
            f"no command {name!r}{elsewhere or suggestion(name, COMMANDS)}; choose from {', '.join(COMMANDS)}; "
            "yolo-wnlb --help explains them"
        )
    if asks:
        print(explain(COMMANDS[name]))
        return 0
    return COMMANDS[name].run(*parse(words[1:], COMMANDS[name]))
