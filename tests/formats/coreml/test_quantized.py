"""Weights that coremltools packed: `--dequantize` gives what it makes of them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import numpy as np
import pytest
from safetensors.numpy import load_file

import ckptconv
from ckptconv.edits.quantized import lookups, matrix
from ckptconv.errors import CorruptFileError, EditError
from tests.formats.coreml.test_coreml import HOME, RUNTIMES
from tests.support.protobuf_files import field, varint

if TYPE_CHECKING:
    from pathlib import Path

PACKED = ["coreml-packed.mlpackage", "coreml-ios16.mlpackage", "coreml-ios18.mlpackage"]
DEQUANTIZE = ckptconv.Edits(dequantize=True)
ENDS = ("_quantized", "_palettized", "_sparsified")


@pytest.mark.parametrize("tile", [7, matrix.TILE])
@pytest.mark.parametrize("package", PACKED)
def test_every_packed_weight_is_what_coremltools_makes_of_it(
    package: str, tile: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((matrix, "TILE"), (matrix, "GATHERED"), (lookups, "BLOCK")):
        monkeypatch.setattr(module, name, tile)
    done = ckptconv.convert(RUNTIMES / package, tmp_path / "x.safetensors", edits=DEQUANTIZE)
    made = load_file(tmp_path / "x.safetensors")
    with np.load(RUNTIMES / "coreml-weights.npz") as weights:
        names = [key.split("|")[1] for key in weights.files if key.startswith(package)]
        assert f"{len(names)} weights are dequantized" in str(done.findings)
        for name in names:
            expected = weights[f"{package}|{name}"]
            found = made[next(name.removesuffix(end) for end in ENDS if name.endswith(end))]
            assert found.dtype == expected.dtype == np.float16
            assert np.array_equal(found, expected), name
    with ckptconv.open(tmp_path / "x.safetensors") as checkpoint:
        assert "packed" not in checkpoint.metadata
    assert not [name for name in made if "ized" in name or "sparsified" in name]
    assert sum(ckptconv.inspect(RUNTIMES / package).quantized.values()) == len(names)


def copied(package: str, folder: Path) -> Path:
    shutil.copytree(RUNTIMES / package, folder / "x.mlpackage")
    return folder / "x.mlpackage"


def test_a_mask_of_other_places_than_there_are_elements_is_reported(tmp_path: Path) -> None:
    package = copied("coreml-ios18.mlpackage", tmp_path)
    with ckptconv.open(package) as checkpoint:
        (name,) = (name for name in checkpoint if name.endswith(".mask"))
        span = checkpoint[name].span
        assert span is not None
    path = package / HOME / "weights" / "weight.bin"
    data = bytearray(path.read_bytes())
    data[span.offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"a mask has 3[0-9]{2} places, and there are"):
        ckptconv.convert(package, tmp_path / "x.safetensors", edits=DEQUANTIZE)


def value(code: int, shape: list[int], data: bytes, kind: int = 7) -> bytes:
    dimensions = b"".join(field(3, field(1, field(1, size))) for size in shape)
    return field(2, field(1, field(1, code) + dimensions)) + field(3, field(1, field(kind, field(1, data))))


def program(folder: Path, operator: str, shape: list[int], parts: dict[str, bytes]) -> Path:
    """A model with one operator."""
    sizes = b"".join(field(3, field(1, field(1, size))) for size in shape)
    output = field(1, b"w_quantized") + field(2, field(1, field(1, 10) + sizes))
    made = field(1, operator.encode()) + field(3, output)
    made += b"".join(field(5, field(1, key.encode()) + field(2, one)) for key, one in parts.items())
    block = field(3, made)
    function = field(2, b"CoreML5") + field(3, field(1, b"CoreML5") + field(2, block))
    path = folder / "x.mlmodel"
    path.write_bytes(
        field(1, 6) + field(2, b"") + field(502, field(1, 1) + field(2, field(1, b"main") + field(2, function)))
    )
    return path


SCALES = value(10, [2], np.array([0.5, 2], "<f2").tobytes())
AFFINE = {
    "quantized_data": value(21, [3, 2], bytes([1, 2, 3, 0xFF, 5, 6])),
    "scale": SCALES,
    "zero_point": value(21, [2], bytes([1, 0])),
    "axis": value(23, [], varint((1 << 64) - 1), 2),
}


def test_an_axis_counts_from_the_end_too(tmp_path: Path) -> None:
    path = program(tmp_path, "constexpr_affine_dequantize", [3, 2], AFFINE)
    ckptconv.convert(path, tmp_path / "x.safetensors", edits=DEQUANTIZE)
    made = load_file(tmp_path / "x.safetensors")
    assert list(made) == ["w"]
    assert made["w"].tolist() == [[0, 4], [1, -2], [2, 12]]


LUT = {"indices": value(31, [1], b"\x1b"), "lut": value(10, [4], bytes(8))}
REFUSED = {
    "axis": ("affine_dequantize", [3, 2], AFFINE | {"axis": value(23, [], varint(7), 2)}, "axis 7 is none of 2"),
    "vectors": (
        "lut_to_dense", [2, 2], {"indices": value(36, [2, 2], b"\x1b"), "lut": value(10, [1, 1, 4, 2], bytes(16))},
        "codebook of vectors of 2 numbers is not read",
    ),
    "few codes": ("lut_to_dense", [5, 5], LUT, "do not hold 25 elements of 2 bits"),
    "no bits": ("lut_to_dense", [2, 2], LUT | {"lut": value(10, [3], bytes(6))}, "are no 'uint0'"),
    "mask": (
        "sparse_to_dense", [3, 9], {"mask": value(31, [1], b"\1"), "nonzero_data": value(10, [1], b"\0<")},
        "a mask of 1 bytes is not for the shape",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("operator", "shape", "parts", "words"), REFUSED.values(), ids=REFUSED)
def test_what_does_not_fit_is_refused(
    operator: str, shape: list[int], parts: dict[str, bytes], words: str, tmp_path: Path
) -> None:
    path = program(tmp_path, f"constexpr_{operator}", shape, parts)
    ckptconv.inspect(path)
    with pytest.raises(EditError, match=words) as refused:
        ckptconv.convert(path, tmp_path / "x.safetensors", edits=DEQUANTIZE)
    assert refused.value.hint


def test_a_part_that_is_missing_and_an_axis_that_is_none(tmp_path: Path) -> None:
    for gone in ("scale", "axis"):
        lacking = {key: one for key, one in AFFINE.items() if key != gone}
        assert not ckptconv.inspect(program(tmp_path, "constexpr_affine_dequantize", [3, 2], lacking)).quantized
    with pytest.raises(CorruptFileError, match="not a whole number"):
        ckptconv.open(program(tmp_path, "constexpr_affine_dequantize", [3, 2], AFFINE | {"axis": SCALES}))
