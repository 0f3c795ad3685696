"""Tar archives: the members that Python's tarfile lists, and nothing that is not a plain file."""

from __future__ import annotations

import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.io import tar
from ckptconv.io.source import Source
from ckptconv.io.tar import members
from tests.support.archive_files import tarred

if TYPE_CHECKING:
    from pathlib import Path

NAMES = {
    "a": b"one", "./b/c.bin": bytes(1025), "é/ü": b"", "d" * 90 + "/" + "e" * 80: b"two",
    "f/" * 60 + "g" * 150: b"x" * 512,
}  # fmt: skip


def listed(path: Path) -> dict[str, bytes]:
    with Source(path) as source:
        return {name: bytes(source.read_at(one.offset, one.size)) for name, one in members(source).items()}


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "GNU"])
def test_members_are_those_that_pythons_tarfile_lists(form: int, tmp_path: Path) -> None:
    path = tarred(tmp_path / "x.tar", NAMES, format=form)
    with tarfile.open(path) as file:
        expected = {one.name: file.extractfile(one).read() for one in file}  # type: ignore[union-attr]
    assert listed(path) == expected == NAMES


def test_folders_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "f").write_bytes(b"x")
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        file.add(tmp_path / "d", "d")
    assert listed(tmp_path / "x.tar") == {"d/e/f": b"x"}


def test_a_header_for_all_members_is_skipped_unless_it_names_them(tmp_path: Path) -> None:
    path = tarred(tmp_path / "x.tar", {"a": b"1"}, format=tarfile.PAX_FORMAT, pax_headers={"comment": "git's"})
    assert listed(path) == {"a": b"1"}
    path = tarred(tmp_path / "y.tar", {"a": b"1"}, format=tarfile.PAX_FORMAT, pax_headers={"path": "b"})
    with pytest.raises(UnsupportedError, match="all members"):
        listed(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, b"S", b"K"])
def test_what_is_no_plain_file_is_refused(kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        info = tarfile.TarInfo("model.pth")
        info.type, info.linkname = kind, "/etc/passwd"
        file.addfile(info, io.BytesIO(b""))
    with pytest.raises(UnsupportedError, match=r"'model\.pth' that is a link, or no plain file"):
        listed(tmp_path / "x.tar")


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as file:
        for data in (b"one", b"two"):
            info = tarfile.TarInfo("a")
            info.size = 3
            file.addfile(info, io.BytesIO(data))
    with pytest.raises(UnsupportedError, match="two members 'a'"):
        listed(tmp_path / "x.tar")


def test_very_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MAX_FILES", 10)
    with pytest.raises(LimitError, match="more than 10 members"):
        listed(tarred(tmp_path / "x.tar", {str(i): b"" for i in range(21)}))


@pytest.mark.parametrize("size", ["", "x", "-1", "1" * 20, "1.5", "\u0661"])
def test_a_size_that_is_no_number_is_refused(size: str, tmp_path: Path) -> None:
    path = tarred(tmp_path / "x.tar", {"a": b"1"}, format=tarfile.PAX_FORMAT, pax_headers={"size": size})
    with pytest.raises(CorruptFileError, match="extended size is not a number"):
        listed(path)


def test_a_long_header_is_refused(tmp_path: Path) -> None:
    path = tarred(tmp_path / "x.tar", {"a": b""}, format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * (1 << 17)})
    with pytest.raises(LimitError, match="extended header"):
        listed(path)


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT], ids=["pax", "GNU"])
def test_an_archive_that_is_cut_is_refused_or_ends_where_tarfile_ends(form: int, tmp_path: Path) -> None:
    whole = tarred(tmp_path / "x.tar", NAMES, format=form).read_bytes()
    path, refused = tmp_path / "y.tar", 0
    for size in range(0, len(whole), 64):
        path.write_bytes(whole[:size])
        try:
            found = listed(path)
        except CorruptFileError:
            refused += 1
            continue
        assert {name: NAMES[name] for name in found} == found
    assert refused > 10


def test_flipped_bits_in_a_header_are_noticed(tmp_path: Path) -> None:
    whole = tarred(tmp_path / "x.tar", {"a": b"12", "b": b""}, format=tarfile.GNU_FORMAT).read_bytes()
    path, unseen = tmp_path / "y.tar", 0
    for at in range(512):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        try:
            listed(path)
            unseen += 1
        except CkptconvError:
            pass
    assert unseen <= 2  # what pads the checksum itself
