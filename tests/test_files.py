"""Files and folders: the earlier one or the new one, at every moment and after every failure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from circuits import files
from circuits.errors import CheckpointError, CircuitsError
from circuits.files import replacing, replacing_folder, require_own, require_writable, utf8

Monkey = pytest.MonkeyPatch

# Writes the same number into two files of a folder, again and again, each time a larger one.
WRITER = """
import sys
from pathlib import Path
from circuits.files import replacing_folder
folder = Path(sys.argv[1])
for i in range(10**9):
    with replacing_folder(folder, sys.argv[2] or None) as partial:
        for name in ("main", "other"):
            (partial / name).write_text(str(i))
"""


def write(folder: Path, text: str, main: str | None = None) -> None:
    with replacing_folder(folder, main) as partial:
        for name in ("main", "other"):
            (partial / name).write_text(text)


def write_half(folder: Path, stop: BaseException, main: str | None) -> None:
    with replacing_folder(folder, main) as partial:
        (partial / "main").write_text("half")
        raise stop


def content(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["exchange", "two steps"])
def way(request: pytest.FixtureRequest, monkeypatch: Monkey) -> str:
    """How a folder takes another one's place: in one step, or where the system cannot do that."""
    if request.param == "two steps":
        monkeypatch.setattr(files, "_exchange", lambda a, b: False)
    return str(request.param)


@pytest.mark.parametrize("main", [None, "main"])
def test_a_folder_is_replaced(tmp_path: Path, way: str, main: str | None) -> None:
    folder = tmp_path / "deep" / "run"
    for text in ("first", "second", "third"):
        write(folder, text, main)
        assert content(folder) == {"main": text, "other": text}
        assert names(folder.parent) == ["run"]
    empty = tmp_path / "empty"
    empty.mkdir()
    write(empty, "new", main)
    assert content(empty) == {"main": "new", "other": "new"}


def test_what_else_is_there_stays_beside_a_main_file(tmp_path: Path, way: str) -> None:
    folder = tmp_path / "run"
    write(folder, "first", "main")
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("mine")
    (folder / "link").symlink_to("main")
    folder.chmod(0o750)
    write(folder, "second", "main")
    assert names(folder) == ["link", "main", "notes", "other"]
    assert (folder / "notes" / "a.txt").read_text() == "mine"
    assert (folder / "link").read_text() == "second"
    assert folder.stat().st_mode & 0o777 == 0o750
    write(folder, "third")
    assert content(folder) == {"main": "third", "other": "third"}


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("main", [None, "main"])
def test_a_failure_changes_nothing(
    tmp_path: Path, way: str, main: str | None, stop: BaseException
) -> None:
    folder = tmp_path / "run"
    write(folder, "first", main)
    for target in (folder, tmp_path / "new"):
        expected = CircuitsError if isinstance(stop, OSError) else KeyboardInterrupt
        with pytest.raises(expected):
            write_half(target, stop, main)
    assert content(folder) == {"main": "first", "other": "first"}
    assert names(tmp_path) == ["run"]


def test_a_folder_that_cannot_take_its_place(tmp_path: Path, monkeypatch: Monkey) -> None:
    """Of the two steps the second one fails: the first one is taken back."""
    folder, move = tmp_path / "run", Path.replace
    write(folder, "first")
    monkeypatch.setattr(files, "_exchange", lambda a, b: False)

    def fail(self: Path, target: Path) -> Path:
        if target == folder and not self.name.endswith("-earlier"):
            raise PermissionError(13, "Permission denied")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(CircuitsError, match="run cannot be written: Permission denied"):
        write(folder, "second")
    assert content(folder) == {"main": "first", "other": "first"}
    assert names(tmp_path) == ["run"]


def test_only_the_content_may_change(tmp_path: Path, monkeypatch: Monkey) -> None:
    """Of the current folder; when a step fails, the earlier files are back."""
    monkeypatch.chdir(tmp_path)
    write(Path(), "first", "main")
    write(Path(), "second", "main")
    assert content(Path()) == {"main": "second", "other": "second"}
    move = Path.replace

    def fail(self: Path, target: Path) -> Path:
        if target.name == "main":
            raise OSError(5, "Input/output error")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(CircuitsError, match="Input/output error"):
        write(Path(), "third", "main")
    assert content(Path()) == {"main": "second", "other": "second"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_place_is_one_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(CircuitsError, match="run cannot be written: Permission denied"):
            write(tmp_path / "run", "first")
    finally:
        tmp_path.chmod(0o700)
    assert names(tmp_path) == []


def test_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(CircuitsError, match="cannot be written"):
            write(folder, "first")
    with (
        pytest.raises(CheckpointError, match="run cannot be written: broken"),
        replacing_folder(tmp_path / "run", failure=Broken, error=CheckpointError),
    ):
        raise Broken("broken")
    assert names(tmp_path) == ["file"]


class Broken(Exception):
    """A failure of another library's."""


@pytest.mark.skipif(sys.platform != "linux", reason="asks for Linux' exchange of folders")
@pytest.mark.parametrize("main", ["", "main"])
def test_the_old_or_the_new_one_however_it_is_killed(tmp_path: Path, main: str) -> None:
    if not _exchanges(tmp_path):
        pytest.skip("this file system cannot exchange folders")
    folder = tmp_path / "run"
    for delay in range(8):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), main])
        while not folder.exists() and writer.poll() is None:
            time.sleep(0.002)
        time.sleep(0.003 * delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        kept = content(folder)
        assert set(kept) == {"main", "other"}
        assert kept["main"] == kept["other"]


def _exchanges(folder: Path) -> bool:
    for name in ("a", "b"):
        (folder / name).mkdir()
    able = files._exchange(folder / "a", folder / "b")
    for name in ("a", "b"):
        (folder / name).rmdir()
    return able


def test_a_folder_of_others_is_left_alone(tmp_path: Path) -> None:
    require_own(tmp_path, "main", "result")
    require_own(tmp_path / "new", "main", "result")
    (tmp_path / "main").write_text("")
    require_own(tmp_path, "main", "result")
    with pytest.raises(CircuitsError, match="already holds other files; .* for the bundle"):
        require_own(tmp_path, "another", "bundle")


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "numbers.txt"
    path.write_text("1")
    with (
        pytest.raises(CircuitsError, match=r"numbers\.txt cannot be written: full"),
        replacing(path, Broken),
    ):
        raise Broken("full")
    assert path.read_text() == "1"
    with replacing(path) as partial:
        partial.write_text("2")
    assert content(tmp_path) == {"numbers.txt": "2"}
    assert utf8("\ud83d") == b"\\ud83d"


def test_what_can_be_written_is_known_before(tmp_path: Path) -> None:
    require_writable(tmp_path / "a.txt")
    require_writable(tmp_path / "deep" / "er", folder=True)
    for path, folder in ((tmp_path / "none" / "a.txt", False), (tmp_path, False)):
        with pytest.raises(CircuitsError, match="cannot be written"):
            require_writable(path, folder=folder)
