"""A GGUF in several files: the gguf package splits, and the whole is what it would have been in one."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGUFReader, GGUFWriter

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

TENSORS = {f"blk.{i}.attn_q.weight": np.full((4, 8), i, dtype=np.float32) for i in range(7)}


def write(path: Path, *, most: int = 0, alone: bool = False) -> Path:
    """The same model in one file, or in files of `most` tensors each, the first of them `alone` with the metadata."""
    writer = GGUFWriter(path, "llama", split_max_tensors=most, small_first_shard=alone)
    writer.add_block_count(7)
    writer.add_token_list(["<s>", "a"])
    for name, values in TENSORS.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    (tmp_path / "whole").mkdir()
    return write(tmp_path / "whole" / "m.gguf")


@pytest.fixture(params=[False, True], ids=["tensors in all", "metadata alone"])
def parts(request: pytest.FixtureRequest, tmp_path: Path) -> list[Path]:
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / "m.gguf", most=3, alone=request.param)
    found = sorted((tmp_path / "parts").iterdir())
    assert len(found) == (4 if request.param else 3)
    return found


def test_the_first_part_and_the_folder_stand_for_all(whole: Path, parts: list[Path], tmp_path: Path) -> None:
    for given in (parts[0], parts[0].parent):
        with ckptconv.open(given) as checkpoint:
            assert checkpoint.format == "gguf-split"
            assert {name: tensor.numpy().tolist() for name, tensor in checkpoint.items()} == {
                name: values.tolist() for name, values in TENSORS.items()
            }
            assert "split.count" not in checkpoint.metadata
            assert checkpoint.metadata["llama.block_count"] == 7
        assert ckptconv.diff(given, whole).equal
    assert ckptconv.inspect(parts[0], digest=True).digest == ckptconv.inspect(whole, digest=True).digest
    joined = tmp_path / "joined.gguf"
    ckptconv.convert(parts[0], joined)
    reader = GGUFReader(joined)
    assert [tensor.name for tensor in reader.tensors] == list(TENSORS)
    count = reader.get_field("llama.block_count")
    assert count is not None
    assert count.contents() == 7
    assert reader.get_field("split.count") is None


def test_any_other_part_is_the_file_that_it_is(parts: list[Path]) -> None:
    with ckptconv.open(parts[1]) as checkpoint:
        assert checkpoint.format == "gguf"
        assert [finding.code for finding in checkpoint.findings] == ["part"]
    with ckptconv.open(parts[0], format="gguf") as checkpoint:
        assert checkpoint.format == "gguf"


def test_a_folder_with_one_file_is_that_file_and_several_are_listed(whole: Path, parts: list[Path]) -> None:
    assert ckptconv.diff(whole.parent, whole).equal
    shutil.copy(whole, parts[0].parent / "other.gguf")
    with pytest.raises(UsageError, match=r"2 models: .*m-00001-of-.*'other.gguf'"):
        ckptconv.open(parts[0].parent)


def test_a_folder_without_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing yet")
    with pytest.raises(UsageError, match="the folder has no GGUF file") as refused:
        ckptconv.open(tmp_path, format="gguf-split")
    assert (refused.value.path, refused.value.hint) == (tmp_path, "name a file in it")


def test_a_missing_part_is_named(parts: list[Path]) -> None:
    parts[1].unlink()
    with pytest.raises(CorruptFileError, match=f"1 of {len(parts)} parts missing: '{parts[1].name}'") as caught:
        ckptconv.open(parts[0])
    assert "--from gguf" in str(caught.value.hint)


def test_parts_that_changed_places_are_reported(parts: list[Path]) -> None:
    spare = parts[0].with_name("spare")
    parts[1].rename(spare)
    parts[2].rename(parts[1])
    spare.rename(parts[2])
    with pytest.raises(CorruptFileError, match=r"says that it is part 3 .* that it is part 2"):
        ckptconv.open(parts[0])


def test_a_renamed_first_part_is_reported(parts: list[Path]) -> None:
    renamed = parts[0].rename(parts[0].with_name("first.gguf"))
    with ckptconv.open(renamed) as checkpoint:
        assert [finding.code for finding in checkpoint.findings] == ["part"]
    with pytest.raises(CorruptFileError, match="its name does not say"):
        ckptconv.open(renamed, format="gguf-split")


def test_a_part_that_comes_twice_is_reported(parts: list[Path]) -> None:
    data = bytearray(parts[1].read_bytes())
    at = data.index(b"split.no") + len("split.no") + 4
    assert data[at] == 1
    data[at] = 2
    parts[2].write_bytes(data)
    with pytest.raises(CorruptFileError, match="is in two parts"):
        ckptconv.open(parts[0])


def test_a_count_of_tensors_that_does_not_hold_is_reported(parts: list[Path]) -> None:
    data = bytearray(parts[0].read_bytes())
    at = data.index(b"split.tensors.count") + len("split.tensors.count") + 4
    assert data[at] == 7
    data[at] = 8
    parts[0].write_bytes(data)
    with pytest.raises(CorruptFileError, match="the parts hold 7 tensors, and the first says that there are 8"):
        ckptconv.open(parts[0])


def test_a_cut_part_is_an_error_that_names_it(parts: list[Path]) -> None:
    data = parts[-1].read_bytes()
    for length in range(0, len(data), 7):
        parts[-1].write_bytes(data[:length])
        with pytest.raises(CkptconvError) as caught:
            ckptconv.open(parts[0])
        assert caught.value.path is not None
