"""Folders of MLC-LLM's: what TVM loads of them is what is read here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.errors import CkptconvError, CorruptFileError, UnknownFormatError, UnsupportedError
from tests.support.reads import bytes_read, expect_any_range

if TYPE_CHECKING:
    from collections.abc import Callable

RUNTIMES = Path(__file__).parents[3] / "fixtures" / "others" / "runtimes"
FOLDER = RUNTIMES / "mlc"
INDEX = "tensor-cache.json"


def test_every_tensor_is_what_tvm_loads(tmp_path: Path) -> None:
    with ckptconv.open(FOLDER) as checkpoint, np.load(RUNTIMES / "mlc.npz") as expected:
        assert checkpoint.format == "mlc"
        assert {*checkpoint} == {*expected.files}
        assert checkpoint["model.norm.weight"].info.dtype is DType.F32
        for name, tensor in checkpoint.items():
            expect_any_range(tensor, expected[name].tobytes())
            assert bytes(tensor.read()) == expected[name].tobytes(), name
        assert checkpoint.metadata == {"ParamSize": 9, "ParamBytes": 205.0, "BitsPerParam": 4.5}
    ckptconv.convert(FOLDER, tmp_path / "x.safetensors")
    assert ckptconv.diff(FOLDER, tmp_path / "x.safetensors").equal


def test_the_index_of_half_the_bits_is_read_where_it_is_named() -> None:
    with ckptconv.open(FOLDER / "tensor-cache-b16.json") as checkpoint:
        assert checkpoint["model.norm.weight"].info.dtype is DType.BF16


def test_the_older_name_of_the_index_is_known(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "m")
    (tmp_path / "m" / INDEX).rename(tmp_path / "m" / "ndarray-cache.json")
    assert ckptconv.diff(FOLDER, tmp_path / "m").equal


def test_a_file_of_elements_names_the_index_beside_it() -> None:
    with pytest.raises(UnknownFormatError) as refused:
        ckptconv.open(FOLDER / "params_shard_0.bin")
    assert refused.value.hint is not None
    assert refused.value.hint.endswith(INDEX)


def changed(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the folder with another index."""
    shutil.copytree(FOLDER, folder / "m")
    document = json.loads((FOLDER / INDEX).read_text())
    change(document)
    (folder / "m" / INDEX).write_text(json.dumps(document))
    return folder / "m"


def record(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = document["records"][0]["records"][0]
    return found


BAD: dict[str, tuple[Callable[[dict[str, Any]], object], type[CkptconvError]]] = {
    "elsewhere": (lambda index: index["records"][0].update(dataPath="../x"), CorruptFileError),
    "missing": (lambda index: index["records"][0].update(dataPath="params_shard_1.bin"), CorruptFileError),
    "size": (lambda index: index["records"][0].update(nbytes=200), CorruptFileError),
    "shard format": (lambda index: index["records"][0].update(format="zip"), UnsupportedError),
    "past the end": (lambda index: record(index).update(byteOffset=160), CorruptFileError),
    "negative": (lambda index: record(index).update(byteOffset=-1), CorruptFileError),
    "shape": (lambda index: record(index).update(shape=[6, 5]), CorruptFileError),
    "huge": (lambda index: record(index).update(shape=[1 << 62, 8]), CorruptFileError),
    "rank": (lambda index: record(index).update(shape=[1] * 65), CorruptFileError),
    "type": (lambda index: record(index).update(dtype="int4"), UnsupportedError),
    "format": (lambda index: record(index).update(format="zip"), UnsupportedError),
    "twice": (lambda index: record(index).update(name="kept"), CorruptFileError),
    "no name": (lambda index: record(index).pop("name"), CorruptFileError),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error"), BAD.values(), ids=BAD)
def test_what_contradicts_itself_is_refused(
    change: Callable[[dict[str, Any]], object], error: type[CkptconvError], tmp_path: Path
) -> None:
    with pytest.raises(error) as refused:
        ckptconv.open(changed(tmp_path, change))
    assert refused.value.hint


def test_opening_reads_the_index_alone(tmp_path: Path) -> None:
    with ckptconv.open(FOLDER) as checkpoint:
        assert bytes_read(checkpoint) < 4 * (FOLDER / INDEX).stat().st_size
    shutil.copytree(FOLDER, tmp_path / "m")
    (tmp_path / "m" / INDEX).write_text("{")
    with pytest.raises(UnknownFormatError):
        ckptconv.open(tmp_path / "m")
