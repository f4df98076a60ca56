"""The wheel as users get it: built from the source archive, installed into a new environment, removed again.

The environment sees the heavy dependencies of this one through a path line in a .pth file; site does not
process the .pth files of a folder that is added so, hence nothing of this checkout is active in it.
"""

import email
import os
import shlex
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from conftest import pip

import yolo_wnlb
from yolo_wnlb import doctor, paths
from yolo_wnlb.cli import ISSUES

ROOT = Path(__file__).resolve().parent.parent
BINARIES = "Scripts" if os.name == "nt" else "bin"
RELEASE = f"ultralytics=={metadata.version('ultralytics')}"
KNOWS = "ultralytics knows wNLB without an import"
BUILD = "from ultralytics import YOLO; print('blocks', str(YOLO('yolov8m-seg-wnlb.yaml').model).count('WNLB('))"


def run(*command, cwd, **env):
    env = {**os.environ, **env}
    return subprocess.run([*map(str, command)], cwd=cwd, env=env, capture_output=True, text=True, check=False)


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
        pip(*arguments, python=self.bin / "python", cwd=self.cwd)
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
    data |= {"yolo_wnlb/py.typed", "yolo_wnlb/report/page.css", "yolo_wnlb/report/page.html"}
    start = {"yolo_wnlb.pth", "yolo_wnlb.start"}  # at the root, which becomes site-packages
    info = {file for file in files if file.startswith(f"yolo_wnlb-{yolo_wnlb.__version__}.dist-info/")}
    assert files - info == code | data | start
    assert any(file.endswith("/LICENSE") for file in info)


def test_the_wheel_asks_for_the_ultralytics_that_doctor_asks_for(wheel):
    said = metadata_of(wheel)
    assert f"ultralytics>={'.'.join(map(str, doctor.OLDEST))}" in said.get_all("Requires-Dist")
    assert (said["Name"], said["License-Expression"]) == ("yolo-wnlb", "AGPL-3.0-only")


def test_the_wheel_asks_for_no_opencv_and_says_what_an_index_shows(wheel):
    """Ultralytics brings an OpenCV, of one of four names; a second one would be written over it."""
    said = metadata_of(wheel)
    plain = [need for need in said.get_all("Requires-Dist") if "extra ==" not in need]
    assert not [need for need in plain if "opencv" in need]
    assert {"pycocotools", "scipy"} <= {need.partition(">")[0] for need in plain}  # adapt, watch, report import them
    links = dict(link.split(", ") for link in said.get_all("Project-URL"))
    assert links["Issues"] == ISSUES and {"Homepage", "Documentation", "Changelog", "Paper"} < links.keys()
    assert "Typing :: Typed" in said.get_all("Classifier")


# ---- what doctor says about other names of the same modules ------------------------------------------


def stub(site, name, version, module, code=""):
    """Install a distribution that holds one module."""
    (site / module).mkdir(parents=True, exist_ok=True)
    (site / module / "__init__.py").write_text(code)
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text(f"{module}/__init__.py,,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n")


BROKEN = "raise ImportError('libGL.so.1: cannot open shared object file')"
NO_TORCH = "raise ImportError('AlbumentationsX requires PyTorch when it is imported.\\n\\nInstall it')"
INSTALLED = [  # distributions, a check of doctor, what it finds, its remedy
    ([], "ultralytics", "not installed", "pip install 'ultralytics>=8.4.0'"),
    (
        [("opencv-python-headless", "5.0", "cv2")],
        "ultralytics",
        "not installed",
        "pip install 'ultralytics-opencv-headless>=8.4.0'",
    ),
    ([("ultralytics-opencv-headless", "8.4.190", "ultralytics")], "ultralytics", "headless 8.4.190", ""),
    ([("ultralytics", "8.3.9", "ultralytics")], "ultralytics", "8.3.9", "too old, pip install -U 'ultralytics>=8.4.0'"),
    (
        [("ultralytics-opencv-headless", "8.3.9", "ultralytics")],
        "ultralytics",
        "headless 8.3.9",
        "too old, pip install -U 'ultralytics-opencv-headless>=8.4.0'",
    ),
    (
        [("ultralytics", "8.4.1", "ultralytics"), ("ultralytics-opencv-headless", "8.4.2", "ultralytics")],
        "ultralytics",
        "ultralytics 8.4.1, ultralytics-opencv-headless 8.4.2 share one folder",
        "pip uninstall -y ultralytics ultralytics-opencv-headless && pip install 'ultralytics>=8.4.0'",
    ),
    ([], "opencv", "not installed", "pip install --no-cache-dir opencv-python"),
    ([("opencv-contrib-python-headless", "5.0", "cv2")], "opencv", "opencv-contrib-python-headless 5.0", ""),
    (
        [("opencv-python", "5.0", "cv2"), ("opencv-contrib-python", "4.9", "cv2")],
        "opencv",
        "share one folder",
        "pip uninstall -y opencv-contrib-python opencv-python && pip install --no-cache-dir opencv-contrib-python",
    ),
    (
        [
            ("opencv-python", "5.0", "cv2"),
            ("opencv-python-headless", "4.9", "cv2"),
            ("ultralytics-opencv-headless", "8.4.1", "ultralytics"),
        ],
        "opencv",
        "share one folder",
        "pip uninstall -y opencv-python opencv-python-headless && pip install --no-cache-dir opencv-python-headless",
    ),
    (
        [("opencv-python", "5.0", "cv2"), ("opencv-python-headless", "5.0", "cv2")],
        "opencv",
        "harmless while their versions agree",
        "",
    ),
    (
        [("opencv-python", "5.0", "cv2", BROKEN)],
        "opencv",
        "opencv-python 5.0: libGL.so.1",
        "pip uninstall -y opencv-python && pip install --no-cache-dir opencv-python-headless",
    ),
    ([("opencv-python-headless", "5.0", "cv2")], "albumentations", "or 'albumentationsx[headless]'", ""),
    ([("opencv-contrib-python", "5.0", "cv2")], "albumentations", "or 'albumentationsx[contrib]'", ""),
    (
        [("albumentationsx", "2.5.1", "albumentations", NO_TORCH), ("opencv-python", "5.0", "cv2")],
        "albumentations",
        "albumentationsx 2.5.1 does not import: AlbumentationsX requires PyTorch",
        "it needs torch and an OpenCV: pip install torch 'albumentationsx[gui]'",
    ),
    ([("AlbumentationsX", "2.5.1", "albumentations")], "albumentations", "AlbumentationsX 2.5.1", ""),
    (
        [("albumentations", "2.0.8", "albumentations"), ("albumentationsx", "2.5.1", "albumentations")],
        "albumentations",
        "albumentations and albumentationsx fill the same folder",
        "keep one: pip uninstall -y albumentations albumentationsx && pip install albumentations",
    ),
    ([], "required('torch')", "not installed", "pip install torch"),
    (
        [("torch", "2.9", "torch", "1 / 0")],
        "required('torch')",
        "2.9 does not import: division by zero",
        "reinstall it:",
    ),
    ([("onnxruntime-gpu", "1.30", "onnxruntime")], "optional('onnxruntime')", "onnxruntime-gpu 1.30", ""),
    ([], "optional('onnx')", "not installed, needed for ONNX only: pip install onnx", ""),
    ([], "optional('lap')", "not installed, needed for watch only: pip install lap", ""),
]


def test_doctor_knows_modules_by_every_name_that_they_are_installed_under(tmp_path):
    """All cases in one interpreter without site-packages: it forgets the modules of the last one."""
    (tmp_path / "none").mkdir()
    cases = []
    for number, (distributions, check, *_) in enumerate(INSTALLED):
        site = tmp_path / f"site{number}"
        site.mkdir()
        for distribution in distributions:
            stub(site, *distribution)
        cases.append((str(site), check if "(" in check else f"{check}()"))
    code = f"""
import importlib, sys
sys.path.append({str(ROOT)!r})
from yolo_wnlb import doctor
sys.version_info = (3, 12, 0)
for site, check in {cases!r}:
    for module in ("cv2", "ultralytics", "albumentations", "torch", "onnx", "onnxruntime"):
        sys.modules.pop(module, None)
    sys.path.insert(0, site)
    importlib.invalidate_caches()
    finding = eval(f"doctor.{{check}}")
    print(finding.found, finding.problem, sep="|")
    sys.path.remove(site)
"""
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(INSTALLED)
    for line, (distributions, check, found, remedy) in zip(lines, INSTALLED):
        seen, _, advice = line.partition("|")
        assert found in seen and advice.startswith(remedy) and bool(advice) == bool(remedy), (
            distributions,
            check,
            line,
        )


def test_the_packages_that_doctor_speaks_of_are_the_ones_that_it_finds_here():
    assert set(doctor.providers("cv2")) & {"opencv-python", "opencv-python-headless"}
    assert doctor.providers("ultralytics").get("ultralytics") == RELEASE.partition("==")[2]
    assert doctor.providers("no_such_module") == doctor.providers("sys") == {}


# ---- installed with pip ------------------------------------------------------------------------------


def test_the_stock_yolo_command_builds_a_shipped_model(home):
    script = (home.bin / ("yolo.exe" if os.name == "nt" else "yolo")).read_text(encoding="utf-8", errors="ignore")
    assert "wnlb" not in script.lower().partition("\n")[2], "the stock script, not one of ours"
    picture = "import cv2, numpy; cv2.imwrite('grey.png', numpy.full((32, 32, 3), 114, 'uint8'))"
    assert home.python(picture).returncode == 0
    arguments = "segment predict model=yolov8n-seg-wnlb.yaml source=grey.png imgsz=32 save=False"
    told = home.command("yolo", *arguments.split())
    assert told.returncode == 0, told.stderr
    assert "YOLOv8n-seg-wnlb summary" in told.stdout


def test_doctor_finds_python_ultralytics_and_activation_in_order(home):
    told = home.command("yolo-wnlb", "doctor")
    lines = told.stdout.splitlines()
    for subject in "python", "opencv", "ultralytics", "activation":
        assert any(line.startswith(f"ok  {subject} ") for line in lines), told.stdout + told.stderr
    assert told.returncode == int(any(line.startswith("!!") for line in lines))


def test_a_shipped_model_builds_beside_the_headless_twin_and_after_ultralytics_is_installed_again(home):
    """`pip install --no-deps` is what the README says beside a twin; pip knows no "this package or that one"."""
    version = RELEASE.partition("==")[2]
    ask = (
        "import yolo_wnlb, ultralytics; from pathlib import Path; from yolo_wnlb import doctor; "
        "print(*{str(Path(m.__file__).parent.parent.resolve()) for m in (yolo_wnlb, ultralytics)}, sep=', '); "
        f"print(doctor.ultralytics()); {BUILD}"
    )

    def answers(release):
        done = home.python(ask)
        assert done.returncode == 0, done.stderr
        folder, found, *_, blocks = done.stdout.splitlines()
        assert folder == str(home.site.resolve()), "not the packages of the environment itself"
        assert (found, blocks) == (f"ok  ultralytics    {release}", "blocks 3")

    home.pip("uninstall", "-y", "ultralytics", "yolo-wnlb")
    try:
        home.pip("install", "--no-deps", f"ultralytics-opencv-headless=={version}", home.wheel)
        assert not [*home.site.glob("ultralytics-[0-9]*"), *home.site.glob("cv2"), *home.site.glob("opencv*")]
        answers(f"ultralytics-opencv-headless {version}")
    finally:
        home.pip("uninstall", "-y", "ultralytics-opencv-headless")
        home.pip("install", "--no-deps", RELEASE)
    answers(version)


def test_after_pip_target_doctor_prints_a_line_that_mends_it(wheel, tmp_path):
    """A folder of `pip install --target` is no site folder: Python runs no start-up files that lie in it."""
    target, env = tmp_path / "with space" / "target", {"YOLO_CONFIG_DIR": str(tmp_path)}
    pip("install", "--no-deps", "--target", target, wheel, cwd=tmp_path)
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / BINARIES / "python"
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).stdout.strip()
    )
    (site / "dependencies.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    ask = "from yolo_wnlb import doctor; f = doctor.activation(); print(f.found, f.problem, sep='\\n')"

    lost = run(
        python, "-c", f"import sys; sys.path.insert(0, {str(target)!r}); {ask}", cwd=tmp_path, PYTHONPATH="", **env
    )
    where = shlex.quote(str(target))
    assert lost.stdout.splitlines()[-1] == f"set PYTHONPATH={where}, then run yolo-wnlb doctor again", lost.stderr

    env["PYTHONPATH"] = str(target)
    found, remedy = run(python, "-c", ask, cwd=tmp_path, **env).stdout.splitlines()[-2:]
    assert found == f"not working: yolo_wnlb.pth lies in {target}, from which Python runs no start-up files"
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    mended = subprocess.run(remedy, shell=True, cwd=tmp_path, env={**os.environ, **env, "PATH": path}, check=False)
    assert mended.returncode == 0
    assert run(python, "-c", ask, cwd=tmp_path, **env).stdout.splitlines()[-2:] == [KNOWS, ""]


def test_a_type_checker_sees_the_types_of_the_installed_package(wheel, tmp_path):
    """Its dependencies are not there, so that mypy reads this package alone and is fast."""
    pip("install", "--no-deps", "--target", tmp_path / "site", wheel, cwd=tmp_path)
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / BINARIES / "python"
    site = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).stdout.strip()
    )
    (site / "site.pth").write_text(str(tmp_path / "site"))
    (tmp_path / "user.py").write_text(
        "import random\nfrom yolo_wnlb import Settings\nfrom yolo_wnlb.words import suggestion\n"
        "reveal_type(suggestion('a', ['b']))\nreveal_type(Settings().draw(random.Random(0)).ev)\nSettings(ev='dark')\n"
    )
    options = ["--python-executable", python, "--ignore-missing-imports", "--follow-imports", "silent", "--cache-dir"]
    said = run(sys.executable, "-m", "mypy", *options, tmp_path / "cache", "user.py", cwd=tmp_path).stdout
    assert 'user.py:4: note: Revealed type is "str"' in said and 'user.py:5: note: Revealed type is "float"' in said
    assert 'user.py:6: error: Argument "ev"' in said and "py.typed" not in said


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
