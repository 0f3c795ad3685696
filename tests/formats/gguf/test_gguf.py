"""GGUF, with the gguf package as the other side: what it writes is read, and what we write it reads."""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFEndian, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

import ckptconv
from ckptconv.core.dtypes import BLOCKS
from ckptconv.errors import CkptconvError
from ckptconv.formats.gguf.reference import open_with_gguf

if TYPE_CHECKING:
    from pathlib import Path

PLAIN = {
    "F32": np.float32, "F16": np.float16, "F64": np.float64, "I8": np.int8, "I16": np.int16, "I32": np.int32,
    "I64": np.int64,
}  # fmt: skip


def values(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    return (np.random.default_rng(0).standard_normal(shape) * 50).astype(dtype)


def blocks(name: str, rows: int = 3, blocks: int = 2) -> np.ndarray[Any, Any]:
    """Any bytes are a block of some numbers; halves among them are kept finite, so that a comparison says something."""
    _, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    data = np.random.default_rng(1).integers(0, 256, (rows, blocks * nbytes), dtype=np.uint8)
    return data & 0xBB  # clears a bit of the exponent in every byte


def written(path: Path, endian: GGUFEndian = GGUFEndian.LITTLE) -> Path:
    """A file with everything that GGUFWriter can say."""
    writer = GGUFWriter(path, "llama", endianess=endian)
    writer.add_name("small")
    writer.add_uint8("a.u8", 255)
    writer.add_int8("a.i8", -128)
    writer.add_uint16("a.u16", 65535)
    writer.add_int16("a.i16", -3)
    writer.add_uint32("a.u32", 1 << 31)
    writer.add_int32("a.i32", -1)
    writer.add_uint64("a.u64", (1 << 64) - 1)
    writer.add_int64("a.i64", -(1 << 63))
    writer.add_float32("a.f32", 0.1)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_array("a.tokens", ["<s>", "ü", ""])
    writer.add_array("a.scores", [0.5, -1.0])
    writer.add_array("a.ids", [1, 2, 3])
    for name, dtype in PLAIN.items():
        writer.add_tensor(f"t.{name}", values((3, 4), dtype))
    writer.add_tensor("deep", values((2, 3, 4, 5), np.float32))
    if endian is GGUFEndian.LITTLE:
        for name in BLOCKS:
            kind = GGMLQuantizationType[name]
            writer.add_tensor(f"q.{name}", blocks(name), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def fields(path: Path) -> dict[str, tuple[list[GGUFValueType], object]]:
    """Types and values of the metadata, as the package reads them."""
    reader = GGUFReader(path)
    return {
        name: (list(field.types), field.contents())
        for name, field in reader.fields.items()
        if not name.startswith("GGUF.")
    }


def raw(path: Path) -> dict[str, tuple[str, list[int], bytes]]:
    return {t.name: (t.tensor_type.name, t.shape.tolist(), t.data.tobytes()) for t in GGUFReader(path).tensors}


@pytest.mark.parametrize("endian", list(GGUFEndian))
def test_tensors_are_those_that_the_package_wrote(tmp_path: Path, endian: GGUFEndian) -> None:
    with ckptconv.open(written(tmp_path / "a.gguf", endian)) as checkpoint:
        for name, dtype in PLAIN.items():
            tensor = checkpoint[f"t.{name}"]
            assert (tensor.info.dtype.name, tensor.info.shape) == (name, (3, 4))
            assert bytes(tensor.read()) == values((3, 4), dtype).tobytes()
        assert checkpoint["deep"].info.shape == (2, 3, 4, 5)
        for name in BLOCKS if endian is GGUFEndian.LITTLE else ():
            tensor = checkpoint[f"q.{name}"]
            assert (tensor.info.dtype.name, tensor.info.shape) == (name, (3, 2 * BLOCKS[name].block))
            assert bytes(tensor.read()) == blocks(name).tobytes()


def test_metadata_is_what_the_package_reads(tmp_path: Path) -> None:
    with ckptconv.open(written(tmp_path / "a.gguf")) as checkpoint:
        found = checkpoint.metadata
        expected = {name: value for name, (_, value) in fields(tmp_path / "a.gguf").items()}
        assert {key: found[key] for key in expected} == expected
        assert type(found["a.bool"]) is bool
        assert type(found["a.f32"]) is float


def test_a_copy_says_the_same_with_the_same_types(tmp_path: Path) -> None:
    a = written(tmp_path / "a.gguf")
    ckptconv.convert(a, tmp_path / "b.gguf")
    assert fields(tmp_path / "b.gguf") == fields(a)
    assert raw(tmp_path / "b.gguf") == raw(a)


def test_there_and_back_through_safetensors_is_the_same_file(tmp_path: Path) -> None:
    ckptconv.convert(written(tmp_path / "a.gguf"), tmp_path / "a.safetensors")
    ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "b.gguf")
    assert fields(tmp_path / "b.gguf").items() >= fields(tmp_path / "a.gguf").items()
    assert raw(tmp_path / "b.gguf") == raw(tmp_path / "a.gguf")
    assert ckptconv.diff(tmp_path / "a.gguf", tmp_path / "b.gguf").equal


def test_a_state_dict_is_read_by_the_package(tmp_path: Path) -> None:
    state = {
        "layers.0.weight": torch.randn(4, 6), "half": torch.randn(3).half(), "brain": torch.randn(2, 2).bfloat16(),
        "ids": torch.arange(5),
    }  # fmt: skip
    torch.save({"epoch": 3, "rates": [0.5, 0.25], "name": "x", "state_dict": state}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.gguf")
    found = raw(tmp_path / "b.gguf")
    assert found["layers.0.weight"] == ("F32", [6, 4], state["layers.0.weight"].numpy().tobytes())
    assert found["brain"][:2] == ("BF16", [2, 2])
    assert found["brain"][2] == state["brain"].view(torch.int16).numpy().tobytes()
    said = fields(tmp_path / "b.gguf")
    assert (said["epoch"][1], said["rates"][1], said["name"][1]) == (3, [0.5, 0.25], "x")
    ckptconv.convert(tmp_path / "b.gguf", tmp_path / "c.pth")
    back = torch.load(tmp_path / "c.pth", weights_only=True)
    assert (back["epoch"], back["rates"], back["name"]) == (3, [0.5, 0.25], "x")
    assert all(torch.equal(back["state_dict"][name], tensor) for name, tensor in state.items())


def unpacked() -> list[str]:
    """Types that the package unpacks."""
    found = []
    for name in BLOCKS:
        try:
            dequantize(blocks(name), GGMLQuantizationType[name])
        except NotImplementedError:
            continue
        found.append(name)
    return found


@pytest.mark.parametrize("name", unpacked())
def test_blocks_are_unpacked_as_the_package_does_it(tmp_path: Path, name: str) -> None:
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("q", blocks(name), raw_dtype=GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with np.errstate(all="ignore"):
        expected = dequantize(blocks(name), GGMLQuantizationType[name]).astype(np.float32)
    edits = ckptconv.Edits(dtype=["F32"])
    ckptconv.convert(tmp_path / "a.gguf", tmp_path / "b.safetensors", edits=edits, allow_loss=["overflow"])
    with ckptconv.open(tmp_path / "b.safetensors") as checkpoint:
        assert checkpoint["q"].info.shape == expected.shape
        assert bytes(checkpoint["q"].read()) == expected.tobytes()


def test_what_nothing_was_asked_of_stays_in_blocks(tmp_path: Path) -> None:
    data = quantize(values((4, 64), np.float32), GGMLQuantizationType.Q8_0)
    writer = GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("q", data, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    ckptconv.convert(tmp_path / "a.gguf", tmp_path / "b.safetensors")
    ckptconv.convert(tmp_path / "b.safetensors", tmp_path / "c.gguf")
    assert raw(tmp_path / "c.gguf") == raw(tmp_path / "a.gguf")


def test_every_truncation_ends_in_one_error(tmp_path: Path) -> None:
    ckptconv.convert(written(tmp_path / "whole.gguf"), tmp_path / "a.gguf", edits=ckptconv.Edits(select=["t.F*"]))
    data = (tmp_path / "a.gguf").read_bytes()
    for length in range(0, len(data) - 8, 7):
        (tmp_path / "b.gguf").write_bytes(data[:length])
        with pytest.raises(CkptconvError):
            ckptconv.convert(tmp_path / "b.gguf", tmp_path / "c.safetensors")
    assert not (tmp_path / "c.safetensors").exists()


def test_long_and_odd_names_come_back(tmp_path: Path) -> None:
    state = {f"{'layer' * 20}.{i}.weight": torch.full((2,), float(i)) for i in range(3)} | {"ü": torch.ones(1)}
    torch.save(state, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.gguf")
    assert all(len(name.encode()) < 64 for name in raw(tmp_path / "b.gguf"))
    ckptconv.convert(tmp_path / "b.gguf", tmp_path / "c.pth")
    back = torch.load(tmp_path / "c.pth", weights_only=True)
    assert list(back) == list(state)
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_a_notice_about_a_long_name_is_short(tmp_path: Path) -> None:
    torch.save({"x" * 5000: torch.ones(2)}, tmp_path / "a.pth")
    result = ckptconv.convert(tmp_path / "a.pth", tmp_path / "a.gguf")
    (notice,) = [finding.message for finding in result.findings if finding.code == "name"]
    assert len(notice) < 200


def test_a_bf16_without_dimensions_is_one_that_the_package_reads(tmp_path: Path) -> None:
    torch.save({"w": torch.tensor(1.5, dtype=torch.bfloat16)}, tmp_path / "in.pth")
    ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.gguf")
    assert raw(tmp_path / "out.gguf")["w"][:2] == ("BF16", [1])
    assert ckptconv.diff(tmp_path / "in.pth", tmp_path / "out.gguf").equal


def test_numbers_without_dimensions_keep_their_types(tmp_path: Path) -> None:
    state = {
        "a": torch.tensor(1.5),
        "b": torch.tensor(2.5).half(),
        "c": torch.tensor(7),
        "d": torch.tensor(1.5).double(),
    }
    torch.save(state, tmp_path / "in.pth")
    ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.gguf")
    assert raw(tmp_path / "out.gguf") == {
        "a": ("F32", [], state["a"].numpy().tobytes()),
        "b": ("F16", [], state["b"].numpy().tobytes()),
        "c": ("I64", [], state["c"].numpy().tobytes()),
        "d": ("F64", [], state["d"].numpy().tobytes()),
    }


def test_what_the_gguf_package_refuses_is_refused_though_it_sees_one_tensor_at_a_time(tmp_path: Path) -> None:
    torch.save({"one.weight": torch.zeros(4), "two.weight": torch.ones(4)}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "a.gguf", bare=True)
    data = (tmp_path / "a.gguf").read_bytes()
    open_with_gguf(tmp_path / "a.gguf")
    unknown = data.replace(b"two.weight" + pack("<IQI", 1, 4, 0), b"two.weight" + pack("<IQI", 1, 4, 99))
    for wrong in (data.replace(b"two.weight", b"one.weight"), data[: data.index(b"two.weight")], unknown, data[:-40]):
        assert wrong != data
        (tmp_path / "b.gguf").write_bytes(wrong)
        for reader in (GGUFReader, open_with_gguf):
            with pytest.raises((ValueError, IndexError)):
                reader(tmp_path / "b.gguf")
