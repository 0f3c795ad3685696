"""Where a file is written to: never half a file, never a surprise about modes, links and what was there before."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

import ckptconv
from ckptconv.errors import CkptconvError, FileAccessError, TargetExistsError, UsageError
from ckptconv.io.target import Target
from tests.support.craft import FOUR_FLOATS, archive, state_dict, tensor


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return archive(folder / "in.pth", state_dict(w=tensor()), {"0": FOUR_FLOATS})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


@pytest.fixture(params=["unnamed", "named"])
def temporary(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways of keeping an unfinished file: without a name, and beside the target where that cannot be had."""
    if request.param == "named":
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    return str(request.param)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def holds_the_tensor(path: Path) -> bool:
    with ckptconv.open(path) as checkpoint:
        return bytes(checkpoint["w"].read()) == FOUR_FLOATS


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0, 0o666)])
@pytest.mark.usefixtures("temporary")
def test_a_new_file_has_the_mode_that_the_umask_leaves(umask: int, expected: int, source: Path, folder: Path) -> None:
    before = os.umask(umask)
    try:
        ckptconv.convert(source, folder / "out.safetensors")
    finally:
        os.umask(before)
    assert mode(folder / "out.safetensors") == expected


@pytest.mark.parametrize("kept", [0o640, 0o600, 0o444])
@pytest.mark.usefixtures("temporary")
def test_a_replaced_file_keeps_its_mode(kept: int, source: Path, folder: Path) -> None:
    target = folder / "out.safetensors"
    target.write_bytes(b"old")
    target.chmod(kept)
    ckptconv.convert(source, target, force=True)
    assert mode(target) == kept
    assert holds_the_tensor(target)
    assert os.listdir(folder) == ["out.safetensors"]


@pytest.mark.usefixtures("temporary")
def test_an_existing_target_is_refused_without_force(source: Path, folder: Path) -> None:
    target = folder / "out.safetensors"
    target.write_bytes(b"old")
    with pytest.raises(TargetExistsError) as error:
        ckptconv.convert(source, target)
    assert "--force" in str(error.value.hint)
    assert target.read_bytes() == b"old"
    assert os.listdir(folder) == ["out.safetensors"]


@pytest.mark.usefixtures("temporary")
def test_a_symlink_keeps_pointing_where_it_points(source: Path, folder: Path) -> None:
    (folder / "real").mkdir()
    real, link = folder / "real" / "model.safetensors", folder / "link.safetensors"
    link.symlink_to(Path("real") / "model.safetensors")
    ckptconv.convert(source, link)  # a dangling one is filled
    assert link.is_symlink()
    assert holds_the_tensor(real)
    with pytest.raises(TargetExistsError):
        ckptconv.convert(source, link)
    ckptconv.convert(source, link, force=True)
    assert link.is_symlink()
    assert os.listdir(folder / "real") == ["model.safetensors"]


def test_a_symlink_that_leads_nowhere_or_in_a_circle_is_refused(source: Path, folder: Path) -> None:
    (folder / "a.pth").symlink_to(folder / "b.pth")
    (folder / "b.pth").symlink_to(folder / "a.pth")
    (folder / "c.pth").symlink_to(folder / "missing" / "c.pth")
    for name, hint in (("a.pth", "in a circle"), ("c.pth", "mkdir -p")):
        for force in (False, True):
            with pytest.raises(FileAccessError) as error:
                ckptconv.convert(source, folder / name, force=force)
            assert hint in str(error.value.hint)
    assert sorted(os.listdir(folder)) == ["a.pth", "b.pth", "c.pth"]


@pytest.mark.usefixtures("temporary")
def test_a_file_can_be_converted_onto_itself(source: Path) -> None:
    before = ckptconv.inspect(source, digest=True).digest
    with pytest.raises(TargetExistsError):
        ckptconv.convert(source, source)
    ckptconv.convert(source, source, force=True)
    assert ckptconv.inspect(source, digest=True).digest == before
    ckptconv.convert(source, source, to_format="safetensors", force=True)
    assert ckptconv.inspect(source, digest=True).digest == before
    assert os.listdir(source.parent) == [source.name]


def test_a_hard_link_of_the_source_leaves_the_source_as_it_was(source: Path, folder: Path) -> None:
    before = source.read_bytes()
    os.link(source, folder / "same.pth")
    ckptconv.convert(source, folder / "same.pth", to_format="safetensors", force=True)
    assert source.read_bytes() == before
    assert holds_the_tensor(folder / "same.pth")


def test_a_failed_conversion_onto_itself_leaves_it_as_it_was(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pth", state_dict(w=tensor()), {"0": FOUR_FLOATS})
    data = bytearray(path.read_bytes())
    data[data.index(FOUR_FLOATS)] ^= 1
    path.write_bytes(data)
    with pytest.raises(CkptconvError):
        ckptconv.convert(path, path, force=True)
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["x.pth"]


def test_what_is_no_file_is_refused_as_a_target(source: Path, folder: Path) -> None:
    os.mkfifo(folder / "pipe.pth")
    for path in (folder, folder / "pipe.pth", Path("/dev/null")):
        for force in (False, True):
            with pytest.raises(FileAccessError) as error:
                ckptconv.convert(source, path, to_format="torch", force=force)
            assert error.value.hint
    with pytest.raises(UsageError):
        ckptconv.convert(source, "-", to_format="torch")


def test_a_folder_that_is_missing_is_named_with_the_command_that_makes_it(source: Path, folder: Path) -> None:
    with pytest.raises(FileAccessError, match="folder") as error:
        ckptconv.convert(source, folder / "no" / "such" / "out.pth")
    assert "mkdir -p" in str(error.value.hint)


def test_a_folder_that_is_a_file_is_refused(source: Path) -> None:
    with pytest.raises(FileAccessError):
        ckptconv.convert(source, source / "out.pth")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused(source: Path, folder: Path) -> None:
    folder.chmod(0o555)
    try:
        with pytest.raises(FileAccessError):
            ckptconv.convert(source, folder / "out.pth")
    finally:
        folder.chmod(0o755)
    assert os.listdir(folder) == []


@pytest.mark.usefixtures("temporary")
@pytest.mark.parametrize(
    "name", ["x" * 251 + ".pth", "ü" * 125 + ".pth", "line\nfeed.pth", " .pth", "-.pth", "a b'\"$.pth", "\udcff.pth"]
)
def test_any_name_that_the_file_system_takes_will_do(name: str, source: Path, folder: Path) -> None:
    for force in (False, True):
        ckptconv.convert(source, folder / name, force=force)
        assert holds_the_tensor(folder / name)
        assert os.listdir(folder) == [name]


@pytest.mark.parametrize("name", ["x" * 252 + ".pth", "nul\0.pth"])
def test_a_name_that_the_file_system_refuses_is_an_error_of_ours(name: str, source: Path, folder: Path) -> None:
    with pytest.raises(FileAccessError):
        ckptconv.convert(source, folder / name)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("name", ["x.pth\0", "missing.pth", "x" * 300, ""])
def test_a_source_that_cannot_be_opened_is_an_error_of_ours(name: str, folder: Path) -> None:
    with pytest.raises(CkptconvError) as error:
        ckptconv.open(folder / name if name else folder)
    assert error.value.hint


def test_a_pipe_or_a_device_as_source_does_not_hang(folder: Path) -> None:
    os.mkfifo(folder / "pipe.pth")
    for path in (folder / "pipe.pth", Path("/dev/zero"), folder, Path("-")):
        with pytest.raises(CkptconvError) as error:
            ckptconv.open(path)
        assert error.value.hint


def test_leaving_without_a_commit_leaves_the_disk_as_it_was(folder: Path, temporary: str) -> None:
    with Target(folder / "out.bin") as target:
        target.write_at(0, b"half")
        assert len(os.listdir(folder)) == (temporary == "named")
        assert target.readable_path.read_bytes() == b"half"
    assert os.listdir(folder) == []


def test_a_disk_with_too_little_room_is_refused_before_anything_is_written(folder: Path) -> None:
    with Target(folder / "out.bin") as target, pytest.raises(FileAccessError, match="no space left"):
        target.reserve(1 << 60)
    assert os.listdir(folder) == []


@pytest.mark.parametrize("rest", ["x.pth", "folder/x.pth"])
def test_a_path_that_goes_on_behind_a_file_is_reported(rest: str, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"PK")
    with pytest.raises(FileAccessError, match=r"'a\.zip' is a file: nothing is written into one"):
        Target(tmp_path / "a.zip" / rest)
    assert (tmp_path / "a.zip").read_bytes() == b"PK"
