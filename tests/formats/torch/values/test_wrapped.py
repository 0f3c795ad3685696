"""Tensors that wrap others, and tensors that have no values to read: shown for what they are."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

import ckptconv
from ckptconv.cli.main import program
from ckptconv.errors import CorruptFileError, LossError
from tests.support.craft import saved
from tests.support.nodes import image

if TYPE_CHECKING:
    from pathlib import Path

A, B = torch.arange(6.0).reshape(2, 3), torch.arange(6.0, 12.0).reshape(2, 3)


def wrapped() -> TwoTensor:
    return TwoTensor(A.clone(), B.clone())


ROOTS: dict[str, tuple[Any, dict[str, torch.Tensor]]] = {
    "alone": ({"w": wrapped()}, {"w.a": A, "w.b": B}),
    "beside others": (OrderedDict([("w", wrapped()), ("bias", A[0])]), {"w.a": A, "w.b": B, "bias": A[0]}),
    "under a key": ({"state_dict": {"l.w": wrapped()}, "n": 1}, {"l.w.a": A, "l.w.b": B}),
    "two dicts": ({"g": {"w": wrapped()}, "d": {"w": A}}, {"g.w.a": A, "g.w.b": B, "d.w": A}),
    "one in another": ({"w": TwoTensor(wrapped(), wrapped())}, {"w.a.a": A, "w.a.b": B, "w.b.a": A, "w.b.b": B}),
    "a name that is taken": ({"w.a": B, "w": wrapped()}, {"w.a": B, "w.a#2": A, "w.b": B}),
    "a Parameter": ({"w": nn.Parameter(wrapped(), requires_grad=False)}, {"w.a": A, "w.b": B}),
}


@pytest.mark.parametrize(("root", "expected"), ROOTS.values(), ids=ROOTS)
def test_what_a_wrapper_holds_is_the_model_s(root: Any, expected: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", root)
    with ckptconv.open(path) as checkpoint:
        assert {name: bytes(tensor.read()) for name, tensor in checkpoint.items()} == {
            name: image(tensor) for name, tensor in expected.items()
        }
        assert not checkpoint.extras
        assert not checkpoint.findings
    inspection = ckptconv.inspect(path)
    assert inspection.verdict == "opaque"
    assert {use.node.name for use in inspection.opaque} == {"torch.testing._internal.two_tensor.TwoTensor"}
    between = tmp_path / "b.safetensors"
    ckptconv.convert(path, between)
    assert ckptconv.diff(path, between).equal
    with pytest.raises(LossError, match=r"1 loss|2 losses"):
        ckptconv.convert(between, tmp_path / "c.pth")
    ckptconv.convert(path, tmp_path / "bare.pth", bare=True)
    assert torch.load(tmp_path / "bare.pth").keys() == expected.keys()


def test_a_module_that_holds_one_names_its_parts_by_the_state_dict(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(3, 2))
    network[0].weight = nn.Parameter(wrapped(), requires_grad=False)
    with ckptconv.open(saved(tmp_path / "a.pth", network)) as checkpoint:
        assert set(checkpoint) == {"0.weight.a", "0.weight.b", "0.bias"}


class Slotted(TwoTensor):
    """One whose state is a pair, as DTensor's is."""

    def __getstate__(self) -> tuple[None, dict[str, Any]]:
        return None, {"a": self.a, "b": self.b}


def test_what_stands_in_slots_goes_by_their_names(tmp_path: Path) -> None:
    with ckptconv.open(saved(tmp_path / "a.pth", {"w": Slotted(A.clone(), B.clone())})) as checkpoint:
        assert list(checkpoint) == ["w.a", "w.b"]


def nested() -> torch.Tensor:
    return torch._nested_tensor_from_tensor_list([torch.ones(2), torch.ones(3)])


UNREAD: dict[str, tuple[Any, str]] = {
    "on the meta device": (lambda: torch.empty(3, 2, device="meta"), "on the meta device, without values,"),
    "nested": (nested, "nested"),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("make", "kind"), UNREAD.values(), ids=UNREAD)
def test_a_tensor_that_cannot_be_read_is_shown_and_not_left_out_in_silence(
    make: Any, kind: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.pth", {"w": make(), "b": A})
    inspection = ckptconv.inspect(path)
    assert inspection.verdict == "plain"
    told = f"the tensor 'w' is {kind} and cannot be read"
    assert [finding.message for finding in inspection.checkpoint.findings] == [told]
    assert f"warning: {told}" in CliRunner().invoke(program, ["inspect", str(path)]).output
    for target in ("b.safetensors", "b.pth"):
        for bare in (False, True):
            with pytest.raises(LossError) as refused:
                ckptconv.convert(path, tmp_path / target, bare=bare)
            assert list(refused.value.details) == [f"opaque: {told}"]
            assert not (tmp_path / target).exists()
        ckptconv.convert(path, tmp_path / target, allow_loss=["opaque"])
    assert torch.equal(torch.load(tmp_path / "b.pth")["b"], A)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_nested_tensor_of_the_jagged_layout_is_read_as_what_it_is_made_of(tmp_path: Path) -> None:
    tensor: Any = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    path = saved(tmp_path / "a.pth", {"w": tensor, "b": A})
    assert ckptconv.inspect(path).verdict == "opaque"
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == ["w.values", "w.offsets", "b"]
        assert bytes(checkpoint["w.values"].read()) == image(tensor.values())
        assert bytes(checkpoint["w.offsets"].read()) == image(tensor.offsets())
    ckptconv.convert(path, tmp_path / "b.pth", bare=True)
    assert torch.load(tmp_path / "b.pth").keys() == {"w.values", "w.offsets", "b"}


class OnDevice:
    """Pickles as a tensor of a device without storages does (torch/_tensor.py, `_reduce_ex_internal`)."""

    def __init__(self, tensor: torch.Tensor, dtype: torch.dtype | None = None) -> None:
        self.tensor, self.dtype = tensor, dtype or tensor.dtype

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_device_tensor_from_numpy, (self.tensor.numpy(), self.dtype, "cpu", False)


class FromCpu(OnDevice):
    """And as one of a device that keeps a tensor of the CPU."""

    def __reduce__(self) -> tuple[Any, ...]:
        return torch._utils._rebuild_device_tensor_from_cpu_tensor, (self.tensor, self.dtype, "cpu", False)


@pytest.mark.parametrize("kind", [OnDevice, FromCpu])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int8, torch.bool])
def test_tensors_of_other_devices_are_read_as_torch_loads_them(
    kind: type[OnDevice], dtype: torch.dtype, tmp_path: Path
) -> None:
    state = {"w": kind(A.to(dtype)), "same": kind(A.to(dtype, copy=True)), "b": kind(torch.tensor(3).to(dtype))}
    path = saved(tmp_path / "a.pth", state)
    loaded = torch.load(path, weights_only=False)
    with ckptconv.open(path) as checkpoint:
        assert {name: bytes(tensor.read()) for name, tensor in checkpoint.items()} == {
            name: image(tensor) for name, tensor in loaded.items()
        }
        assert not checkpoint.ties
    ckptconv.convert(path, tmp_path / "b.pth")
    assert torch.equal(torch.load(tmp_path / "b.pth")["w"], A.to(dtype))


@pytest.mark.parametrize("kind", [OnDevice, FromCpu])
def test_a_tensor_that_is_cast_where_it_is_loaded_is_not_read_as_something_else(
    kind: type[OnDevice], tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.pth", {"w": kind(A, torch.bfloat16), "b": A})
    with ckptconv.open(path) as checkpoint:
        assert [finding.code for finding in checkpoint.findings] == ["unreadable-tensor"]
    assert np.array_equal(A, np.arange(6).reshape(2, 3))


def test_an_index_of_shards_lists_the_names_of_the_wholes(tmp_path: Path) -> None:
    shards = {"a.bin": {"l.w": wrapped(), "l.b": A}, "b.bin": {"m.w": wrapped()}}
    for file, tensors in shards.items():
        saved(tmp_path / file, tensors)
    index: dict[str, Any] = {"metadata": {"total_size": 5 * 24}}
    index["weight_map"] = {"m.w": "b.bin", "l.w": "a.bin", "l.b": "a.bin"}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with ckptconv.open(tmp_path) as checkpoint:
        assert list(checkpoint) == ["m.w.a", "m.w.b", "l.w.a", "l.w.b", "l.b"]
        assert not checkpoint.findings
    index["weight_map"]["l.w"] = "b.bin"
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CorruptFileError, match="about 1 tensor"):
        ckptconv.open(tmp_path)
