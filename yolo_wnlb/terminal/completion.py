"""Complete a command line in bash, zsh and fish: the shells ask, the table of options answers."""

from __future__ import annotations

from collections.abc import Iterator

from yolo_wnlb.terminal.arguments import Command, Kind

FILES = ":files"  # the line that has a shell propose files

# Each script hands the line up to the cursor to `yolo-wnlb completion line=...`, which prints one candidate per line,
# with its meaning behind a tab.
SCRIPTS = {
    "bash": r"""
_yolo_wnlb() {
    local line="${COMP_LINE:0:COMP_POINT}" current="${COMP_WORDS[COMP_CWORD]}" word meaning file key=
    [[ $current == "=" ]] && current=
    local typed="${line##*[[:space:]]}"
    local before="${typed%"$current"}"  # bash replaces only what stands behind the last "="
    COMPREPLY=()
    while IFS=$'\t' read -r word meaning; do
        if [[ $word == :files ]]; then
            [[ $current == *=* ]] && key="${current%%=*}="
            while IFS= read -r file; do
                [[ -d $file ]] && file+=/
                COMPREPLY+=("$key$(printf %q "$file")")
            done < <(compgen -f -- "${current#"$key"}")
        else
            COMPREPLY+=("${word#"$before"}")
        fi
    done < <("${COMP_WORDS[0]}" completion line="$line" 2>/dev/null)
    [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *[=/] ]] && compopt -o nospace
    return 0
}
complete -F _yolo_wnlb yolo-wnlb
""",
    "zsh": r"""
#compdef yolo-wnlb
_yolo_wnlb() {
    local word meaning
    local -a finished unfinished
    local files=
    while IFS=$'\t' read -r word meaning; do
        case $word in
            :files) files=1 ;;
            *=) unfinished+=("${word//:/\\:}:$meaning") ;;
            *) finished+=("${word//:/\\:}:$meaning") ;;
        esac
    done < <("${words[1]}" completion line="${(j: :)words[1,CURRENT-1]} $PREFIX" 2>/dev/null)
    (( $#unfinished )) && _describe argument unfinished -S ''
    (( $#finished )) && _describe argument finished
    if [[ -n $files ]]; then
        compset -P '*='
        _files
    fi
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -u; }
compdef _yolo_wnlb yolo-wnlb
""",
    "fish": r"""
function __yolo_wnlb
    set -l typed (commandline -ct)
    set -l program (commandline -op)[1]
    for line in ($program completion line=(commandline -cp | string collect) 2>/dev/null)
        if test "$line" = :files
            set -l key (string match -r '^[^=]*=' -- $typed)
            for file in (__fish_complete_path (string replace -r '^[^=]*=' '' -- $typed))
                echo -- "$key$file"
            end
        else
            echo -- $line
        end
    end
end
complete -c yolo-wnlb -f -a '(__yolo_wnlb)'
""",
}


def candidates(line: str, commands: dict[str, Command]) -> Iterator[tuple[str, str]]:
    """Yield what the last word of a line may become, each with its meaning; FILES has the shell propose files.

    A word that needs a value ends in "=".
    """
    *before, current = line.split(" ")[1:] or [""]
    before = [word for word in before if word]
    if not before:
        offers = {**{name: command.summary for name, command in commands.items()}, "help": "Explain a command."}
        yield from starting(current, {**offers, "--help": "Show all commands.", "--version": "Name the release."})
        return
    if before[0] == "help":
        yield from starting(current, {name: command.summary for name, command in commands.items()})
        return
    if before[0] not in commands:
        return
    command = commands[before[0]]
    last = command.options.get(before[-1][2:].replace("-", "_")) if before[-1].startswith("--") else None
    if last and last.kind.placeholder and "=" not in before[-1]:  # --key VALUE
        yield from values_of(last.kind, "", current)
        return
    key, equals, value = current.partition("=")
    option = command.options.get(key.removeprefix("--").replace("-", "_"))
    if equals:
        if option:
            yield from values_of(option.kind, f"{key}=", value)
        elif key in command.file_keys:
            yield FILES, ""
        return
    used = {word.partition("=")[0].removeprefix("--").replace("-", "_") for word in before}
    dashes = "--" if current.startswith("-") else ""
    offers = {}
    for option in command.options.values():
        if option.name not in used:
            name = option.name.replace("_", "-") if dashes or not option.kind.placeholder else option.name
            offers[f"{dashes}{name}=" if option.kind.placeholder else f"--{name}"] = option.help
    yield from starting(current, offers)
    if not dashes and command.count[1]:
        yield FILES, ""


def values_of(kind: Kind, key: str, value: str) -> Iterator[tuple[str, str]]:
    """Yield the values of an option, behind the key and behind those of a list that stand there already."""
    if kind.files:
        yield FILES, ""
    head, comma, _ = value.rpartition(",")
    yield from starting(key + value, {f"{key}{head}{comma}{known}": "" for known in kind.values})


def starting(word: str, offers: dict[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the offers that begin with a word."""
    yield from ((offer, meaning) for offer, meaning in offers.items() if offer.startswith(word))
