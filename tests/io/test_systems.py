"""Files are written whole on other systems too: Windows' rules, file systems without links, without locks."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import ckptconv
from ckptconv.errors import FileAccessError, TargetExistsError
from ckptconv.io.source import Source
from ckptconv.io.target import Target
from tests.support.craft import saved
from tests.support.systems import like_windows, without_links, without_locks, without_unnamed_files

if TYPE_CHECKING:
    from pathlib import Path

STATE = {f"layer.{i}": torch.arange(1 << 19, dtype=torch.float32) + i for i in range(8)}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "source").mkdir()
    return saved(tmp_path / "source" / "in.pth", STATE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "target").mkdir()
    return tmp_path / "target"


SYSTEMS = ["windows", "no links", "links not supported", "no locks"]


@pytest.fixture(params=SYSTEMS)
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    match request.param:
        case "windows":
            like_windows(monkeypatch)
        case "no links":
            without_links(monkeypatch)
        case "links not supported":
            without_links(monkeypatch, errno.ENOTSUP)
        case "no locks":
            without_locks(monkeypatch)
        case "no unnamed files":
            without_unnamed_files(monkeypatch)
    return str(request.param)


@pytest.mark.usefixtures("system")
def test_files_are_written_replaced_and_refused_as_ever(source: Path, folder: Path) -> None:
    target = folder / "out.safetensors"
    ckptconv.convert(source, target)
    for name, values in load_file(target).items():
        np.testing.assert_array_equal(values, STATE[name].numpy())
    with pytest.raises(TargetExistsError):
        ckptconv.convert(source, target)
    target.write_bytes(b"old")
    ckptconv.convert(source, target, force=True)
    assert ckptconv.diff(source, target).equal
    assert os.listdir(folder) == ["out.safetensors"]


@pytest.mark.parametrize("system", ["this one", "no unnamed files", *SYSTEMS], indirect=True)
@pytest.mark.usefixtures("system")
def test_what_appears_meanwhile_is_not_replaced(folder: Path) -> None:
    path = folder / "out.bin"
    with Target(path) as target:
        target.write_at(0, b"ours")
        path.write_bytes(b"theirs")
        with pytest.raises(TargetExistsError):
            target.commit()
    assert path.read_bytes() == b"theirs"
    assert os.listdir(folder) == ["out.bin"]


@pytest.mark.usefixtures("system")
def test_what_is_not_committed_leaves_nothing(folder: Path) -> None:
    with Target(folder / "out.bin") as target:
        target.write_at(0, b"half")
    assert os.listdir(folder) == []


@pytest.mark.usefixtures("system")
def test_sets_of_shards_and_graphs_with_their_data(source: Path, folder: Path) -> None:
    ckptconv.convert(source, f"{folder}/set/", shard_size=6 << 20, to_format="safetensors")
    ckptconv.convert(source, f"{folder}/set/", shard_size=4 << 20, to_format="safetensors", force=True)
    assert ckptconv.diff(source, folder / "set").equal
    digits = "fixtures/digits-metadata.pth"
    ckptconv.convert(digits, folder / "a.onnx", arch="mlp", options={"external-data": "a.data"})
    assert ckptconv.diff(digits, folder / "a.onnx").equal
    assert sorted(os.listdir(folder)) == ["a.data", "a.onnx", "set"]


@pytest.mark.usefixtures("system")
def test_archives_that_are_inflated(folder: Path) -> None:
    arrays: dict[str, Any] = {name: values.numpy() for name, values in STATE.items()}
    np.savez_compressed(folder / "in.npz", **arrays)
    ckptconv.convert(folder / "in.npz", folder / "out.safetensors")
    for name, values in load_file(folder / "out.safetensors").items():
        np.testing.assert_array_equal(values, arrays[name])


def test_a_dead_runs_file_is_removed_and_an_open_one_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    like_windows(monkeypatch)
    dead, live = (folder / f".out.bin.ckptconv-tmp-{digits}" for digits in ("0123456789ab", "ba9876543210"))
    for path in (dead, live):
        path.write_bytes(b"half")
    with live.open("rb"), Target(folder / "out.bin") as target:
        target.write_at(0, b"x")
        target.commit()
    assert sorted(os.listdir(folder)) == sorted(["out.bin", live.name])


def test_where_nothing_can_be_locked_nothing_is_swept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch)
    other = folder / ".out.bin.ckptconv-tmp-0123456789ab"
    other.write_bytes(b"perhaps a live run's")
    with Target(folder / "out.bin") as target:
        target.commit()
    assert sorted(os.listdir(folder)) == sorted(["out.bin", other.name])


def test_an_open_target_is_an_error_with_a_hint_and_stays_as_it_was(
    source: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = folder / "out.safetensors"
    target.write_bytes(b"old")
    like_windows(monkeypatch)
    with target.open("rb"), pytest.raises(FileAccessError) as caught:
        ckptconv.convert(source, target, force=True)
    assert "close what has it open" in str(caught.value.hint)
    assert target.read_bytes() == b"old"
    assert os.listdir(folder) == ["out.safetensors"]


def test_a_container_without_proc_gets_a_named_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exists: Any = os.stat

    def stat(path: object, *rest: object, **options: object) -> Any:
        if str(path).startswith("/proc/"):
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return exists(path, *rest, **options)

    monkeypatch.setattr(os, "stat", stat)
    with Target(folder / "out.bin") as target:
        target.write_at(0, b"whole")
        assert len(os.listdir(folder)) == 1
        target.commit()
    assert (folder / "out.bin").read_bytes() == b"whole"
    assert os.listdir(folder) == ["out.bin"]


def test_threads_share_a_handle_without_pread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    blocks = [bytes([number]) * 4096 for number in range(256)]
    for name in ("pread", "preadv", "pwrite"):
        monkeypatch.delattr(os, name)
    with Target(tmp_path / "out.bin") as target, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: target.write_at(number * 4096, blocks[number]), range(256)))
        target.commit()
    assert (tmp_path / "out.bin").read_bytes() == b"".join(blocks)
    with Source(tmp_path / "out.bin") as source, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda number: bytes(source.read_at(number * 4096, 4096)), range(256))) == blocks


@pytest.mark.parametrize(
    "name",
    ["C:x.json", "a:b.json", "con", "NUL.json", "com1.txt", "x.json.", "x.json ", "1_Dense/aux", "a\\..\\x.json", "x?"],
)
def test_windows_is_not_given_a_name_that_it_takes_for_something_else(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Target(folder / "out.safetensors") as target:
        target.beside(name, folders=name.count("/"))  # a name like any other
    like_windows(monkeypatch)
    with Target(folder / "out.safetensors") as target, pytest.raises(FileAccessError, match="not a valid file name"):
        target.beside(name, folders=name.count("/"))
    assert not any(folder.iterdir())


@pytest.mark.parametrize("replace", [False, True])
def test_two_files_that_have_one_name_on_a_drive_are_not_both_written(replace: bool, folder: Path) -> None:
    """A link stands for a drive that keeps no case: both names lead to one file."""
    (folder / "Config.json").symlink_to("config.json")
    with Target(folder / "out.safetensors", replace=replace) as target:
        for name in ("config.json", "Config.json"):
            target.beside(name).write_at(0, b"{}")
        with pytest.raises((FileAccessError, TargetExistsError)):
            target.commit()
    assert [*os.listdir(folder)] == ["Config.json"]
    assert not (folder / "config.json").exists()
