"""Folders in folders, which are opened by plain names and closed with the one around them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ckptconv.errors import CkptconvError, CorruptFileError, FileAccessError, SourceChangedError
from ckptconv.io.folder import Folder

if TYPE_CHECKING:
    from pathlib import Path


def nested(path: Path) -> Folder:
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "b" / "x").write_bytes(b"12345")
    (path / "y").write_bytes(b"67")
    return Folder(path)


def test_folders_and_files_are_listed_apart(tmp_path: Path) -> None:
    with nested(tmp_path) as folder:
        assert (folder.names, folder.folders) == (("y",), ("a",))
        assert folder.inside("a").inside("b").names == ("x",)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", "a\\b", "a\0"])
def test_a_name_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    with nested(tmp_path) as folder, pytest.raises(CorruptFileError):
        folder.inside(name)


def test_what_is_read_inside_counts_and_is_closed_with_the_whole(tmp_path: Path) -> None:
    with nested(tmp_path) as folder:
        source = folder.inside("a").inside("b").open("x")
        assert bytes(source.read_at(1, 3)) == b"234"
        assert (folder.size, folder.bytes_read) == (5, 3)
        folder.check_unchanged()
        (tmp_path / "a" / "b" / "x").write_bytes(b"123456")
        with pytest.raises(SourceChangedError) as changed:
            folder.check_unchanged()
        assert changed.value.path == tmp_path / "a" / "b" / "x"
    with pytest.raises((CkptconvError, OSError)):
        source.read_at(0, 1)


def test_a_folder_that_is_not_there_says_so_when_it_is_listed(tmp_path: Path) -> None:
    with nested(tmp_path) as folder, pytest.raises(FileAccessError):
        _ = folder.inside("c").names
