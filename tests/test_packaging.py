"""The wheel as users get it: built from the source archive, installed into a new environment, removed again.

The environment sees the heavy dependencies of this one through a path line in a .pth file; site does not
process the .pth files of a folder that is added so, hence nothing of this checkout is active in it.
"""

import email
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import yolo_wnlb
from yolo_wnlb import doctor, paths

ROOT = Path(__file__).resolve().parent.parent
BINARIES = "Scripts" if os.name == "nt" else "bin"
RELEASE = f"ultralytics=={metadata.version('ultralytics')}"
BUILD = "from ultralytics import YOLO; print('blocks', str(YOLO('yolov8m-seg-wnlb.yaml').model).count('WNLB('))"


def run(*command, cwd, **env):
    env = {**os.environ, **env}
    return subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def pip(python, *arguments, cwd):
    """Run pip; skip the test if it wants the registry and there is none, fail on any other error."""
    options = ["--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    done = run(python, "-m", "pip", *arguments, *options, cwd=cwd)
    if done.returncode and "(from versions: none)" in done.stderr:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no package registry: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stderr


class Home:
    """A virtual environment of its own, and an empty folder to stand in."""

    def __init__(self, folder, wheel):
        venv.create(folder / "venv", with_pip=True)
        self.wheel = wheel
        self.cwd = folder / "elsewhere"
        self.cwd.mkdir()
        self.env = {"YOLO_CONFIG_DIR": str(folder), "PYTHONPATH": ""}
        self.bin = folder / "venv" / BINARIES
        self.site = Path(self.python("import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
        self.dependencies = self.site / "dependencies.pth"

    def pip(self, *arguments):
        """Run pip of the environment, which must neither see nor touch the packages of this one."""
        self.dependencies.unlink(missing_ok=True)
        pip(self.bin / "python", *arguments, cwd=self.cwd)
        folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        self.dependencies.write_text("\n".join(sorted(folders)) + "\n", encoding="utf-8")

    def python(self, code):
        return run(self.bin / "python", "-c", code, cwd=self.cwd, **self.env)

    def command(self, name, *arguments):
        return run(self.bin / name, *arguments, cwd=self.cwd, **self.env)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    built = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = out.glob("*.whl")  # made from the source archive, so that one is complete too
    return file


@pytest.fixture(scope="module")
def home(wheel, tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("home"), wheel)
    home.pip("install", "--no-deps", wheel)
    home.pip("install", "--no-deps", RELEASE)
    return home


def metadata_of(wheel):
    name = f"yolo_wnlb-{yolo_wnlb.__version__}.dist-info/METADATA"
    return email.message_from_bytes(zipfile.ZipFile(wheel).read(name))


def test_the_wheel_holds_the_package_its_data_and_the_start_files_only(wheel):
    files = set(zipfile.ZipFile(wheel).namelist())
    code = {file.relative_to(ROOT).as_posix() for file in (ROOT / "yolo_wnlb").rglob("*.py")}
    data = {f"yolo_wnlb/{kind}/{name}" for kind in ("cfg", "datasets") for name in paths.shipped(kind)}
    start = {"yolo_wnlb.pth", "yolo_wnlb.start"}  # at the root, which becomes site-packages
    info = {file for file in files if file.startswith(f"yolo_wnlb-{yolo_wnlb.__version__}.dist-info/")}
    assert files - info == code | data | start
    assert any(file.endswith("/LICENSE") for file in info)


def test_the_wheel_asks_for_the_ultralytics_that_doctor_asks_for(wheel):
    told = metadata_of(wheel)
    assert f"ultralytics>={'.'.join(map(str, doctor.OLDEST))}" in told.get_all("Requires-Dist")
    assert (told["Name"], told["License-Expression"]) == ("yolo-wnlb", "AGPL-3.0-only")


def test_doctor_advises_what_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda distribution: None)  # as if nothing were installed
    findings = {finding.subject: finding for finding in doctor.packages()}
    assert findings["torch"].problem == "pip install torch" and not findings["onnx"].problem
    assert "pip install onnx" in findings["onnx"].found


def test_the_new_environment_holds_packages_of_its_own(home):
    told = home.python(
        "import yolo_wnlb, ultralytics, torch; print(yolo_wnlb.__file__, ultralytics.__file__, sep='\\n')"
    )
    assert told.returncode == 0, told.stderr
    folders = [Path(line).resolve().parent.parent for line in told.stdout.splitlines()[-2:]]
    assert folders == [home.site.resolve()] * 2


def test_a_shipped_model_builds_from_the_wheel_also_after_ultralytics_is_reinstalled(home):
    for step in "install", "reinstall":
        if step == "reinstall":
            home.pip("install", "--force-reinstall", "--no-deps", RELEASE)
        told = home.python(BUILD)
        assert told.stdout.splitlines()[-1:] == ["blocks 3"], f"{step}: {told.stderr}"


def test_the_stock_yolo_command_builds_a_shipped_model(home):
    picture = "import cv2, numpy; cv2.imwrite('grey.png', numpy.full((32, 32, 3), 114, 'uint8'))"
    assert home.python(picture).returncode == 0
    arguments = "segment predict model=yolov8n-seg-wnlb.yaml source=grey.png imgsz=32 save=False"
    told = home.command("yolo", *arguments.split())
    assert told.returncode == 0, told.stderr
    assert "YOLOv8n-seg-wnlb summary" in told.stdout


def test_doctor_finds_python_ultralytics_and_activation_in_order(home):
    told = home.command("yolo-wnlb", "doctor")
    lines = told.stdout.splitlines()
    for subject in "python", "ultralytics", "activation", "yolo-wnlb":
        assert any(line.startswith(f"ok  {subject} ") for line in lines), told.stdout + told.stderr
    assert told.returncode == int(any(line.startswith("!!") for line in lines))


def test_uninstalling_leaves_nothing_behind_and_ultralytics_as_it_was(home):
    home.pip("uninstall", "-y", "yolo-wnlb")
    try:
        left = [*home.site.glob("*wnlb*"), *home.bin.glob("*wnlb*")]
        assert left == []
        silent = home.python("import sys; assert not [name for name in sys.modules if 'wnlb' in name]")
        assert (silent.returncode, silent.stdout, silent.stderr) == (0, "", "")
        told = home.python(BUILD)
        assert told.stderr.splitlines()[-1].startswith("FileNotFoundError"), told.stderr
        assert "ships" not in told.stderr
        assert home.command("yolo", "version").stdout.strip().endswith(RELEASE.partition("==")[2])
    finally:
        home.pip("install", "--no-deps", home.wheel)  # for the tests that follow
