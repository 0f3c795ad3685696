"""Archives as folders: what is in them, what is passed over, what is refused."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest

from ckptconv.errors import CkptconvError, CorruptFileError, FileAccessError, LimitError, UnsupportedError
from ckptconv.io import archive, archive_kinds, spool
from ckptconv.io.archive import Archive
from ckptconv.io.checksum import CHUNK
from ckptconv.io.source import Source
from tests.support.archive_files import tarred, zipped

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILES = {"./top/a.bin": b"one", "top/b/c.bin": bytes(range(256)) * 9}


def contents(path: Path) -> dict[str, bytes]:
    with Source(path) as source:
        opened = Archive.of(source)
        members = {name: opened.open(name) for name in opened.members}
        return {name: bytes(one.read_at(0, one.size)) for name, one in members.items()}


def made(path: Path, kind: str, members: Mapping[str, bytes]) -> Path:
    match kind:
        case "stored":
            return zipped(path, members)
        case "deflated":
            return zipped(path, members, zipfile.ZIP_DEFLATED)
        case _:
            return tarred(path, members, kind)


KINDS = ["stored", "deflated", "w:", "w:gz"]


@pytest.mark.parametrize("kind", KINDS)
def test_members_are_read_as_they_were_packed(kind: str, tmp_path: Path) -> None:
    assert contents(made(tmp_path / "x", kind, FILES)) == {
        name.removeprefix("./"): data for name, data in FILES.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_folder_of_folders(kind: str, tmp_path: Path) -> None:
    with Source(made(tmp_path / "x", kind, FILES)) as source:
        folder = Archive.of(source).folder("")
        assert (folder.names, folder.folders) == ((), ("top",))
        top = folder.inside("top")
        assert (top.names, top.folders) == (("a.bin",), ("b",))
        assert bytes(top.open("a.bin").read_at(0, 3)) == b"one"
        assert top.inside("b").open("c.bin").size == 256 * 9
        assert folder.used == ["top/a.bin", "top/b/c.bin"]
        with pytest.raises(FileAccessError, match="no such file"):
            top.open("d.bin")
        with pytest.raises(CorruptFileError, match="not a name of a file"):
            top.open("../a.bin")


@pytest.mark.parametrize("kind", ["stored", "w:"])
def test_what_is_stored_is_read_where_it_lies(kind: str, tmp_path: Path) -> None:
    path = made(tmp_path / "x", kind, FILES)
    with Source(path) as source:
        member = Archive.of(source).open("top/b/c.bin")
        place = member.place(100)
        assert place is not None
        assert place[0] is source
        assert path.read_bytes()[place[1]] == 100
        assert not Archive.of(source).members["top/b/c.bin"].compressed


@pytest.mark.parametrize("kind", ["deflated", "w:gz"])
def test_what_is_compressed_lies_nowhere_in_the_file(kind: str, tmp_path: Path) -> None:
    with Source(made(tmp_path / "x", kind, FILES)) as source:
        assert Archive.of(source).open("top/b/c.bin").place(0) is None
        assert Archive.of(source).members["top/b/c.bin"].compressed


@pytest.mark.parametrize("kind", KINDS)
def test_what_macos_adds_is_skipped(kind: str, tmp_path: Path) -> None:
    junk = {"__MACOSX/top/._a.bin": b"x", "top/._a.bin": b"x", "top/.DS_Store": b"x", "._top": b"x"}
    assert list(contents(made(tmp_path / "x", kind, {**FILES, **junk}))) == ["top/a.bin", "top/b/c.bin"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "..", "a/.."])
def test_names_that_lead_out_are_refused(kind: str, name: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="leads out of it"):
        contents(made(tmp_path / "x", kind, {**FILES, name: b"x"}))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pair", [("a", "./a"), ("a", "a/b"), ("a/b", "a"), ("a//b", "a/b")])
def test_two_members_of_one_name_are_refused(kind: str, pair: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="two members"):
        contents(made(tmp_path / "x", kind, dict.fromkeys(pair, b"x")))


def test_links_in_a_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        info = zipfile.ZipInfo("model.pth")
        info.create_system, info.external_attr = 3, 0o120777 << 16
        file.writestr(info, "/etc/passwd")
    with pytest.raises(UnsupportedError, match="symbolic link"):
        contents(tmp_path / "x.zip")


def test_very_many_and_very_deep_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LimitError, match="too deep"):
        contents(zipped(tmp_path / "x.zip", {"a/" * 65 + "b": b""}))
    monkeypatch.setattr(archive, "MAX_FILES", 3)
    with pytest.raises(LimitError, match="more than 3 files"):
        contents(zipped(tmp_path / "y.zip", {str(i): b"" for i in range(4)}))


@pytest.mark.parametrize("kind", ["deflated", "w:gz"])
def test_bombs_are_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (archive_kinds, spool):
        monkeypatch.setattr(module, "FREE_ARCHIVE_BYTES", 1 << 16)
    path = made(tmp_path / "x", kind, {"a": bytes(1 << 22)})
    with pytest.raises(LimitError, match="inflates to"):
        contents(path)


def test_archives_in_archives_are_refused(tmp_path: Path) -> None:
    inner = zipped(tmp_path / "x.zip", FILES).read_bytes()
    with Source(zipped(tmp_path / "y.zip", {"x.zip": inner})) as source:
        member = Archive.of(source).open("x.zip")
        with pytest.raises(UnsupportedError, match="archive in an archive"):
            Archive.of(member)


@pytest.mark.parametrize("size", [CHUNK, CHUNK + 1, CHUNK + 21, CHUNK + 200, 2 * CHUNK + 100])
def test_a_piece_that_is_full_may_not_be_all_that_was_taken_in(size: int, tmp_path: Path) -> None:
    """The last match of a stream may go on behind the end of a piece, when none of the input is left."""
    for kind in ("deflated", "w:gz"):
        assert contents(made(tmp_path / "x", kind, {"a": bytes(size)})) == {"a": bytes(size)}


def test_a_gzip_file_of_one_file_is_called_as_that(tmp_path: Path) -> None:
    (tmp_path / "model.pth.gz").write_bytes(gzip.compress(b"one"))
    assert contents(tmp_path / "model.pth.gz") == {"model.pth": b"one"}


def test_gzip_streams_may_follow_each_other_and_zeros_end_them(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"one") + gzip.compress(b"two") + bytes(512))
    assert contents(tmp_path / "x.gz") == {"x": b"onetwo"}


def test_a_gzip_file_that_is_cut_or_changed_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        info = tarfile.TarInfo("a")
        info.size = 300
        file.addfile(info, io.BytesIO(bytes(range(150)) * 2))
    whole, path, refused = buffer.getvalue(), tmp_path / "x", 0
    for size in range(3, len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CorruptFileError):
            contents(path)
    for at in range(10, len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        try:
            assert contents(path) == {"a": bytes(range(150)) * 2}, at
        except CkptconvError:
            refused += 1
    assert refused >= len(whole) - 10 - 2  # the file's name in the header is nobody's


def test_bytes_behind_a_gzip_stream_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(gzip.compress(b"one") + b"more")
    with pytest.raises(CorruptFileError, match="does not inflate"):
        contents(tmp_path / "x")


def test_inflating_tells_how_far_it_is(tmp_path: Path) -> None:
    (tmp_path / "x.gz").write_bytes(zlib.compress(bytes(3 * CHUNK), 0, 31))
    told: list[tuple[int, int]] = []
    with Source(tmp_path / "x.gz") as source:
        source.progress = lambda done, total: told.append((done, total))
        Archive.of(source)
        assert told[-1] == (source.size, source.size)
        assert len(told) == 4


def test_names_as_windows_packs_them_are_paths(tmp_path: Path) -> None:
    """Of .NET before 4.6.1 and old programs: backslashes, folders as members, names of code page 437."""
    path = zipped(tmp_path / "x.zip", {"top\\": b"", "top\\a.bin": b"one", "cafX": b"two"})
    path.write_bytes(path.read_bytes().replace(b"cafX", b"caf\x82"))
    with zipfile.ZipFile(path) as theirs:
        assert "caf\u00e9" in theirs.namelist()
    assert contents(path) == {"top/a.bin": b"one", "caf\u00e9": b"two"}


@pytest.mark.parametrize("name", ["..\\a", "a\\..\\..\\b", "\\a"])
def test_backslashes_do_not_lead_out_either(name: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="leads out of it"):
        contents(zipped(tmp_path / "x.zip", {name: b"one"}))
