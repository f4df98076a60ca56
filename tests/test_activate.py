"""Activation, looked at from fresh interpreters in an empty folder: nobody imports yolo_wnlb by hand."""

import re
import subprocess
import sys
from multiprocessing import get_all_start_methods
from pathlib import Path
from pkgutil import resolve_name

import pytest
from conftest import run_python

import yolo_wnlb
from yolo_wnlb import activate, doctor, paths

ROOT = Path(__file__).resolve().parent.parent
COUNT = "print('blocks', sum(type(m).__module__ == 'yolo_wnlb.wnlb' for m in model.model.modules()))"
CLASH = """
import sys
from importlib.machinery import PathFinder

class Clash:  # stands for a future ultralytics that has a wNLB of its own
    def find_spec(self, name, path=None, target=None):
        spec = PathFinder.find_spec(name, path) if name == "ultralytics.nn.tasks" else None
        if spec:
            execute = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (execute(module), setattr(module, "wNLB", object))
        return spec

sys.meta_path.insert(1, Clash())
"""


def said(code, cwd, **env):
    """Run code that must succeed in a fresh interpreter; return the lines it printed."""
    run = run_python(code, cwd, **env)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


# ---- what an interpreter that imports only ultralytics knows -------------------------------------


def test_a_shipped_model_builds_by_bare_name_at_its_scale(tmp_path):
    code = """
from ultralytics import YOLO
layers = YOLO("yolov8m-seg-wnlb.yaml").model.model
print("channels", [layer.in_channels for layer in layers if type(layer).__name__ == "WNLB"])
"""
    assert "channels [192, 384, 576]" in said(code, tmp_path)


@pytest.mark.parametrize("method", sorted({"spawn", "forkserver"} & set(get_all_start_methods())))
def test_workers_of_multiprocessing_know_the_block(method, tmp_path):
    (tmp_path / "main.py").write_text(f"""
import multiprocessing

def ask():
    from ultralytics.nn import tasks
    return tasks.wNLB.__module__

if __name__ == "__main__":
    with multiprocessing.get_context({method!r}).Pool(1) as pool:
        print(pool.apply(ask))
""")
    assert said("import runpy; runpy.run_path('main.py', run_name='__main__')", tmp_path)[-1] == "yolo_wnlb.wnlb"


def test_a_checkpoint_with_blocks_loads_also_when_only_safe_globals_do(source, tmp_path):
    code = f"from ultralytics import YOLO; model = YOLO({str(source('yolov8n-seg-wnlb'))!r}); {COUNT}"
    assert "blocks 3" in said(code, tmp_path, ULTRALYTICS_SAFE_LOAD="1")


def test_ultralytics_keeps_its_source_and_its_loaders(tmp_path):
    code = """
import inspect, sys
from ultralytics.engine import trainer
from ultralytics.nn import tasks
from ultralytics.utils import checks
print(inspect.getsource(tasks.SegmentationModel).splitlines()[0])
print(inspect.getsource(tasks.parse_model).splitlines()[0])
for module in checks, tasks, trainer:
    print(type(module.__spec__.loader).__name__, type(module.__loader__).__name__)
"""
    told = said(code, tmp_path)
    assert told[-5:-3] == ["class SegmentationModel(DetectionModel):", "def parse_model(d, ch, verbose=True):"]
    assert told[-3:] == ["SourceFileLoader SourceFileLoader"] * 3


def test_reloading_a_module_of_ultralytics_patches_it_again_and_once(tmp_path):
    code = f"""
import importlib
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.utils import checks
for module in checks, tasks, tasks:
    importlib.reload(module)
model = tasks.SegmentationModel("yolov8n-seg-wnlb.yaml", verbose=False)
{COUNT}
print("wrapped", [hasattr(f, "_stock") for f in (tasks.parse_model, tasks.parse_model._stock)])
"""
    assert said(code, tmp_path)[-2:] == ["blocks 3", "wrapped [True, False]"]


# ---- what it costs, and how to be without it -----------------------------------------------------


def test_an_interpreter_that_uses_none_of_it_imports_none_of_it(tmp_path):
    modules = said("import sys; print(*sys.modules, sep='\\n')", tmp_path)
    heavy = {"torch", "numpy", "ultralytics", "cv2", "yaml"}
    assert heavy.isdisjoint(name.partition(".")[0] for name in modules)
    assert {name for name in modules if name.startswith("yolo_wnlb")} == {
        "yolo_wnlb",
        "yolo_wnlb.activate",
        "yolo_wnlb.version",
    }


def test_switched_off_everything_is_stock(tmp_path):
    code = """
from ultralytics import YOLO
from ultralytics.nn import tasks
from ultralytics.utils import checks
print("stock", not hasattr(tasks, "wNLB"), not hasattr(checks.check_file, "_stock"))
YOLO("yolov8m-seg-wnlb.yaml")
"""
    run = run_python(code, tmp_path, YOLO_WNLB_DISABLE="1")
    assert "stock True True" in run.stdout
    assert run.returncode == 1 and run.stderr.splitlines()[-1].startswith("FileNotFoundError")


@pytest.mark.parametrize(("value", "finders"), [(None, 1), ("", 1), ("0", 1), ("1", 0)])
def test_only_a_set_switch_switches_off(value, finders, monkeypatch):
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.setattr(activate, "PATCHES", {})
    monkeypatch.delenv("YOLO_WNLB_DISABLE", raising=False)
    if value is not None:
        monkeypatch.setenv("YOLO_WNLB_DISABLE", value)
    activate.install()
    assert len(sys.meta_path) == finders


def test_installing_twice_adds_one_finder(tmp_path):
    code = """
import sys
from yolo_wnlb import activate
activate.install(); activate.install()
print([type(finder).__module__ for finder in sys.meta_path].count("yolo_wnlb.activate"))
"""
    assert said(code, tmp_path) == ["1"]


def test_a_second_copy_of_the_package_does_not_break_ultralytics(tmp_path):
    code = """
import sys
for name in [name for name in sys.modules if name.startswith("yolo_wnlb")]:
    del sys.modules[name]  # as an upgrade in a running notebook, or a reload, does
import yolo_wnlb
from ultralytics.nn import tasks
print(tasks.wNLB.__module__)
"""
    assert said(code, tmp_path)[-1] == "yolo_wnlb.wnlb"


@pytest.mark.parametrize("function", activate.PATCHES.values())
def test_each_module_that_is_waited_for_has_its_function(function):
    assert callable(resolve_name(f"yolo_wnlb.yolo.patches.{function}"))


def test_each_function_that_patches_a_module_is_called_for_one():
    written = {
        f"{file.stem}.{name}"
        for file in (ROOT / "yolo_wnlb/yolo/patches").glob("*.py")
        for name in re.findall(r"^def (patch_\w+)", file.read_text(encoding="utf-8"), re.M)
    }
    assert written == {*activate.PATCHES.values()}


# ---- late, and failing ---------------------------------------------------------------------------

LATE = f"""
import sys
import ultralytics.data.build, ultralytics.data.utils, ultralytics.engine.trainer
from ultralytics.nn import tasks
from ultralytics.utils import checks
early = [m for k, m in sys.modules.items() if k.startswith("ultralytics.") and hasattr(m, "check_file")]
print("before", len(early) >= 5, hasattr(tasks, "wNLB"), any(hasattr(m.check_file, "_stock") for m in early))
{{repair}}
print("after", all(m.check_file is checks.check_file for m in early), hasattr(checks.check_file, "_stock"))
print("optimizer", hasattr(ultralytics.engine.trainer.BaseTrainer.build_optimizer, "_stock"))
from ultralytics import YOLO
model = YOLO("yolov8n-seg-wnlb.yaml")
{COUNT}
"""
REPAIRED = ["before True False False", "after True True", "optimizer True", "blocks 3"]


def test_a_late_import_repairs_an_interpreter_that_ran_no_pth_file(tmp_path):
    whole_path = f"import sys; sys.path += {sys.path!r}\n"  # -S: no site-packages, hence no .pth files
    command = [sys.executable, "-S", "-c", whole_path + LATE.format(repair="import yolo_wnlb")]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.stdout.splitlines()[-4:] == REPAIRED, run.stderr


def test_install_repairs_an_interpreter_that_was_switched_off(tmp_path):
    repair = "import os; del os.environ['YOLO_WNLB_DISABLE']; from yolo_wnlb import activate; activate.install()"
    assert said(LATE.format(repair=repair), tmp_path, YOLO_WNLB_DISABLE="1")[-4:] == REPAIRED


def test_a_name_clash_is_one_warning_and_stock_models_still_work(tmp_path):
    code = f"""{CLASH}
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from ultralytics import YOLO
    model = YOLO("yolov8n.yaml")
ours = [w for w in caught if "yolo_wnlb" in str(w.message)]
print(*(f"{{w.category.__name__}} {{w.message}}" for w in ours), sep="\\n")
print("layers", len(model.model.model))
"""
    *before, warning, layers = said(code, tmp_path)
    assert layers == "layers 23" and "could not extend" not in "".join(before)
    assert warning.startswith("RuntimeWarning yolo_wnlb could not extend ultralytics.nn.tasks (RuntimeError: ")
    assert "a module named wNLB of its own" in warning and "yolo-wnlb doctor" in warning


BROKEN = """
import sys
sys.modules["yolo_wnlb.yolo.patches"] = None  # its import raises
from ultralytics import YOLO
import ultralytics.engine.trainer
print("layers", len(YOLO("yolov8n.yaml").model.model))
"""


@pytest.mark.parametrize("options", [[], ["-W", "error::RuntimeWarning"]], ids=["usual", "warnings-are-errors"])
def test_broken_patches_are_one_warning_and_stock_models_still_work(tmp_path, options):
    run = subprocess.run([sys.executable, *options, "-c", BROKEN], cwd=tmp_path, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "layers 23", run.stderr
    assert run.stderr.count("yolo_wnlb could not extend ultralytics.utils.") == 1
    assert run.stderr.count("could not extend") == 1


def test_doctor_tells_the_reason_that_the_warning_sends_users_to_it_for(tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(CLASH)  # runs after the .pth files
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finding = doctor.activation()
    assert finding.problem and finding.found.startswith("not working")
    assert "a module named wNLB of its own" in finding.found


def test_a_broken_installation_says_so_in_one_line_and_python_starts(tmp_path):
    line = (ROOT / "yolo_wnlb.pth").read_text(encoding="utf-8")
    assert line.startswith("import ") and line.count("\n") <= 1  # what site executes: one line that imports
    run = run_python(f"import sys; sys.modules['yolo_wnlb'] = None; exec({line!r}); print('started')", tmp_path)
    assert run.stdout == "started\n"
    assert len(run.stderr.splitlines()) == 1 and "reinstall or uninstall" in run.stderr


def test_the_start_file_names_the_function_that_the_pth_file_ends_in():
    target = (ROOT / "yolo_wnlb.start").read_text(encoding="utf-8").strip()
    assert resolve_name(target) is activate.install


# ---- names ---------------------------------------------------------------------------------------


def test_public_names_are_what_they_say_whatever_was_imported_before(tmp_path):
    code = """
import ultralytics.nn.tasks  # imports modules of ours
import yolo_wnlb
for name in yolo_wnlb.__all__:
    print(name, type(getattr(yolo_wnlb, name)).__name__)
"""
    kinds = dict(line.split() for line in said(code, tmp_path)[-len(yolo_wnlb.__all__) :])
    classes = {"WNLB": "type", "Evaluation": "ABCMeta", "Settings": "type", "LowLight": "CombinedMeta"}
    assert kinds == {**dict.fromkeys(yolo_wnlb.__all__, "function"), **classes, "__version__": "str"}


@pytest.mark.parametrize("name", [*paths.shipped("cfg"), *paths.shipped("datasets")])
def test_every_shipped_file_is_found_by_bare_name_from_any_folder(name, tmp_path, monkeypatch):
    from ultralytics.utils.checks import check_file

    monkeypatch.chdir(tmp_path)
    assert check_file(name) == str(paths.find(name))
    assert Path(check_file(name)).is_file()


def test_a_file_of_that_name_in_the_working_folder_wins(tmp_path, monkeypatch):
    from ultralytics.utils.checks import check_file

    monkeypatch.chdir(tmp_path)
    Path("shapes-dark.yaml").write_text("mine: 1\n")
    assert Path(check_file("shapes-dark.yaml")).resolve() == tmp_path.resolve() / "shapes-dark.yaml"


def test_a_mistyped_model_is_told_the_names_that_are_close(tmp_path, monkeypatch):
    from ultralytics import YOLO

    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        YOLO("yolov8n-seg-wnlbb.yaml")
    assert "yolov8-seg-wnlbb.yaml" in str(caught.value)
    told = str(caught.value).split("Did you mean ")[1].split("?")[0].split(" or ")
    assert "yolov8-seg-wnlb.yaml" in told and set(told) <= set(paths.shipped("cfg"))


def test_other_missing_files_are_refused_in_the_words_of_ultralytics(tmp_path, monkeypatch):
    from ultralytics.utils.checks import check_file

    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        check_file("nowhere.yaml")
    assert "nowhere.yaml" in str(caught.value) and "wnlb" not in str(caught.value)
    assert check_file("yolov8-wnlbb.yaml", hard=False) == []


def test_a_class_of_the_users_own_called_wnlb_is_left_alone(tmp_path):
    code = """
import torch
from ultralytics.nn import tasks
class WNLB(torch.nn.Identity):
    def __init__(self, a, b):
        super().__init__()
tasks.WNLB = WNLB
d = {"nc": 1, "backbone": [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "WNLB", [16, 3]]], "head": [[[1], 1, "Detect", ["nc"]]]}
print(type(tasks.DetectionModel({**d, "scale": ""}, verbose=False).model[1]).__module__)
"""
    assert said(code, tmp_path)[-1] == "__main__"
