"""Every way in which torch.save and others lay out an archive, with torch as the judge of what is in it."""

from __future__ import annotations

import json
import zipfile
from collections import OrderedDict
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import ckptconv
from ckptconv.core.dtypes import DTYPES, DType
from ckptconv.errors import CorruptFileError, UnsupportedError
from tests.support.craft import FOUR_FLOATS, archive, records_of, repacked, saved, state_dict, tensor
from tests.support.nodes import image, load, same_object

STATE = {"w": torch.arange(12.0).reshape(3, 4), "b": torch.tensor([1, 2], dtype=torch.int16)}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_is_read(protocol: int, tmp_path: Path) -> None:
    value = {
        "text": "ü", "bytes": b"\0\xff", "array": bytearray(b"ab"), "set": {1, 2}, "frozen": frozenset([3]),
        "big": 2**80, "t": (1, 2, 3, 4), "np": np.float32(1.5), "arr": np.arange(3), "state_dict": STATE,
    }  # fmt: skip
    path = saved(tmp_path / "p.pth", value, pickle_protocol=protocol)
    ckptconv.convert(path, tmp_path / "p.safetensors")
    ckptconv.convert(tmp_path / "p.safetensors", tmp_path / "back.pth")
    assert same_object(load(tmp_path / "back.pth", weights_only=False), value)


def test_a_big_endian_archive_is_swapped_as_torch_swaps_it(tmp_path: Path) -> None:
    state = {
        "f": torch.arange(3.0), "h": torch.arange(4).bfloat16(), "i": torch.arange(2), "c": torch.tensor([1 + 2j]),
        "u": torch.arange(3, dtype=torch.uint8), "t": torch.arange(6.0).reshape(2, 3).t(),
    }  # fmt: skip
    path = saved(tmp_path / "little.pth", state)
    flipped: dict[str, Any] = {"byteorder": b"big"}
    for key, tensor_ in enumerate(state.values()):
        width = 4 if tensor_.is_complex() else tensor_.itemsize
        raw = np.frombuffer(records_of(path)[f"data/{key}"], dtype=f"u{width}")
        flipped[f"data/{key}"] = raw.byteswap().tobytes()
    big = repacked(path, tmp_path / "big.pth", **flipped)
    expected = load(big)
    assert same_object(expected, state)
    with ckptconv.open(big) as checkpoint:
        for name, value in state.items():
            assert bytes(checkpoint[name].read()) == image(value), name
    ckptconv.convert(big, tmp_path / "back.pth")
    assert same_object(load(tmp_path / "back.pth"), expected)


def test_a_compressed_archive_reads_as_the_stored_one(tmp_path: Path) -> None:
    path = repacked(saved(tmp_path / "s.pth", STATE), tmp_path / "z.pth", method=zipfile.ZIP_DEFLATED)
    with ckptconv.open(path) as checkpoint:
        for name, value in STATE.items():
            assert bytes(checkpoint[name].read()) == image(value)
            assert bytes(checkpoint[name].read(1, 3)) == image(value)[1:3]
    ckptconv.convert(path, tmp_path / "z.safetensors")
    ckptconv.convert(tmp_path / "z.safetensors", tmp_path / "back.pth")
    assert same_object(load(tmp_path / "back.pth"), STATE)


def test_an_archive_with_zip64_fields_is_read(tmp_path: Path) -> None:
    path = tmp_path / "wide.pth"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in records_of(saved(tmp_path / "s.pth", STATE)).items():
            with file.open(f"archive/{name}", "w", force_zip64=True) as record:
                record.write(data)
    with ckptconv.open(path) as checkpoint:
        assert bytes(checkpoint["w"].read()) == image(STATE["w"])


def test_a_crc_of_zero_means_that_none_was_computed(tmp_path: Path) -> None:
    from torch.utils.serialization import config

    try:
        config.save.compute_crc32 = False
        path = saved(tmp_path / "s.pth", STATE)
    finally:
        config.save.compute_crc32 = True
    with zipfile.ZipFile(path) as file:
        assert {info.CRC for info in file.infolist() if info.file_size} == {0}
    ckptconv.convert(path, tmp_path / "out.pth")
    assert same_object(load(tmp_path / "out.pth"), STATE)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:7", "mps", "xla:1"])
def test_a_storage_of_another_device_is_read_and_the_device_noted(device: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "gpu.pth", state_dict(w=tensor(device=device)), {"0": FOUR_FLOATS})
    with ckptconv.open(path) as checkpoint:
        assert bytes(checkpoint["w"].read()) == FOUR_FLOATS
        assert checkpoint.notes.tensors["w"].device == device
    ckptconv.convert(path, tmp_path / "cpu.pth")
    assert torch.load(tmp_path / "cpu.pth", weights_only=True)["w"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("order", [b"middle", b"", b"Little"])
def test_an_unknown_byte_order_is_refused(order: bytes, tmp_path: Path) -> None:
    path = repacked(saved(tmp_path / "s.pth", STATE), tmp_path / "x.pth", byteorder=order)
    with pytest.raises(CorruptFileError, match="byte order"):
        ckptconv.open(path)


def test_an_archive_without_a_byte_order_is_little_endian(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    with zipfile.ZipFile(path, "w") as file:
        for name, data in records_of(saved(tmp_path / "s.pth", STATE)).items():
            if name != "byteorder":
                file.writestr(f"old/{name}", data)
    with ckptconv.open(path) as checkpoint:
        assert bytes(checkpoint["w"].read()) == image(STATE["w"])


DTYPE_NAMES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "U16": torch.uint16,
    "U32": torch.uint32, "U64": torch.uint64, "BOOL": torch.bool, "C128": torch.complex128, "C64": torch.complex64,
    "C32": torch.complex32, "F8_E5M2": torch.float8_e5m2, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E4M3FNUZ": torch.float8_e4m3fnuz, "F8_E8M0": torch.float8_e8m0fnu,
    "F4": torch.float4_e2m1fn_x2,
}  # fmt: skip


@pytest.mark.parametrize("name", DTYPE_NAMES)
def test_every_element_type_of_torch_goes_there_and_back(name: str, tmp_path: Path) -> None:
    dtype = DTYPE_NAMES[name]
    raw = torch.frombuffer(bytearray(i % 2 if name == "BOOL" else i for i in range(96)), dtype=torch.uint8)
    state = {"whole": raw.view(dtype).reshape(2, -1), "empty": torch.empty(0, 2, dtype=dtype)}
    if name != "F4":
        state["scalar"] = raw.view(dtype)[0]
    path = saved(tmp_path / "d.pth", state)
    with ckptconv.open(path) as checkpoint:
        assert checkpoint["whole"].info.dtype is DTYPES[name]
        assert same_object(checkpoint["whole"].to_torch(), state["whole"])
        if name != "C32":
            assert checkpoint["whole"].numpy().shape == checkpoint["whole"].info.shape
    ckptconv.convert(path, tmp_path / "d.safetensors")
    ckptconv.convert(tmp_path / "d.safetensors", tmp_path / "back.pth")
    assert same_object(load(tmp_path / "back.pth"), state)


def test_complex_numbers_of_two_bfloat16_are_read_whichever_torch_there_is(tmp_path: Path) -> None:
    source = Path(__file__).parents[4] / "fixtures/others/torch-2.15/bcomplex32.pth"
    ckptconv.convert(source, tmp_path / "b.safetensors")
    ckptconv.convert(tmp_path / "b.safetensors", tmp_path / "back.pth")
    for path in (source, tmp_path / "b.safetensors", tmp_path / "back.pth"):
        with ckptconv.open(path) as checkpoint:
            weight, parts = checkpoint["weight"], checkpoint["parts"]
            assert (weight.info.dtype, weight.info.shape) == (DType.BC32, (3, 4))
            assert bytes(weight.read()) == bytes(parts.read())
            turned = checkpoint["parts"].numpy().transpose(1, 0, 2)
            assert bytes(checkpoint["turned"].read()) == turned.tobytes()
            if hasattr(torch, "bcomplex32"):
                assert weight.to_torch().dtype is torch.bcomplex32
            else:
                with pytest.raises(ckptconv.CkptconvError, match="no bcomplex32, as later ones have"):
                    weight.to_torch()
    assert b"torch\nbcomplex32\n" in (tmp_path / "back.pth").read_bytes()


def test_every_element_type_of_torch_is_known_or_refused_by_name() -> None:
    from ckptconv.formats.torch.dtypes import ALL_DTYPE_NAMES

    names = {str(value).removeprefix("torch.") for value in vars(torch).values() if isinstance(value, torch.dtype)}
    assert names <= ALL_DTYPE_NAMES


def test_module_versions_parameters_and_requires_grad_come_back(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    network[0].bias.requires_grad_(False)
    value = {"plain": network.state_dict(), "state_dict": network.state_dict(keep_vars=True)}
    path = saved(tmp_path / "m.pth", value)
    ckptconv.convert(path, tmp_path / "m.safetensors")
    ckptconv.convert(tmp_path / "m.safetensors", tmp_path / "back.pth")
    back = load(tmp_path / "back.pth", weights_only=False)
    assert same_object(back, value)
    state = back["state_dict"]
    assert isinstance(state["0.weight"], nn.Parameter)
    assert (state["0.weight"].requires_grad, state["0.bias"].requires_grad) == (True, False)
    assert state._metadata == value["state_dict"]._metadata  # type: ignore[attr-defined]
    assert isinstance(state._metadata, OrderedDict)


@pytest.mark.parametrize("between", ["m.pth", "m.safetensors", "m.npz", "m.safetensors.index.json"])
def test_module_versions_of_an_average_and_of_empty_state_dicts_come_back(tmp_path: Path, between: str) -> None:
    network, empty = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), nn.ReLU()
    inner = [{3: OrderedDict(a=1)}, (empty.state_dict(), {"model": network.state_dict()})]
    value = {"model": network.state_dict(), "ema": network.state_dict(), "others": inner}
    for made in (value, empty.state_dict(), [empty.state_dict(), torch.ones(2)]):
        ckptconv.convert(saved(tmp_path / "a.pth", made), tmp_path / between, force=True)
        ckptconv.convert(tmp_path / between, tmp_path / "back.pth", force=True)
        back = load(tmp_path / "back.pth", weights_only=True)
        assert same_object(back, made)
        assert versions(back) == versions(made)
        assert ckptconv.diff(tmp_path / "a.pth", tmp_path / "back.pth").equal
    assert len([found for found in versions(value) if found]) == 4


def versions(value: object) -> list[object]:
    """The ``_metadata`` of every dict in it, in order."""
    if isinstance(value, dict):
        return [getattr(value, "_metadata", None), *(v for item in value.values() for v in versions(item))]
    return [v for item in value for v in versions(item)] if isinstance(value, (list, tuple)) else []


def test_module_versions_beside_the_models_are_refused_as_tensors_and_ignored_where_nothing_stands(
    tmp_path: Path,
) -> None:
    for path, node, words in (
        (["gone", 1], {"": 1}, None), ([-1], {}, None), ([True], {}, "not a key"), ("ema", {"$tensor": "w"}, "tensors"),
    ):  # fmt: skip
        record = json.dumps({"version": 1, "versions": [[path, node]]})
        save_file({"w": torch.ones(2)}, tmp_path / "w.safetensors", {"ckptconv": record})
        with nullcontext() if words is None else pytest.raises(CorruptFileError, match=words):
            ckptconv.convert(tmp_path / "w.safetensors", tmp_path / "w.pth", force=True)


def test_module_versions_in_module_versions_take_no_depth(tmp_path: Path) -> None:
    state: Any = OrderedDict()
    for _ in range(150):
        outer: Any = OrderedDict()
        outer._metadata = state
        state = outer
    ckptconv.convert(saved(tmp_path / "a.pth", {"w": torch.ones(1), "deep": state}), tmp_path / "a.safetensors")


def test_a_python_attribute_of_a_tensor_that_is_a_tensor_is_left_out_with_a_finding(tmp_path: Path) -> None:
    odd = torch.ones(2)
    odd.scale, odd.note = torch.ones(1), "kept"  # type: ignore[attr-defined]
    path = saved(tmp_path / "a.pth", {"w": odd})
    result = ckptconv.convert(path, tmp_path / "b.pth")
    assert [finding.where for finding in result.findings if finding.code == "attribute"] == ["w"]
    assert load(tmp_path / "b.pth")["w"].note == "kept"


@pytest.mark.parametrize("between", ["direct.pth", "m.safetensors"])
def test_python_attributes_of_parameters_and_tensors_come_back(between: str, tmp_path: Path) -> None:
    parameter, buffer = nn.Parameter(torch.ones(2), requires_grad=False), nn.Buffer(torch.ones(2), persistent=True)
    parameter.partition = {"axis": (0, 1)}  # type: ignore[attr-defined]
    path = saved(tmp_path / "a.pth", {"w": parameter, "plain": nn.Parameter(torch.ones(1)), "b": buffer})
    ckptconv.convert(path, tmp_path / between)
    ckptconv.convert(tmp_path / between, tmp_path / "back.pth")
    first, back = load(path), load(tmp_path / "back.pth")
    assert same_object(back, first)
    assert [vars(value) for value in back.values()] == [vars(value) for value in first.values()]


def test_a_packed_scalar_is_refused_by_name(tmp_path: Path) -> None:
    value = torch.zeros(1, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)[0]
    with pytest.raises(UnsupportedError, match="'w'"):
        ckptconv.open(saved(tmp_path / "x.pth", {"w": value}))


def test_a_file_without_tensors_names_the_one_beside_it_that_has_them(tmp_path: Path) -> None:
    settings = saved(tmp_path / "model.pt", {"input_chunk_length": 12})  # as darts saves a model
    with ckptconv.open(settings) as checkpoint:
        assert not checkpoint.findings
    saved(tmp_path / "model.pt.ckpt", {"state_dict": STATE})
    with ckptconv.open(settings) as checkpoint:
        assert [one.message for one in checkpoint.findings] == [
            "its weights are in a file of their own: 'model.pt.ckpt'"
        ]
    with ckptconv.open(tmp_path / "model.pt.ckpt") as checkpoint:
        assert not checkpoint.findings
