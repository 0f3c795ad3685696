"""Where the entries of a zip archive lie, with the standard library as the judge."""

from __future__ import annotations

import random
import zipfile
from typing import TYPE_CHECKING

import pytest

from ckptconv.errors import CorruptFileError, UnsupportedError
from ckptconv.io.source import Source
from ckptconv.io.zip import LOCAL, ZipArchive

if TYPE_CHECKING:
    from pathlib import Path

COUNT = 2000


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small entries, an empty and a large one among them."""
    made = tmp_path_factory.mktemp("zip") / "a.zip"
    sizes = [1 << 20 if i % 500 == 7 else i % 97 for i in range(COUNT)]
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for i, size in enumerate(sizes):
            archive.writestr(f"data/{i}", bytes([i % 251]) * size)
    return made


def expected(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and length of every entry's contents."""
    with zipfile.ZipFile(path) as archive:
        return {one.filename: (one.header_offset + LOCAL.size + len(one.filename), one.file_size)
                for one in archive.infolist()}  # fmt: skip


@pytest.mark.parametrize("order", ["as they lie", "backwards", "by name", "at random", "from both ends"])
def test_entries_are_found_in_any_order(path: Path, order: str) -> None:
    """Local headers are read ahead: many at a time where they are asked for in their order, and never the contents of
    all where they are not.
    """
    wanted = expected(path)
    names = list(wanted)
    if order == "backwards":
        names.reverse()
    elif order == "by name":
        names.sort()
    elif order == "at random":
        random.Random(1).shuffle(names)
    elif order == "from both ends":
        names = [name for pair in zip(names, reversed(names), strict=True) for name in pair]
    with Source(path) as source:
        archive = ZipArchive(source)
        before = source.bytes_read
        for name in names:
            span = archive.span(name)
            assert (span.offset, span.length) == wanted[name]
        if order == "as they lie":
            assert source.bytes_read - before < 1 << 20  # of the 4 MiB that the large entries are


def test_every_start_of_an_end_record_is_refused(tmp_path: Path) -> None:
    """An archive of nothing is an end record alone, which `zipfile` reads; what is cut short of it is none."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w"):
        pass
    whole = path.read_bytes()
    for size in range(1, len(whole)):
        path.write_bytes(whole[:size])
        with Source(path) as source, pytest.raises(CorruptFileError, match="end record is missing"):
            ZipArchive(source)
        with pytest.raises(zipfile.BadZipFile):
            zipfile.ZipFile(path)
    path.write_bytes(whole)
    with Source(path) as source:
        assert ZipArchive(source).entries == {}


def test_a_compressed_entry_is_inflated_once_however_often_it_is_asked_for(tmp_path: Path) -> None:
    """As by whoever detects a format, then by its reader, then by whoever checks the file."""
    contents = random.Random(0).randbytes(300_000)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", contents)
    with Source(tmp_path / "a.zip") as source:
        for _ in range(3):
            span = ZipArchive.of(source).span("a")
            assert bytes(span.file.read_at(span.offset, span.length)) == contents
        assert source.bytes_read < source.size + 2000


@pytest.mark.parametrize(("version", "read"), [(63, True), (64, False)])
def test_the_newest_version_of_the_format_that_is_read_is_zipfiles(version: int, read: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"one")
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\1\2") + 6] = version
    path.write_bytes(data)
    assert (version <= zipfile.MAX_EXTRACT_VERSION) is read
    with Source(path) as source:
        if read:
            assert ZipArchive(source).read("a", 3) == b"one"
            return
        with pytest.raises(UnsupportedError, match=r"'a' asks for version 6\.4 of the zip format") as refused:
            ZipArchive(source)
        assert refused.value.hint


@pytest.mark.parametrize(
    "others", [b"", b"UT\5\0\1abcd", b"\2\0\0\0" + b"UT\1\0x"], ids=["alone", "a time", "two more"]
)
@pytest.mark.parametrize("wide", [(0, 1, 2), (0,), (1,), (2,), (0, 2), (1, 2), (0, 1)])
def test_sizes_and_offsets_in_zip64_fields_are_those_that_zipfile_reads(
    wide: tuple[int, ...], others: bytes, tmp_path: Path
) -> None:
    """As in archives of more than 4 GiB: each number that is all ones stands in the field, in a fixed order."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("first", b"1")
        archive.writestr("second", b"contents")
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2")
    places = (24, 20, 42)  # the size, the packed size, the local header's offset
    numbers = [data[at + place : at + place + 4] for place in places]
    field = b"".join(bytes(numbers[i]) + bytes(4) for i in wide)
    extra = others + b"\1\0" + len(field).to_bytes(2, "little") + field
    for i in wide:
        data[at + places[i] : at + places[i] + 4] = b"\xff" * 4
    data[at + 30 : at + 32] = len(extra).to_bytes(2, "little")
    data[at + 46 + len("second") : at + 46 + len("second")] = extra
    end = data.rindex(b"PK\5\6")
    data[end + 12 : end + 16] = (int.from_bytes(data[end + 12 : end + 16], "little") + len(extra)).to_bytes(4, "little")
    path.write_bytes(data)
    with Source(path) as source:
        found = ZipArchive(source)
        spans = {name: found.span(name) for name in found.entries}
        assert {name: (span.offset, span.length) for name, span in spans.items()} == expected(path)
        assert found.read("second", 8) == b"contents"


@pytest.mark.parametrize("field", [4, 6])
def test_an_archive_in_several_parts_is_said_to_be_one(field: int, tmp_path: Path) -> None:
    """The number of this part, and of the one with the directory, stand in the end record."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"one")
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\5\6") + field] = 1
    path.write_bytes(data)
    with Source(path) as source, pytest.raises(UnsupportedError, match="in several parts") as refused:
        ZipArchive(source)
    assert refused.value.hint == "join the parts first"


@pytest.mark.parametrize(("change", "words"), [(1, "inflates to less"), (-1, "inflates to more")])
def test_an_entry_that_inflates_to_another_size_is_refused(change: int, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", bytes(1000))
    data = bytearray(path.read_bytes())
    for at in (22, data.index(b"PK\1\2") + 24):
        assert data[at : at + 2] == (1000).to_bytes(2, "little")
        data[at : at + 2] = (1000 + change).to_bytes(2, "little")
    path.write_bytes(data)
    with Source(path) as source:
        span = ZipArchive(source).span("a")
        with pytest.raises(CorruptFileError, match=words):
            span.file.read_at(1, 998)  # not its start alone, which is had without the others
        if change > 0:
            with pytest.raises(CorruptFileError, match=words):
                ZipArchive(source).start("a", 1001)
