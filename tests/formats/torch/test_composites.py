"""Quantized and sparse tensors: read as their parts, and whole again in a .pth; torch is the judge."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ckptconv
from tests.support.composites import MAKERS, quiet, same_tensor

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")


def loaded(path: Path) -> Any:
    """What torch reads, without running code, and with its own check of what is sparse."""
    with warnings.catch_warnings(), torch.sparse.check_sparse_tensor_invariants():
        warnings.simplefilter("ignore")
        return torch.load(path, weights_only=True)


def there_and_back(tmp_path: Path, value: object) -> tuple[Any, Any]:
    """The object after .pth → .pth, and after .pth → .safetensors → .pth."""
    source = tmp_path / "a.pth"
    torch.save(value, source)
    ckptconv.convert(source, tmp_path / "b.pth", force=True)
    ckptconv.convert(source, tmp_path / "c.safetensors", force=True)
    ckptconv.convert(tmp_path / "c.safetensors", tmp_path / "d.pth", force=True)
    return loaded(tmp_path / "b.pth"), loaded(tmp_path / "d.pth")


@pytest.mark.parametrize("kind", MAKERS)
def test_a_tensor_comes_back_as_it_was(kind: str, tmp_path: Path) -> None:
    tensor = quiet(MAKERS[kind])
    straight, around = there_and_back(tmp_path, OrderedDict({"first": torch.ones(2), "w": tensor, "z": torch.ones(1)}))
    assert list(straight) == list(around) == ["first", "w", "z"]
    assert same_tensor(straight["w"], tensor)
    assert same_tensor(around["w"], tensor)


@pytest.mark.parametrize("kind", MAKERS)
def test_the_tensor_that_the_library_gives_is_torchs(kind: str, tmp_path: Path) -> None:
    tensor = quiet(MAKERS[kind])
    torch.save({"w": tensor}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "c.safetensors")
    plain = tensor.detach()
    if kind in ("transposed", "a slice"):
        plain = quiet(lambda: torch._make_per_tensor_quantized_tensor(plain.int_repr(), 0.1, 3))
    for path in ("a.pth", "c.safetensors"):
        with ckptconv.open(tmp_path / path) as checkpoint:
            assert same_tensor(quiet(lambda: checkpoint.whole("w")), plain)


@pytest.mark.parametrize("kind", MAKERS)
def test_containers_say_the_same_of_it(kind: str, tmp_path: Path) -> None:
    there_and_back(tmp_path, {"w": quiet(MAKERS[kind]), "epoch": 3})
    paths = [tmp_path / name for name in ("a.pth", "b.pth", "c.safetensors", "d.pth")]
    digests = [ckptconv.inspect(path, digest=True) for path in paths]
    assert len({inspection.digest for inspection in digests}) == 1
    assert digests[2].digest_holds
    assert all(ckptconv.diff(paths[0], path).equal for path in paths[1:])


def test_tensors_outside_of_the_state_dict_and_alone_in_lists(tmp_path: Path) -> None:
    coo, quantized, csr = (quiet(MAKERS[kind]) for kind in ("coo", "per channel 0", "csr"))
    value = {"state_dict": {"w": csr}, "optimizer": {"momentum": [coo, quantized, 3]}}
    for back in there_and_back(tmp_path, value):
        assert same_tensor(back["state_dict"]["w"], csr)
        assert same_tensor(back["optimizer"]["momentum"][0], coo)
        assert same_tensor(back["optimizer"]["momentum"][1], quantized)
        assert back["optimizer"]["momentum"][2] == 3
    for back in there_and_back(tmp_path, [coo, quantized]):
        assert same_tensor(back[0], coo)
        assert same_tensor(back[1], quantized)


def test_tied_quantized_tensors_share_a_storage_again(tmp_path: Path) -> None:
    tensor = quiet(MAKERS["qint8"])
    for back in there_and_back(tmp_path, {"a": tensor, "b": tensor.detach()}):
        assert back["a"].untyped_storage().data_ptr() == back["b"].untyped_storage().data_ptr()
        assert same_tensor(back["b"], tensor)


def test_parts_give_way_to_names_that_are_taken(tmp_path: Path) -> None:
    coo, quantized = quiet(MAKERS["coo"]), quiet(MAKERS["qint8"])
    value = {"w": quantized, "w.scale": torch.ones(2), "e": coo, "e.values": torch.ones(3), "e.indices": quantized}
    for back in there_and_back(tmp_path, value):
        assert back.keys() == value.keys()
        assert all(same_tensor(back[name], tensor) for name, tensor in value.items())


def test_a_model_that_torch_quantized_loads_its_state_again(tmp_path: Path) -> None:
    plain = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(plain, {torch.nn.Linear}, dtype=torch.qint8)
        inputs = torch.arange(8.0).reshape(2, 4)
        expected = model(inputs)
        for back in there_and_back(tmp_path, model.state_dict()):
            torch.nn.init.zeros_(model[1].weight)
            model.load_state_dict(back)
            assert torch.equal(model(inputs), expected)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    data=st.data(),
    dtype=st.sampled_from([torch.qint8, torch.quint8, torch.qint32]),
    floats=st.booleans(),
)
def test_any_shape_and_axis_comes_back(
    shape: list[int], data: st.DataObject, dtype: torch.dtype, floats: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    count = shape[axis]
    points = torch.arange(count) / 4 if floats and dtype is not torch.qint32 else torch.arange(count)
    tensor = quiet(lambda: torch.quantize_per_channel(torch.randn(shape), torch.rand(count) + 0.1, points, axis, dtype))
    order = data.draw(st.permutations(range(len(shape))))
    for back in there_and_back(tmp_path_factory.mktemp("any"), {"w": tensor, "s": torch.randn(shape).to_sparse()}):
        assert same_tensor(back["w"], tensor)
    if not floats:
        plain = quiet(lambda: torch.quantize_per_tensor(torch.randn(shape), 0.3, 1, dtype).permute(order))
        for back in there_and_back(tmp_path_factory.mktemp("turned"), {"w": plain}):
            assert same_tensor(back["w"], plain)


@settings(max_examples=20, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), min_size=2, max_size=4),
    layout=st.sampled_from(["coo", "csr", "csc"]),
    density=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_any_sparse_shape_comes_back(
    shape: list[int], layout: str, density: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    if layout != "coo":  # torch makes no batches of no element
        shape = [max(n, 1) for n in shape[:-2]] + shape[-2:]
    rows = (torch.rand(shape) < density).float()
    if layout != "coo" and len(shape) > 2:  # every batch of these has as many elements as the next
        rows = rows[:1].expand(shape).contiguous() if len(shape) == 3 else torch.ones(shape)
    made = rows.to_sparse() if layout == "coo" else quiet(getattr(rows, f"to_sparse_{layout}"))
    for back in there_and_back(tmp_path_factory.mktemp("any"), {"w": made}):
        assert same_tensor(back["w"], made)
