"""Folders in folders, which are opened by plain names and closed with the one around them."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFWriter
from safetensors.numpy import save_file

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, FileAccessError, SourceChangedError
from ckptconv.io.folder import Folder
from ckptconv.io.source import Source

OTHERS = Path(__file__).parents[2] / "fixtures" / "others"


def nested(path: Path) -> Folder:
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "b" / "x").write_bytes(b"12345")
    (path / "y").write_bytes(b"67")
    return Folder(path)


def test_folders_and_files_are_listed_apart(tmp_path: Path) -> None:
    with nested(tmp_path) as folder:
        assert (folder.names, folder.folders) == (("y",), ("a",))
        assert folder.inside("a").inside("b").names == ("x",)


def test_a_symlink_that_leads_nowhere_or_in_a_circle_is_skipped(tmp_path: Path) -> None:
    for name, to in (("circle", "circle"), ("nowhere", "gone"), ("there", "y")):
        (tmp_path / name).symlink_to(to)
    with nested(tmp_path) as folder:
        assert (folder.names, folder.folders) == (("there", "y"), ("a",))


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


def test_a_file_that_stands_for_its_folder_closes_the_others(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    source = Source(tmp_path / "a")
    folder = Folder.around(source)
    assert folder.open("a") is source
    other = folder.open("b")
    source.close()
    for one in (source, other):
        with pytest.raises(CkptconvError):
            one.read_at(0, 1)


def write_set(kind: str, path: Path) -> Path:
    """Several files that are one checkpoint; which of them stands for all."""
    arrays = {f"w{i}": np.full((2, 2), i, np.float32) for i in range(3)}
    if kind == "gguf":
        writer = GGUFWriter(path / "m.gguf", "llama", split_max_tensors=1)
        for name, values in arrays.items():
            writer.add_tensor(name, values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path / "m-00001-of-00003.gguf"
    if kind == "safetensors":
        for name, values in arrays.items():
            save_file({name: values}, path / f"{name}.safetensors")
        weight_map = {name: f"{name}.safetensors" for name in arrays}
        (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return path / "model.safetensors.index.json"
    for file in OTHERS.glob("tensorflow-shards.ckpt.*"):
        shutil.copy(file, path)
    return path / "tensorflow-shards.ckpt.index"


def handles_below(path: Path) -> list[str]:
    """The files of that folder alone: others' handles may be closed by a collector at any moment."""
    links = []
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            links.append(os.readlink(handle))
    return [link for link in links if link.startswith(f"{path}/")]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="lists the handles of a process, as Linux does")
@pytest.mark.parametrize("kind", ["gguf", "safetensors", "tensorflow"])
def test_a_set_with_a_bad_file_leaves_no_handle_open(kind: str, tmp_path: Path) -> None:
    first = write_set(kind, tmp_path)
    *_, last = sorted(path for path in tmp_path.iterdir() if path != first)
    os.truncate(last, last.stat().st_size // 2)
    assert handles_below(tmp_path) == []
    with pytest.raises(CkptconvError) as error:
        ckptconv.open(first)
    assert error.value.path is not None
    assert handles_below(tmp_path) == []
