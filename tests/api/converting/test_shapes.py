"""Shapes that ComfyUI-GGUF's converter keeps in the metadata come back as tensors become floats of another format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, quants
from safetensors.numpy import load_file

import ckptconv

if TYPE_CHECKING:
    from pathlib import Path

KERNEL = np.random.default_rng(0).standard_normal((32, 4, 3, 3)).astype(np.float32)
KIND = GGMLQuantizationType.Q8_0


def written(path: Path, *, said: Any = KERNEL.shape, quantized: bool = True) -> Path:
    """As its convert.py writes a convolution: rows of whole blocks, and the shape beside them."""
    rows = KERNEL.reshape(-1, 32)
    writer = GGUFWriter(path, "sdxl")
    writer.add_array("comfy.gguf.orig_shape.conv.weight", said)
    if quantized:
        writer.add_tensor("conv.weight", quants.quantize(rows, KIND), raw_dtype=KIND)
    else:
        writer.add_tensor("conv.weight", rows.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def converted(source: Path, **words: Any) -> np.ndarray[Any, Any]:
    target = source.with_suffix(".safetensors")
    ckptconv.convert(source, target, bare=True, **words)
    (array,) = load_file(target).values()
    return array


def test_blocks_get_it_as_they_become_floats(tmp_path: Path) -> None:
    edits = ckptconv.Edits(dtype=["F32"], names=[ckptconv.NameRule("add-prefix", "model.")])
    found = converted(written(tmp_path / "a.gguf"), edits=edits)
    expected = quants.dequantize(quants.quantize(KERNEL.reshape(-1, 32), KIND), KIND).reshape(KERNEL.shape)
    assert np.array_equal(found, expected)


def test_floats_get_it_without_a_cast(tmp_path: Path) -> None:
    assert np.array_equal(converted(written(tmp_path / "a.gguf", quantized=False)), KERNEL.astype(np.float16))


@pytest.mark.parametrize("said", [(32, 4, 3), (32, 4, 3, -3), (36, 32)])
def test_a_shape_that_does_not_fit_is_skipped(tmp_path: Path, said: Any) -> None:
    assert converted(written(tmp_path / "a.gguf", said=said, quantized=False)).shape == (36, 32)


def test_another_gguf_keeps_the_rows_and_their_original_shape(tmp_path: Path) -> None:
    written(tmp_path / "a.gguf")
    ckptconv.convert(tmp_path / "a.gguf", tmp_path / "b.gguf", edits=ckptconv.Edits(dtype=["F16"]))
    with ckptconv.open(tmp_path / "b.gguf") as checkpoint:
        assert checkpoint["conv.weight"].info.shape == (36, 32)
        assert list(checkpoint.metadata["comfy.gguf.orig_shape.conv.weight"]) == list(KERNEL.shape)  # type: ignore[call-overload]
