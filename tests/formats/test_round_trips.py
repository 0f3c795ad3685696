"""From .pth to safetensors and back: the same object, in value and in type, whatever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import ckptconv
from tests.support.nodes import image, load, same_object
from tests.support.strategies import METADATA, TEXT, TYPED, state_dicts, tensors

if TYPE_CHECKING:
    from pathlib import Path

WEIGHTS = {"layer.weight": torch.arange(6.0).reshape(2, 3)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("round-trips")


def there_and_back(value: object, folder: Path) -> Path:
    """torch.save, then our two conversions; the last file."""
    first, between, back = folder / "first.pth", folder / "between.safetensors", folder / "back.pth"
    torch.save(value, first)
    ckptconv.convert(first, between, force=True)
    ckptconv.convert(between, back, force=True)
    return back


@settings(max_examples=1000)
@given(st.dictionaries(TEXT, METADATA, max_size=4))
def test_a_random_metadata_tree_comes_back_equal_in_value_and_type(folder: Path, metadata: dict[str, object]) -> None:
    value = {**metadata, "state_dict": WEIGHTS}
    found = load(there_and_back(value, folder))
    assert same_object(found, value)
    assert same_object(found, load(folder / "first.pth", weights_only=False))


@settings(max_examples=300)
@given(TYPED)
def test_a_tree_that_needs_full_unpickling_comes_back_typed(folder: Path, metadata: object) -> None:
    value = {"meta": metadata, "state_dict": WEIGHTS}
    back = there_and_back(value, folder)
    assert same_object(load(back, weights_only=False), load(folder / "first.pth", weights_only=False))


@settings(max_examples=300)
@given(METADATA)
def test_torch_takes_what_we_write_straight_from_a_pth_with_weights_only(folder: Path, metadata: object) -> None:
    value = {"meta": metadata, "state_dict": WEIGHTS}
    torch.save(value, folder / "first.pth")
    ckptconv.convert(folder / "first.pth", folder / "direct.pth", force=True)
    assert same_object(load(folder / "direct.pth"), value)


@settings(max_examples=300)
@given(METADATA)
def test_a_tree_without_any_tensor_comes_back_as_well(folder: Path, metadata: object) -> None:
    assert same_object(load(there_and_back(metadata, folder)), metadata)


@settings(max_examples=400)
@given(state_dicts())
def test_a_random_state_dict_comes_back_with_its_ties_and_parameters(folder: Path, state: dict[str, object]) -> None:
    back = load(there_and_back(state, folder))
    assert isinstance(back, dict)
    assert same_object(back, state)
    assert shared(back) == shared(load(folder / "first.pth"))
    assert [type(value) for value in back.values()] == [type(value) for value in state.values()]


@settings(max_examples=400)
@given(state_dicts())
def test_a_random_state_dict_written_as_pth_keeps_its_strides_and_overlaps(
    folder: Path, state: dict[str, object]
) -> None:
    torch.save(state, folder / "first.pth")
    ckptconv.convert(folder / "first.pth", folder / "direct.pth", force=True)
    first, direct = load(folder / "first.pth"), load(folder / "direct.pth")
    assert same_object(direct, first)
    assert isinstance(first, dict)
    assert isinstance(direct, dict)
    for name, tensor in first.items():
        again = direct[name]
        if tensor.numel() and same_storage_is_kept(first):
            assert again.stride() == tensor.stride()
            assert (again.is_conj(), again.is_neg()) == (tensor.is_conj(), tensor.is_neg())


@settings(max_examples=300)
@given(tensors())
def test_a_random_tensor_is_read_as_torch_reads_it(folder: Path, tensor: torch.Tensor) -> None:
    torch.save({"t": tensor}, folder / "one.pth")
    with ckptconv.open(folder / "one.pth") as checkpoint:
        assert bytes(checkpoint["t"].read()) == image(tensor)
        size = checkpoint["t"].info.nbytes
        assert bytes(checkpoint["t"].read(size // 3, size - size // 4)) == image(tensor)[size // 3 : size - size // 4]
        assert same_object(checkpoint["t"].to_torch(), tensor.detach().resolve_conj().resolve_neg().contiguous())


SAFETENSORS_LACKS = (torch.complex128, torch.complex32, torch.float4_e2m1fn_x2, torch.float8_e8m0fnu)


@settings(max_examples=200)
@given(tensors().filter(lambda tensor: tensor.dtype not in SAFETENSORS_LACKS))
def test_the_safetensors_package_reads_a_random_tensor_as_torch_does(folder: Path, tensor: torch.Tensor) -> None:
    torch.save({"t": tensor}, folder / "one.pth")
    ckptconv.convert(folder / "one.pth", folder / "one.safetensors", force=True)
    assert image(load_file(folder / "one.safetensors")["t"]) == image(tensor)


def shared(state: dict[str, torch.Tensor]) -> set[frozenset[str]]:
    """The names of whole tensors that are one."""
    groups: dict[object, set[str]] = {}
    for name, tensor in state.items():
        if tensor.numel():
            key = tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj(), tensor.is_neg()
            groups.setdefault(key, set()).add(name)
    return {frozenset(names) for names in groups.values() if len(names) > 1}


def same_storage_is_kept(state: dict[str, torch.Tensor]) -> bool:
    """Whether no storage is mostly unreached, so that every one is written as it was."""
    return all(t.untyped_storage().nbytes() <= 2 * t.numel() * t.itemsize for t in state.values())
