"""The commands about the installation: doctor, completion."""

from __future__ import annotations

from typing import Any

from yolo_wnlb.commands.register import COMMANDS, command
from yolo_wnlb.terminal import completion
from yolo_wnlb.terminal.arguments import Option, text


@command(
    "doctor",
    "Examine the installation, and say what to do about each problem.",
    example="yolo-wnlb doctor",
    about="Exit status 1 if there is one.",
)
def run_doctor(files: list[str], options: dict[str, Any]) -> int:
    """Print the state of the installation; 1 if something needs mending."""
    from yolo_wnlb.doctor import examine

    findings = examine()
    print("\n".join(map(str, findings)))
    return int(any(finding.problem for finding in findings))


@command(
    "completion",
    "Print the script that completes commands in a shell.",
    files="bash|zsh|fish",
    count=(0, 1),
    example='eval "$(yolo-wnlb completion bash)"',
    about='Put the example into ~/.bashrc, or: eval "$(yolo-wnlb completion zsh)" into ~/.zshrc, '
    "yolo-wnlb completion fish | source into ~/.config/fish/config.fish.",
    options=[Option("line", text("TEXT"), "print what the last word of a line may become; the scripts ask for it")],
)
def run_completion(files: list[str], options: dict[str, Any]) -> int:
    """Print the script of a shell, or the candidates that such a script asks for."""
    if "line" in options:
        for word, meaning in completion.candidates(options["line"], COMMANDS):
            print(f"{word}\t{meaning}".rstrip())
        return 0
    if not files or files[0] not in completion.SCRIPTS:
        raise ValueError(f"wants a shell, found {files}; choose from {', '.join(completion.SCRIPTS)}")
    print(completion.SCRIPTS[files[0]].strip())
    return 0
