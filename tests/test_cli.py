"""The command line: the tables of options, what is typed and read, help, completion, exit statuses, terminals."""

import dataclasses
import inspect
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import run_python

import yolo_wnlb
import yolo_wnlb.calibrate.calibrate
import yolo_wnlb.report.report
import yolo_wnlb.watch.watch
from yolo_wnlb import cli
from yolo_wnlb.commands import models, register
from yolo_wnlb.commands import options as shared
from yolo_wnlb.imaging import bounds, camera
from yolo_wnlb.terminal import arguments, completion, mistakes

PROGRAM = "import sys; from yolo_wnlb.cli import main; sys.exit(main(sys.argv[1:]))"
on_unix = pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")


# ---- the tables say what the functions take ----------------------------------------------------------

RENAMED = {"with": "other"}  # option -> argument
TABLES = {  # command -> the function that it calls, and options that are the command's own
    "export-check": (yolo_wnlb.check_export, {"data", "split", "keep", "allow_missing"}),
    "darken": (yolo_wnlb.darken_dataset, {"out", "verify", *(option.name for option in shared.CAMERA)}),
    "preview": (yolo_wnlb.preview, {"preset", "presets", "say", *(option.name for option in shared.CAMERA)}),
    "enhance": (yolo_wnlb.enhance_dataset, {"out", "with"}),
    "inspect": (yolo_wnlb.inspect_model, set()),
    "compare": (yolo_wnlb.compare, {"out"}),
    "corrupt": (yolo_wnlb.enhance_dataset, {"out", "with", "clean"}),
    "robustness": (yolo_wnlb.robustness, {"data"}),
    "calibrate": (yolo_wnlb.calibrate.calibrate.calibrate, set()),
    "report": (yolo_wnlb.report.report.report, {"data", "command"}),
    "watch": (yolo_wnlb.watch.watch.watch, {"model"}),
    "graft": (yolo_wnlb.WNLB, {"after", "out", "exist_ok", *models.SCENE_WORDS}),
}


@pytest.mark.parametrize("name", TABLES)
def test_the_table_of_a_command_has_the_options_and_defaults_of_its_function(name):
    function, own = TABLES[name]
    keywords = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    takes = {
        key: p.default
        for key, p in inspect.signature(function).parameters.items()
        if p.kind in keywords and p.default is not inspect.Parameter.empty
    }
    takes = {key: default for key, default in takes.items() if key not in ("sources", "presets")}
    table = {RENAMED.get(option.name, option.name): option for option in register.COMMANDS[name].options.values()}
    assert table.keys() - {RENAMED.get(key, key) for key in own} == takes.keys() - own
    assert {key: table[key].default for key in takes if key in table} == {k: v for k, v in takes.items() if k in table}


def test_the_settings_of_the_camera_are_those_that_there_are():
    options = {option.name: option.kind.values for option in shared.CAMERA}
    assert options.keys() == {field.name for field in dataclasses.fields(camera.Settings)}
    assert {name: options[name] for name in bounds.CHOICES} == bounds.CHOICES
    assert options["bayer"] == ("random", *bounds.BAYER, "mono", "none")
    assert set(shared.PRESETS) == set(camera.PRESETS)


def test_help_says_wherever_presets_are_proposed_which_do_not_darken_and_that_a_camera_will_do():
    proposing = [
        option
        for command in register.COMMANDS.values()
        for option in command.options.values()
        if "n10" in option.kind.values and option.help != "the same as presets="
    ]
    assert {option.name for option in proposing} == {"preset", "presets", "lowlight"}
    for option in proposing:
        assert ".yaml of yolo-wnlb calibrate; n10 and n20: as bright as it is" in option.help


def test_the_corruptions_and_families_proposed_are_those_that_there_are():
    from yolo_wnlb.imaging import corruptions
    from yolo_wnlb.study import suite

    assert {*shared.CORRUPTIONS, "boxblur"} == {*corruptions.CORRUPTIONS}
    assert tuple(suite.FAMILIES) == shared.FAMILIES
    assert {*register.COMMANDS["robustness"].options["suite"].kind.values} >= {*suite.FAMILIES}
    assert register.COMMANDS["robustness"].options["preset"].kind.values == suite.DARKNESS
    assert set(suite.DARKNESS) <= set(camera.PRESETS)


def test_the_pairwise_functions_and_starts_proposed_are_those_that_there_are():
    from yolo_wnlb.wnlb import INITS, OPERATIONS

    options = register.COMMANDS["graft"].options
    assert (options["operation"].kind.values, options["init"].kind.values) == (tuple(OPERATIONS), tuple(INITS))


# ---- reading words -----------------------------------------------------------------------------------

READ = [  # words, files, options
    ("a.yaml out=x", ["a.yaml"], {"out": "x"}),
    ("a.yaml --out x --seed=3 --limit 2", ["a.yaml"], {"out": "x", "seed": 3, "limit": 2}),
    ("--dry-run a.yaml dry_run=True", None, "dry_run= is given twice"),
    ("--dry-run a.yaml --verify=false", ["a.yaml"], {"dry_run": True, "verify": False}),
    ("dry_run --gamma 2,3 a.yaml --crf gamma:2.2 --shard=1/3", ["a.yaml"], "spelt"),
    ("data=a.yaml source=b.yaml out=x", ["a.yaml", "b.yaml"], {"out": "x"}),
    ("gamma=2,3 ev=none crf=0.9,0.4 sigma_s=1e-2 bayer=none", [], "own"),
    ("--ev -3,-2 crf=dorf:a,b.txt", [], {"ev": [-3, -2], "crf": "dorf:a,b.txt"}),
    ("jpeg_quality=60,90 out=a,b=c", [], {"jpeg_quality": [60, 90], "out": "a,b=c"}),
    ("-- --out=x", ["--out=x"], {}),
    ("./a=b.yaml", ["./a=b.yaml"], {}),
    ("there=1/a.yaml", ["there=1/a.yaml"], {}),  # a folder of that name is here
    ("workers=none limit=None", [], {}),  # as if they were not given
    ("seed=none", None, "seed=none: wanted a whole number, 0 or more"),
    ("seed=64.5", None, "seed=64.5: wanted a whole number, 0 or more"),
    ("workers=0", None, "workers=0: wanted a whole number, 1 or more"),
    ("limit=99999999999999999999e9", None, "limit=99999999999999999999e9: wanted a whole number"),
    ("gamma=1,2,3", None, "gamma=1,2,3: wanted a number, or two of them: low,high"),
    ("gamma=nan", None, "gamma=nan: wanted a number"),
    ("alpha=2", None, "alpha=2: wanted a number from 0 to 1"),
    ("order=papre", None, "order=papre: wanted one of sensor, paper (did you mean 'paper'?)"),
    ("dry_run=yes", None, "dry_run=yes: wanted True or False"),
    ("gama=2", None, "no option gama (did you mean 'gamma'?); choose from out, preset"),
    ("--gama 2", None, "no option --gama (did you mean '--gamma'?)"),
    ("dat=a.yaml", None, "(did you mean 'data'?)"),
    ("model=a.yaml", None, "darken takes SOURCE [SOURCE ...] without a key: yolo-wnlb darken"),
    ("-v", None, "no option -v"),
    ("out= x", None, "'out=' is no key=value; write out=value, without spaces"),
    ("out =x", None, "'out' lacks its value; write out=value, without spaces around '='"),
    ("a.yaml =x", None, "'=x' is no key=value"),
    ("a.yaml out=x severe", None, "'severe' is no file; did you mean preset=severe?"),
    ("a.yaml preset severe out=x", None, "'preset' lacks its value; write preset=value"),
    ("a.yaml --out", None, "--out has no value"),
    ("--out --verify", None, "--out has no value"),
    ("out=a out=b", None, "out= is given twice"),
]


@pytest.mark.parametrize(("words", "files", "options"), READ, ids=[row[0] for row in READ])
def test_words_are_read_or_refused_with_what_was_wanted(words, files, options, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there=1").mkdir()
    (tmp_path / "there=1/a.yaml").touch()
    if files is None:
        with pytest.raises(ValueError) as caught:
            arguments.parse(shlex.split(words), register.COMMANDS["darken"])
        assert options in str(caught.value)
        return
    options = {
        "own": {"gamma": [2, 3], "ev": None, "crf": [0.9, 0.4], "sigma_s": 0.01, "bayer": None},
        "spelt": {"dry_run": True, "gamma": [2, 3], "crf": "gamma:2.2", "shard": "1/3"},
    }.get(str(options), options)
    assert arguments.parse(shlex.split(words), register.COMMANDS["darken"]) == (files, options)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("x.yaml after=P4", {"after": ["P4"]}),
        ("x.yaml after=P4,10", {"after": ["P4", 10]}),
        ("x.yaml sub_sample=8,4,2 w_lr=10 weighted=False", {"sub_sample": [8, 4, 2], "w_lr": 10, "weighted": False}),
        ("model=x.yaml scale=none embed_dim=none", {"scale": None}),
    ],
)
def test_options_of_blocks_keep_their_types(words, options):
    files, read = arguments.parse(shlex.split(words), register.COMMANDS["graft"])
    assert (files, read) == (["x.yaml"], options)
    assert [type(value) for value in read.values()] == [type(value) for value in options.values()]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("evaluate", "wants MODEL|PREDICTIONS.jsonl and data=DATA.yaml|TRUTH.json, found no file and no data="),
        ("evaluate best.pt daat=x", "no option daat (did you mean 'data'?)"),
        ("export-check best.pt", "found ['best.pt']; for example: yolo-wnlb export-check best.pt best.onnx"),
        ("inspect best.pt at=3", "at=3: wanted two numbers: x,y"),
        ("doctor here", "doctor: wants no file, found ['here']"),
        ("doctor verbose=1", "no option verbose; doctor takes none"),
        ("trian", "no command 'trian'; choose from darken, preview"),
        ("prevew", "no command 'prevew' (did you mean 'preview'?)"),
        ("help prevew", "no command 'prevew' (did you mean 'preview'?)"),
        ("completion tcsh", "wants a shell, found ['tcsh']; choose from bash, zsh, fish"),
    ],
)
def test_a_mistake_in_the_words_is_one_line_and_status_2(words, message, capsys):
    assert cli.main(shlex.split(words)) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and err.startswith("yolo-wnlb") and not out


def test_a_command_is_added_with_its_table_and_a_function(monkeypatch, capsys):
    commands = dict(register.COMMANDS)
    monkeypatch.setattr(cli, "COMMANDS", commands)
    monkeypatch.setattr(register, "COMMANDS", commands)

    @register.command(
        "blink",
        "Count pictures.",
        files="FOLDER",
        count=(1, 1),
        example="yolo-wnlb blink night/ times=3",
        options=[arguments.Option("times", arguments.whole(1), "how often", 2)],
    )
    def run_blink(files, options):
        return register.show((files, options.get("times", 2)))

    assert cli.main(["blink", "night", "times=3"]) == 0 and "(['night'], 3)" in capsys.readouterr().out
    assert cli.main(["blink", "--help"]) == 0 and "how often (default: 2)" in capsys.readouterr().out
    assert cli.main(["--help"]) == 0 and "Count pictures." in capsys.readouterr().out
    assert ("times=", "how often") in completion.candidates("yolo-wnlb blink t", register.COMMANDS)


# ---- help --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", register.COMMANDS)
def test_the_help_of_a_command_names_each_option_with_its_default_and_an_example(name, capsys):
    command = register.COMMANDS[name]
    for words in ([name, "--help"], [name, "-h"], ["help", name], [name, "x.pt", "imgsz=3", "--help"]):
        assert cli.main(words) == 0
        text, err = capsys.readouterr()
        assert text == arguments.explain(command) + "\n" and not err
    assert text.startswith(f"yolo-wnlb {name}") and text.rstrip().endswith(command.example)
    flat = " ".join(text.split())
    for option in command.options.values():
        assert f"{option.word} {option.help}" in flat
        if option.default is not None and option.default is not False:
            assert arguments.remark(option).strip() in flat
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("name", [name for name in register.COMMANDS if name != "completion"])
def test_the_example_of_a_command_can_be_read(name):
    program, command, *words = shlex.split(register.COMMANDS[name].example)
    assert (program, command) == ("yolo-wnlb", name)
    arguments.parse(words, register.COMMANDS[name])


def test_the_number_of_a_camera_is_no_forgotten_option():
    for word in ("0", "1"):
        assert arguments.parse([word, "model=best.pt"], register.COMMANDS["watch"]) == ([word], {"model": "best.pt"})
    with pytest.raises(ValueError, match="'0' is no file; did you mean device=0"):
        arguments.parse(["0", "data=my.yaml"], register.COMMANDS["evaluate"])


def test_the_overview_is_short_and_lists_every_command(capsys):
    for words in ([], ["help"], ["--help"], ["-h"]):
        assert cli.main(words) == 0
        text = capsys.readouterr().out
        assert text == arguments.overview(register.COMMANDS) + "\n" and len(text.splitlines()) < 40
    assert all(f"  {name}" in text for name in register.COMMANDS)
    assert cli.main(["--version"]) == 0 and capsys.readouterr().out == f"yolo-wnlb {yolo_wnlb.__version__}\n"


def test_help_and_completion_load_no_library(tmp_path):
    code = """
import sys
from yolo_wnlb.cli import COMMANDS, main
for name in COMMANDS:
    assert main([name, "--help"]) == 0
assert main(["--help"]) == main(["completion", "line=yolo-wnlb darken pre"]) == 0
print("heavy", sorted({"torch", "ultralytics", "numpy", "cv2", "yaml", "PIL"} & {*sys.modules}))
"""
    run = run_python(code, tmp_path)
    assert run.stdout.splitlines()[-1:] == ["heavy []"], run.stderr


# ---- completion --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "candidates"),
    [
        ("yolo-wnlb da", ["darken"]),
        ("yolo-wnlb --v", ["--version"]),
        ("yolo-wnlb help exp", ["export-check"]),
        ("yolo-wnlb darken pre", ["preset=", ":files"]),
        ("yolo-wnlb darken preset=mild pre", [":files"]),
        ("yolo-wnlb darken preset=se", ["preset=severe"]),
        ("yolo-wnlb darken --preset se", ["severe"]),
        ("yolo-wnlb preview presets=mild,mo", ["presets=mild,moderate"]),
        ("yolo-wnlb darken --dry", ["--dry-run"]),
        ("yolo-wnlb darken --jp", ["--jpeg-quality="]),
        ("yolo-wnlb darken out=", [":files"]),
        ("yolo-wnlb enhance source=", [":files"]),
        ("yolo-wnlb graft operation=dot", ["operation=dot_product"]),
        ("yolo-wnlb graft weighted=", ["weighted=True", "weighted=False"]),
        ("yolo-wnlb nonsense x", []),
        ("yolo-wnlb doctor ", []),
    ],
)
def test_the_last_word_is_completed(line, candidates):
    assert [word for word, _ in completion.candidates(line, register.COMMANDS)] == candidates


@on_unix
def test_bash_completes_commands_options_values_and_files(tmp_path):
    """The lines are typed into an interactive bash, each with a tab, and echoed by it as they were completed."""
    import pty

    (tmp_path / "night photos").mkdir()
    (tmp_path / "yolo-wnlb").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{PROGRAM}" "$@"\n')
    (tmp_path / "yolo-wnlb").chmod(0o755)
    typed = {
        "yolo-wnlb exp": "export-check",
        "yolo-wnlb darken pres": "preset=",
        "yolo-wnlb darken preset=sev": "preset=severe",
        "yolo-wnlb preview presets=mild,mod": "presets=mild,moderate",
        "yolo-wnlb darken --dr": "--dry-run",
        "yolo-wnlb darken out=nig": r"out=night\ photos/",
        "yolo-wnlb darken nig": r"night\ photos/",
    }
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PS1": "", "TERM": "dumb", "INPUTRC": os.devnull}
    master, slave = pty.openpty()
    bash = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"], stdin=slave, stdout=slave, stderr=slave, cwd=tmp_path, env=env
    )
    os.close(slave)
    try:
        os.write(master, b'eval "$(yolo-wnlb completion bash)"; echo rea""dy\n')
        read_until(master, b"ready\r\n")
        for line, completed in typed.items():
            os.write(master, line.encode() + b"\t")
            read_until(master, f"{line.rsplit(' ', 1)[0]} {completed}".encode())
            os.write(master, b"\x15echo rea''dy\n")  # Ctrl-U drops the line
            read_until(master, b"ready\r\n")
    finally:
        bash.kill()
        bash.wait()
        os.close(master)


def read_until(terminal, wanted, seconds=30):
    """Read from a terminal until it has shown something."""
    import select

    shown, end = b"", time.monotonic() + seconds
    while wanted not in shown:
        ready, _, _ = select.select([terminal], [], [], max(end - time.monotonic(), 0))
        assert ready, f"wanted {wanted!r} within {seconds} s, found {shown!r}"
        shown += os.read(terminal, 4096)
    return shown


@pytest.mark.parametrize(("shell", "check"), [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")])
def test_the_script_of_each_shell_can_be_read_by_it(shell, check, tmp_path):
    import shutil

    if not shutil.which(shell):
        pytest.skip(f"no {shell} here")
    (tmp_path / "script").write_text(completion.SCRIPTS[shell])
    run = subprocess.run([shell, check, tmp_path / "script"], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")


# ---- a mistake or a bug ------------------------------------------------------------------------------

OURS = {"__name__": "yolo_wnlb.twins.made_up", "__package__": "yolo_wnlb.twins"}
ENDINGS = [  # what our code does, exit status, what is said
    ("raise ValueError('gamma is 9; wanted 1 to 5')", 2, "gamma is 9; wanted 1 to 5"),
    ("raise TypeError('one file')", 2, "one file"),
    ("raise FileNotFoundError('there is no a.yaml')", 2, "there is no a.yaml"),
    ("raise MemoryError('25600 positions take 9 GiB')", 2, "25600 positions take 9 GiB"),
    ("raise ImportError('pip install onnx')", 2, "pip install onnx"),
    ("raise RuntimeError('this process cannot darken')", 2, "this process cannot darken"),
    ("raise FloatingPointError('the loss is nan')", 2, "the loss is nan"),
    ("try: int('x')\n except ValueError as e: raise ValueError('x is no number') from e", 2, "x is no number"),
    ("raise ValueError('two\\n  lines:\\nthree')", 2, "two lines: three"),
    ("raise ValueError('a\\nb.jpg\\x1b[31m is no picture')", 2, r"a\nb.jpg\x1b[31m is no picture"),
    ("open('gone.txt')", 2, "gone.txt: No such file or directory"),
    ("open('.')", 2, ".: "),
    ("raise OSError(28, 'No space left on device', 'dark/a.png')", 2, "dark/a.png: No space left on device"),
    (
        "import os; os.write(os.open('/dev/full', 1), b'x')",
        2,
        "No space left on device; it happened in yolo-wnlb doctor",
    ),
    ("import numpy; numpy.zeros(2**50)", 2, "not enough memory (Unable to allocate"),
    ("import no_such_package", 2, "No module named 'no_such_package'"),
    ("import torch; torch.load('gone.pt')", 2, "gone.pt: No such file"),
    ("from ultralytics.utils.torch_utils import select_device; select_device('7')", 2, "Invalid CUDA 'device=7'"),
    ("from ultralytics.utils import YAML; YAML.load('night.jpg')", 2, "Not a YAML file: night.jpg"),  # an assert
    ("1 / 0", 70, "ZeroDivisionError"),
    ("[][0]", 70, "IndexError"),
    ("{}['key']", 70, "KeyError"),
    ("None.name", 70, "AttributeError"),
    ("raise KeyError('key')", 70, "KeyError"),
    ("raise NotImplementedError", 70, "NotImplementedError"),
    ("assert False", 70, "AssertionError"),
    ("assert not 'a message of ours'[0], 'a message of ours'", 70, "AssertionError: a message of ours"),
    ("int('x')", 70, "ValueError: invalid literal"),
    ("b'\\xff'.decode()", 70, "UnicodeDecodeError"),
    ("def deeper(): deeper()\n deeper()", 70, "RecursionError"),
    ("import yolo_wnlb.no_such_module", 70, "ModuleNotFoundError"),
    ("import os; os.close(999)", 70, "Bad file descriptor"),
    ("import numpy; numpy.zeros(3).reshape(2)", 70, "ValueError: cannot reshape"),
    ("import numpy; numpy.stack([])", 70, "ValueError: need at least one array"),  # a `raise` in NumPy's own Python
    ("import torch; torch.zeros(2) @ torch.zeros(3)", 70, "RuntimeError"),
    ("import cv2; cv2.cvtColor(None, 0)", 70, "cv2.error"),
    ("try: int('x')\n except ValueError: raise", 70, "ValueError: invalid literal"),
]


@pytest.mark.parametrize(("code", "status", "said"), ENDINGS, ids=[row[0] for row in ENDINGS])
def test_what_our_checks_raise_is_a_mistake_and_what_fails_by_itself_is_a_bug(
    code, status, said, monkeypatch, capsys, tmp_path
):
    if "/dev/full" in code and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    monkeypatch.chdir(tmp_path)
    names = dict(OURS)
    exec("def run(files, options):\n " + code, names)
    monkeypatch.setitem(register.COMMANDS, "doctor", dataclasses.replace(register.COMMANDS["doctor"], run=names["run"]))
    assert cli.main(["doctor"]) == status
    out, err = capsys.readouterr()
    assert said in err and not out
    if status == 2:
        assert err.count("\n") == 1 and err.startswith("yolo-wnlb doctor: ") and "Traceback" not in err
    else:
        assert err.startswith("Traceback") and err.splitlines()[-1].startswith("yolo-wnlb doctor: this is a bug")
        assert "/issues" in err.splitlines()[-1]


def test_a_value_error_of_numpy_inside_real_code_is_a_bug(monkeypatch, capsys, tmp_path):
    import numpy as np

    from yolo_wnlb.visualize import preview

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preview, "heading", lambda *_: np.zeros((3, 7, 3), np.uint8))  # too narrow for np.vstack
    assert cli.main(["preview", "n=1", "presets=mild"]) == 70
    err = capsys.readouterr().err
    assert "all the input array dimensions" in err and "this is a bug" in err.splitlines()[-1]


def test_every_status_is_the_one_that_is_documented():
    said = cli.__doc__
    for status in (mistakes.MISTAKE, mistakes.BUG, mistakes.STOPPED, mistakes.PIPE_CLOSED):
        assert f"{status} " in said or f"{status};" in said


def test_warnings_of_libraries_do_not_bury_the_line_and_ours_are_shown(tmp_path):
    code = """
import dataclasses, sys, warnings
from yolo_wnlb import cli
from yolo_wnlb.commands import register
def run(files, options):
    warnings.warn_explicit("use new_function", FutureWarning, "lib.py", 1, module="somelib")
    warnings.warn("yolo_wnlb could not extend ultralytics.nn.tasks", RuntimeWarning)
    warnings.warn_explicit("unclosed file", ResourceWarning, "cli.py", 1, module="yolo_wnlb.cli")
    return register.take({"gama": 2}, {"gamma": 1})
register.COMMANDS["doctor"] = dataclasses.replace(register.COMMANDS["doctor"], run=run)
sys.exit(cli.main(["doctor"]))
"""
    ours, answer = (
        "yolo_wnlb could not extend ultralytics.nn.tasks",
        "yolo-wnlb doctor: no option gama; choose from gamma",
    )
    run = run_python(code, tmp_path, PYTHONWARNINGS="")
    assert (run.returncode, run.stderr.splitlines()) == (2, [ours, answer])
    run = run_python(code, tmp_path, PYTHONWARNINGS="default")  # whoever wants to see them can
    assert (run.returncode, run.stderr.splitlines()) == (2, ["use new_function", ours, "unclosed file", answer])


def test_run_as_a_module_it_imports_nothing_from_the_folder_where_the_user_stands(tmp_path):
    for name in ("pathlib", "argparse", "yaml", "ultralytics"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('it was run')")
    command = [sys.executable, "-m", "yolo_wnlb", "completion", "fish"]
    path = os.pathsep.join([str(Path(cli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    run = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


# ---- terminals ---------------------------------------------------------------------------------------


def shell(line, cwd):
    """Run a line of a shell in which $Y is yolo-wnlb."""
    program = f'Y() {{ {shlex.quote(sys.executable)} -c {shlex.quote(PROGRAM)} "$@"; }}\n'
    env = {**os.environ, "TERM": "dumb", "PYTHONUNBUFFERED": ""}
    return subprocess.run(["bash", "-c", program + line], cwd=cwd, env=env, capture_output=True, check=False)


SHELLS = [  # a line, exit status, standard output, standard error
    ("Y --version 2>&-", 0, b"yolo-wnlb", b""),
    ("Y trian 2>&-", 2, b"", b""),
    ("Y --help >&-", 0, b"", b""),
    ("Y trian >&- <&-", 2, b"", b"no command 'trian'"),
    ("Y --help | true; exit ${PIPESTATUS[0]}", 141, b"", b""),
    ("PYTHONUNBUFFERED=1 Y --help | true; exit ${PIPESTATUS[0]}", 141, b"", b""),
    ("Y trian 2>&1 | true; exit ${PIPESTATUS[0]}", 2, b"", b""),
    ("Y --help >/dev/full", 2, b"", b"standard output: No space left on device"),
    ("Y trian 2>/dev/full", 2, b"", b""),
    ("Y --version 2>/dev/full", 0, b"yolo-wnlb", b""),
    ("Y --help >/dev/full 2>/dev/full", 2, b"", b""),
    ("PYTHONIOENCODING=ascii Y prévïew→±", 2, b"", rb"no command 'pr\xe9v\xefew->+-'"),
    ("PYTHONIOENCODING=cp1252 Y →", 2, b"", b"no command '->'"),
    ("LC_ALL=C Y → 2>&1 | cat", 0, b"yolo-wnlb: no command", b""),
]


@on_unix
@pytest.mark.parametrize(("line", "status", "out", "err"), SHELLS, ids=[row[0] for row in SHELLS])
def test_any_terminal_gets_the_right_status_and_no_traceback(line, status, out, err, tmp_path):
    if "/dev/full" in line and not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    run = shell(line, tmp_path)
    assert run.returncode == status, run.stderr
    assert out in run.stdout and (err in run.stderr if err else not run.stderr), run.stderr
    assert b"Traceback" not in run.stderr and b"Exception ignored" not in run.stderr
    assert b"\x1b" not in run.stdout + run.stderr


@on_unix
def test_a_file_is_not_given_the_descriptor_of_a_closed_output(tmp_path):
    """What is printed to descriptor 1 must not land in a file that was opened after standard output was closed."""
    code = (
        "import os, sys; from yolo_wnlb.terminal import streams; streams.make_usable(); "
        "file = open('out', 'w'); os.write(1, b'noise'); os.write(2, b'noise'); print('noise'); file.write('intact')"
    )
    run = subprocess.run(
        ["bash", "-c", f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} >&- 2>&- <&-"],
        cwd=tmp_path,
        check=False,
    )
    assert run.returncode == 0 and (tmp_path / "out").read_text() == "intact"


@pytest.mark.parametrize("name", register.COMMANDS)
def test_every_command_ends_with_130_after_ctrl_c_and_says_whether_it_resumes(name, monkeypatch, capsys):
    def stopped(files, options):
        raise KeyboardInterrupt

    command = dataclasses.replace(register.COMMANDS[name], run=stopped, count=(0, 0), options={})
    monkeypatch.setitem(register.COMMANDS, name, command)
    assert cli.main([name]) == 130
    resumes = (
        "; nothing is lost, the same command goes on from here"
        if name in ("darken", "enhance", "corrupt", "compare", "robustness", "adapt")
        else ""
    )
    assert capsys.readouterr().err == f"yolo-wnlb {name}: stopped{resumes}\n"


@on_unix
def test_a_real_ctrl_c_ends_preview_without_a_traceback(tmp_path):
    code = "import sys, yolo_wnlb.visualize.preview; print('here', flush=True); " + PROGRAM
    words = ["preview", "n=100", "out=p.png"]
    run = subprocess.Popen(
        [sys.executable, "-c", code, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert run.stdout.readline() == "here\n"
    time.sleep(0.3)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out, err) == (130, "", "yolo-wnlb preview: stopped\n")
    assert not (tmp_path / "p.png").exists()
