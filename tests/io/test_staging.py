"""Finished files are read under their own names before they are put in their places."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from ckptconv.errors import FileAccessError
from ckptconv.io.leftovers import folder_beside
from ckptconv.io.staging import staged
from ckptconv.io.target import Target
from tests.support.systems import without_links

if TYPE_CHECKING:
    from pathlib import Path


def test_files_stand_side_by_side_and_leave_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"before")
    with Target(tmp_path / "a") as target:
        target.write_at(0, b"graph")
        (tmp_path / "inner").mkdir()
        target.beside("inner/data").write_at(0, b"data")
        with staged(target, ["there"]) as path:
            assert (path.name, path.read_bytes()) == ("a", b"graph")
            assert (path.parent / "inner" / "data").read_bytes() == b"data"
            assert (path.parent / "there").read_bytes() == b"before"
            assert not (tmp_path / "a").exists()
            target.commit()
        assert (tmp_path / "a").read_bytes() == b"graph"
    assert sorted(os.listdir(tmp_path)) == ["a", "inner", "there"]
    assert (tmp_path / "inner" / "data").read_bytes() == b"data"


def test_what_is_not_committed_is_gone(tmp_path: Path) -> None:
    with Target(tmp_path / "a") as target, staged(target):
        target.write_at(0, b"graph")
    assert os.listdir(tmp_path) == []


def test_without_links_they_are_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").write_bytes(b"before")
    with monkeypatch.context() as patch:
        without_links(patch)
        with Target(tmp_path / "a") as target:
            target.write_at(0, b"graph")
            with staged(target, ["there"]) as path:
                assert path.read_bytes() == b"graph"
                assert (path.parent / "there").read_bytes() == b"before"
                target.commit()
    assert sorted(os.listdir(tmp_path)) == ["a", "there"]


def test_with_neither_links_nor_copies_there_is_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with Target(tmp_path / "a") as target, monkeypatch.context() as patch:
        without_links(patch)
        patch.setattr("shutil.copyfile", full)
        with pytest.raises(FileAccessError, match="before it is in its place") as caught, staged(target):
            pass
    assert "without --verify" in (caught.value.hint or "")
    assert os.listdir(tmp_path) == []


def test_the_next_run_removes_a_dead_runs_folder_and_no_live_ones(tmp_path: Path) -> None:
    with folder_beside(tmp_path / "a") as live:
        dead = live.with_name(live.name[:-1] + "x")
        dead.mkdir()
        (dead / "data").write_bytes(b"left over")
        with Target(tmp_path / "a"):
            assert live.is_dir()
            assert not dead.exists()
