"""How a command writes a folder: whole files, names that stay inside, locks that wait."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from yolo_wnlb.data import journal
from yolo_wnlb.data.journal import inside, locked, replaced, write, write_json


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# --- whole files


def test_a_file_is_replaced_whole_and_no_draft_stays(tmp_path):
    target = tmp_path / "new/best.pt"
    with replaced(target) as draft:
        draft.write_text("one")
        assert not target.exists() and draft.parent == target.parent
    with pytest.raises(KeyboardInterrupt), replaced(target) as draft:
        draft.write_text("half of")
        raise KeyboardInterrupt
    assert target.read_text() == "one" and names_in(target.parent) == ["best.pt"]


def test_the_draft_of_a_killed_process_goes_with_the_next_one(tmp_path):
    with replaced(tmp_path / "best.pt") as draft:
        draft.write_text("one")
    draft.write_text("of a process that was killed")
    with replaced(tmp_path / "best.pt") as again:
        assert again == draft and not draft.exists()
        again.write_text("two")
    assert names_in(tmp_path) == ["best.pt"] and (tmp_path / "best.pt").read_text() == "two"


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "x" * 240 + "a", "x" * 240 + "b"])
def test_a_name_may_be_as_long_as_the_disk_allows(name, tmp_path):
    write_json(tmp_path / name, {"a": 1})
    assert json.loads((tmp_path / name).read_text()) == {"a": 1}


def test_two_long_names_have_two_drafts(tmp_path):
    with replaced(tmp_path / ("x" * 240 + "a")) as one, replaced(tmp_path / ("x" * 240 + "b")) as two:
        assert one != two
        one.write_text("a")
        two.write_text("b")


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
@pytest.mark.parametrize("link", ["soft", "hard"])
@pytest.mark.parametrize("at", ["target", "draft"])
def test_links_are_replaced_not_followed(link, at, tmp_path):
    (tmp_path / "mine").write_text("precious")
    with replaced(tmp_path / "target") as draft:
        draft.write_text("old")
    place = tmp_path / "target" if at == "target" else draft
    place.unlink(missing_ok=True)
    place.symlink_to("mine") if link == "soft" else os.link(tmp_path / "mine", place)
    with replaced(tmp_path / "target") as again:
        again.write_text("new")
    assert (tmp_path / "mine").read_text() == "precious" and (tmp_path / "target").read_text() == "new"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device. Nothing is lost: make room"),
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied. Nothing is lost: .*right to write"),
        (
            OSError(errno.ENAMETOOLONG, "File name too long"),
            "File name too long.* choose an out= whose path is shorter",
        ),
        (
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
            "is the disk full.*make",
        ),
    ],
)
def test_a_file_that_cannot_be_written_has_a_remedy(error, told, tmp_path):
    with (
        pytest.raises(OSError, match=rf"best\.pt cannot be written: .*{told}"),
        replaced(tmp_path / "best.pt") as draft,
    ):
        draft.write_text("half of it")
        raise error
    assert names_in(tmp_path) == []


def test_an_error_that_has_nothing_to_do_with_the_disk_is_passed_on(tmp_path):
    with pytest.raises(RuntimeError, match="of its own"), replaced(tmp_path / "best.pt"):
        raise RuntimeError("of its own")


@pytest.mark.skipif(sys.platform == "win32", reason="a limit on the size of files stands in for a full disk")
def test_a_checkpoint_on_a_full_disk_leaves_nothing_and_says_what_to_do(tmp_path):
    import resource

    import torch

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        told = r"best\.pt cannot be written.*make room"
        with pytest.raises(OSError, match=told), replaced(tmp_path / "best.pt") as draft:
            torch.save(torch.zeros(100_000), draft)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names_in(tmp_path) == []


def test_a_folder_is_made_while_others_remove_it(tmp_path, monkeypatch):
    mkdir, calls = Path.mkdir, iter([FileExistsError(17, "gone meanwhile"), FileNotFoundError(2, "gone meanwhile")])

    def racing(path, *args, **options):
        if path.name == ".darken" and (error := next(calls, None)):
            raise error
        return mkdir(path, *args, **options)

    monkeypatch.setattr(Path, "mkdir", racing)
    with locked(tmp_path):
        pass
    monkeypatch.undo()

    def never(path, *args, **options):  # as on a disk that makes no folders
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "mkdir", never)
    with pytest.raises(OSError, match=r"\.darken/lock cannot be written: No such file"), locked(tmp_path / "out"):
        pass
    monkeypatch.undo()
    (tmp_path / ".darken").write_text("mine")
    with pytest.raises(OSError, match=r"\.darken/lock cannot be written: File exists"), locked(tmp_path):
        pass


# --- inside


@pytest.mark.parametrize("name", ["../a", "x/../../a", "x/../a", "/etc/a", ".", "x/..", "link/a", "link/x/a", "lost/a"])
@pytest.mark.parametrize("act", [inside, lambda out, name: write(out, name, b""), journal.remove])
def test_names_that_lead_out_are_refused(name, act, tmp_path):
    out = tmp_path / "out"
    (out / "x").mkdir(parents=True)
    (tmp_path / "a").write_text("precious")
    if hasattr(os, "symlink"):
        (out / "link").symlink_to(tmp_path)
        (out / "lost").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match=r"because of a link or '\.\.' in its path; nothing is written outside"):
        act(out, name)
    assert (tmp_path / "a").read_text() == "precious" and names_in(tmp_path) == ["a", "out"]


def test_a_removed_file_takes_the_folders_along_that_become_empty(tmp_path):
    for name in ("a/b/c/one.txt", "a/b/two.txt"):
        write(tmp_path, name, b"")
    assert (
        journal.remove(tmp_path, "a/b/c/one.txt") and (tmp_path / "a/b").is_dir() and not (tmp_path / "a/b/c").exists()
    )
    assert not journal.remove(tmp_path, "a/b/c/one.txt") and not journal.remove(tmp_path, "a/b/two.txt/below")
    assert journal.remove(tmp_path, "a/b/two.txt") and not (tmp_path / "a").exists()


# --- locks


def holds(out, part, seconds, log):
    with locked(out, part):
        log.append((part, "in"))
        time.sleep(seconds)
        log.append((part, "out"))


@pytest.mark.parametrize(
    ("one", "two", "together"),
    [
        (None, None, False),
        (None, "1-of-2", False),
        ("1-of-2", None, False),
        ("1-of-2", "1-of-2", False),
        ("1-of-2", "2-of-2", True),
    ],
)
def test_who_waits_for_whom(one, two, together, tmp_path):
    log = []
    first = threading.Thread(target=holds, args=(tmp_path / "out", one, 0.4, log))
    second = threading.Thread(target=holds, args=(tmp_path / "out", two, 0.4, log))
    first.start()
    while not log:
        time.sleep(0.01)
    second.start()
    first.join()
    second.join()
    assert [event for _, event in log] == (["in", "in", "out", "out"] if together else ["in", "out", "in", "out"])


def test_the_lock_goes_with_its_folder_when_nothing_else_is_there(tmp_path):
    with locked(tmp_path / "out"):
        assert (tmp_path / "out/.darken/lock").exists()
    assert names_in(tmp_path / "out") == []
    with locked(tmp_path / "out"):
        write(tmp_path / "out", ".darken/all/journal.jsonl", b"")
    assert (tmp_path / "out/.darken/all/journal.jsonl").exists()


def test_waiting_long_is_said_once(tmp_path, capsys):
    first = threading.Thread(target=holds, args=(tmp_path, None, 1.6, []))
    first.start()
    while not (tmp_path / ".darken/lock").exists():
        time.sleep(0.01)
    time.sleep(0.1)
    with locked(tmp_path):
        assert capsys.readouterr().err == f"another run is writing into {tmp_path}; waiting until it ends\n"
    first.join()


def test_numbered_folders_are_made_where_they_can_be(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [str(journal.make_numbered("runs/x")) for _ in range(3)] == ["runs/x", "runs/x2", "runs/x3"]
    Path("file").write_text("")
    with pytest.raises(OSError, match=r"file/x cannot be written: .*make room"):
        journal.make_numbered("file/x")
    if sys.platform != "win32":
        Path("link").symlink_to("gone")
        with pytest.raises(OSError, match=r"link/x cannot be written: .*make room"):
            journal.make_numbered("link/x")


def test_the_last_of_several_parts_finds_the_folder_free(tmp_path):
    with locked(tmp_path, "1-of-2"), journal.locked_by_the_last(tmp_path) as last:
        assert not last
    with journal.locked_by_the_last(tmp_path) as last:
        assert last


def test_a_lock_ends_with_its_process(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from yolo_wnlb.data.journal import locked\n"
        "with locked(Path(sys.argv[1]), '1-of-2'): os._exit(9)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=environment, check=False).returncode == 9
    with locked(tmp_path):
        pass
    assert names_in(tmp_path) == []
