"""Quantized and sparse tensors: read as their parts, and whole again in a .pth; torch is the judge."""

from __future__ import annotations

import json
import warnings
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import ckptconv
from ckptconv.cli.main import program
from ckptconv.formats.safetensors import FORMATS as SAFETENSORS
from ckptconv.formats.targets.preflight import losses
from tests.support.composites import MAKERS, quiet, same_tensor
from tests.support.reads import bytes_read

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


def test_a_bare_safetensors_keeps_what_its_tensors_need(tmp_path: Path) -> None:
    tensors = {kind: quiet(MAKERS[kind]) for kind in ("qint8", "coo", "bsr")}
    torch.save({"epoch": 3, "state_dict": tensors}, tmp_path / "a.pth")
    made = ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.safetensors", bare=True)
    assert not made.losses
    ckptconv.convert(tmp_path / "b.safetensors", tmp_path / "c.pth", bare=True)
    back = loaded(tmp_path / "c.pth")
    assert back.keys() == tensors.keys()
    assert all(same_tensor(back[name], tensor) for name, tensor in tensors.items())


def test_shards_hold_them_whole(tmp_path: Path) -> None:
    tensors = {f"{kind}.weight": make() for kind, make in MAKERS.items()} | {"bias": torch.ones(3)}
    weight_map = {name: f"pytorch_model-0000{at % 2 + 1}-of-00002.bin" for at, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        torch.save({name: tensors[name] for name in tensors if weight_map[name] == file}, tmp_path / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    ckptconv.convert(tmp_path, tmp_path / "whole.pth")
    found = loaded(tmp_path / "whole.pth")
    assert found.keys() == tensors.keys()
    assert all(same_tensor(found[name], tensors[name]) for name in tensors)


def test_the_parts_are_what_any_reader_of_safetensors_finds(tmp_path: Path) -> None:
    tensor, coo = quiet(MAKERS["per channel 0"]), quiet(MAKERS["coo"])
    torch.save({"w": tensor, "e": coo}, tmp_path / "a.pth")
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    found = load_file(tmp_path / "b.safetensors")
    assert torch.equal(found["w"], tensor.int_repr())
    assert torch.equal(found["w.scale"], tensor.q_per_channel_scales())
    assert torch.equal(found["w.zero_point"], tensor.q_per_channel_zero_points())
    assert torch.equal(found["e.indices"], coo.indices())
    assert torch.equal(found["e.values"], coo.values())
    assert len(found) == 5


def test_a_format_that_knows_no_such_tensors_asks_for_consent(tmp_path: Path) -> None:
    torch.save({"w": quiet(MAKERS["qint8"]), "e": quiet(MAKERS["csr"])}, tmp_path / "a.pth")
    plain = replace(SAFETENSORS[0], holds=replace(SAFETENSORS[0].holds, composites=False))
    with ckptconv.open(tmp_path / "a.pth") as checkpoint:
        found = losses(checkpoint, plain)
        assert [(loss.code, loss.where) for loss in found] == [("composite", "w"), ("composite", "e")]
        assert "'e.crow_indices'" in found[1].message
        assert not losses(checkpoint, SAFETENSORS[0])


def test_inspect_says_what_they_are(tmp_path: Path) -> None:
    torch.save({"w": quiet(MAKERS["per channel 1"]), "e": quiet(MAKERS["coo"])}, tmp_path / "a.pth")
    result = CliRunner().invoke(program, ["inspect", str(tmp_path / "a.pth")])
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "w QU8 [4, 6] per_channel_affine, axis 1" in lines
    assert "e F32 [4, 6] sparse_coo, coalesced" in lines
    assert "quantized 1: QU8 ×1" in lines
    assert "sparse 1: sparse_coo ×1" in lines
    document = ckptconv.inspect(tmp_path / "a.pth").to_dict()
    assert [one["name"] for one in document["composites"]] == ["w", "e"]
    assert document["composites"][0]["axis"] == 1
    count = quiet(MAKERS["coo"])._nnz()
    assert document["parameters"] == 24 + count


@pytest.mark.parametrize("kind", MAKERS)
def test_a_file_that_holds_it_is_plain(kind: str, tmp_path: Path) -> None:
    torch.save({"w": quiet(MAKERS[kind])}, tmp_path / "a.pth")
    assert ckptconv.inspect(tmp_path / "a.pth").verdict == "plain"


def test_opening_reads_no_index(tmp_path: Path) -> None:
    large = torch.sparse_coo_tensor(torch.arange(1 << 20)[None], torch.ones(1 << 20), (1 << 20,))
    torch.save({"e": large}, tmp_path / "a.pth")
    with ckptconv.open(tmp_path / "a.pth") as checkpoint:
        assert checkpoint["e.indices"].info.shape == (1, 1 << 20)
        assert bytes_read(checkpoint) < 1 << 18


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
