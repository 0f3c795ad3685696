"""Which tensors are the model's, what they are called, and that everything around them comes back."""

from __future__ import annotations

import itertools
from collections import Counter, OrderedDict, defaultdict
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import ckptconv
from ckptconv.errors import CkptconvError, UsageError
from tests.support.craft import saved
from tests.support.nodes import load, same_object

if TYPE_CHECKING:
    from pathlib import Path

W, B = torch.arange(6.0).reshape(2, 3), torch.tensor([1.0, 2.0])
STATE = OrderedDict([("layer.weight", W), ("layer.bias", B)])
NAMES = ["layer.weight", "layer.bias"]


def training() -> dict[str, Any]:
    """A checkpoint as training loops save it, with Adam's state under int keys."""
    network = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return {"epoch": 3, "model_state_dict": network.state_dict(), "optimizer_state_dict": optimizer.state_dict()}


OPTIMIZER = {"state": {0: {"exp_avg": W * 2, "step": 1}}, "param_groups": [{"lr": 0.1, "params": [0]}]}

ROOTS: dict[str, tuple[Any, list[str] | None, int]] = {
    "a bare state_dict": (STATE, NAMES, 0),
    "a plain dict": (dict(STATE), NAMES, 0),
    "the usual metadata": (
        {"input_size": 784, "output_size": 10, "hidden_layers": [512, 256, 128], "state_dict": STATE}, NAMES, 0
    ),
    "model_state_dict": ({"epoch": 1, "model_state_dict": STATE}, NAMES, 0),
    "model": ({"model": dict(STATE), "args": {"lr": 0.1}}, NAMES, 0),
    "nested well-known keys": ({"model": {"state_dict": STATE, "n": 1}}, NAMES, 0),
    "another key": ({"weights_of_mine": STATE, "n": 1}, NAMES, 0),
    "deeper": ({"a": {"b": [STATE]}, "n": 1}, NAMES, 0),
    "an ema beside it": ({"state_dict": STATE, "ema": {"layer.weight": W + 1}}, NAMES, 1),
    "a list": ([STATE, {"lr": 0.1}], NAMES, 0),
    "a tuple": ((STATE, 3, "x"), NAMES, 0),
    "a list of tensors": ([W, B], ["0", "1"], 0),
    "a tuple of tensors": ((W, {"n": [B]}), None, 0),
    "a single tensor": (W, ["tensor"], 0),
    "two dicts of tensors": ({"generator": dict(STATE), "critic": {"w": W}},
                             ["generator.layer.weight", "generator.layer.bias", "critic.w"], 0),
    "an epoch of Ultralytics'": ({"model": None, "ema": dict(STATE), "optimizer": OPTIMIZER}, NAMES, 1),
    "two networks and their optimizers": (
        {"g": dict(STATE), "d": {"w": W}, "optim_g": OPTIMIZER, "optim_d": [OPTIMIZER]},
        ["g.layer.weight", "g.layer.bias", "d.w"], 2,
    ),
    "optimizers alone": ({"a": OPTIMIZER, "b": deepcopy(OPTIMIZER)}, ["a.state.0.exp_avg", "b.state.0.exp_avg"], 0),
    "int keys": ({0: W, 1: B}, None, 0),
    "extra state": ({"layer.weight": W, "layer._extra_state": {"calls": 3}, "layer.bias": B, "note": "x"}, NAMES, 0),
    "extra state that is a tensor": ({"w": W, "_extra_state": torch.ByteTensor([1, 2])}, ["w", "_extra_state"], 0),
    "dots that collide": ({"a": {"b": W}, "a.b": B}, ["a.b"], 1),
    "an empty state_dict": ({"state_dict": OrderedDict(), "n": 1}, [], 0),
    "no tensor at all": ({"n": [1, 2]}, [], 0),
    "an empty dict": ({}, [], 0),
    "None": (None, [], 0),
    "a model and a second well-known key": ({"model": dict(STATE), "state_dict": {"x": W}}, ["x"], 2),
    "numpy beside it": ({"state_dict": STATE, "mean": np.arange(3.0), "best": np.float64(0.5)}, NAMES, 0),
    "typed containers": ({"state_dict": STATE, "c": Counter("aab"), "d": defaultdict(list, {"k": [1]})}, NAMES, 0),
}  # fmt: skip


@pytest.mark.parametrize(("value", "names", "extras"), ROOTS.values(), ids=ROOTS.keys())
def test_a_checkpoint_of_any_form_comes_back_as_it_was(
    value: Any, names: list[str] | None, extras: int, tmp_path: Path
) -> None:
    path = saved(tmp_path / "first.pth", value)
    with ckptconv.open(path) as checkpoint:
        if names is not None:
            assert list(checkpoint) == names
        assert len(checkpoint.extras) == extras
    for middle in ("between.safetensors", "between.pth"):
        ckptconv.convert(path, tmp_path / middle)
        ckptconv.convert(tmp_path / middle, tmp_path / f"back-{middle}.pth")
        assert same_object(load(tmp_path / f"back-{middle}.pth", weights_only=False), value)


def test_an_optimizers_state_is_carried_and_comes_back_with_its_int_keys(tmp_path: Path) -> None:
    value = training()
    path = saved(tmp_path / "t.pth", value)
    result = ckptconv.convert(path, tmp_path / "t.safetensors")
    assert [finding.code for finding in result.findings] == ["extras"]
    assert "--bare" in result.findings[0].message
    stored = load_file(tmp_path / "t.safetensors")
    assert set(stored) == {"weight", "bias"} | {
        f"optimizer_state_dict.state.{i}.{name}" for i in (0, 1) for name in ("step", "exp_avg", "exp_avg_sq")
    }
    ckptconv.convert(tmp_path / "t.safetensors", tmp_path / "back.pth")
    back = load(tmp_path / "back.pth")
    assert same_object(back, value)
    optimizer = torch.optim.Adam(nn.Linear(3, 2).parameters())
    optimizer.load_state_dict(back["optimizer_state_dict"])
    assert list(back["optimizer_state_dict"]["state"]) == [0, 1]


def test_bare_leaves_the_models_tensors_alone(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.pth", training())
    ckptconv.convert(path, tmp_path / "t.safetensors", bare=True)
    assert set(load_file(tmp_path / "t.safetensors")) == {"weight", "bias"}
    ckptconv.convert(path, tmp_path / "bare.pth", bare=True)
    bare = load(tmp_path / "bare.pth")
    assert isinstance(bare, OrderedDict)
    nn.Linear(3, 2).load_state_dict(bare)


def test_the_example_goes_into_a_network_with_no_extra_step(tmp_path: Path) -> None:
    sizes = [784, 512, 256, 128, 10]
    network = nn.Sequential(*(nn.Linear(n, m) for n, m in itertools.pairwise(sizes)))
    value = {"input_size": 784, "output_size": 10, "hidden_layers": sizes[1:-1], "state_dict": network.state_dict()}
    path = saved(tmp_path / "mnist.pth", value)
    ckptconv.convert(path, tmp_path / "mnist.safetensors")
    weights = load_file(tmp_path / "mnist.safetensors")
    assert not any(network.load_state_dict(weights, strict=True))
    ckptconv.convert(tmp_path / "mnist.safetensors", tmp_path / "back.pth")
    assert same_object(load(tmp_path / "back.pth"), value)


def test_a_tensor_of_a_class_of_its_own_needs_consent(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    odd = torch.ones(2).as_subclass(OddTensor)
    torch.save({"w": odd}, path)
    with pytest.raises(CkptconvError, match="loss"):
        ckptconv.convert(path, tmp_path / "out.safetensors")
    ckptconv.convert(path, tmp_path / "out.safetensors", allow_loss=["opaque"])
    assert load_file(tmp_path / "out.safetensors")["w"].tolist() == [1, 1]


class OddTensor(torch.Tensor):
    """A subclass that only this file knows."""


def test_metadata_shows_everything_but_the_models_tensors(tmp_path: Path) -> None:
    path = saved(tmp_path / "t.pth", training())
    with ckptconv.open(path) as checkpoint:
        assert set(checkpoint.metadata) == {"epoch", "optimizer_state_dict"}
        assert checkpoint.metadata["epoch"] == 3
        changed = checkpoint.with_metadata({"epoch": 4, "note": "x"})
        assert (changed.metadata["epoch"], checkpoint.metadata["epoch"]) == (4, 3)
        assert checkpoint.bare().metadata == {}


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"state_dict": {"w": torch.ones(2)}, "epoch": 3}, "state_dict"),
        ({"state_dict": {"w": torch.ones(2)}, "optimizer": {"step": torch.ones(1)}}, "optimizer"),
        ({"w": torch.ones(2)}, "state_dict"),
        ([torch.ones(2)], "data"),
    ],
)
def test_metadata_does_not_take_the_place_of_tensors(value: object, key: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", value)
    with pytest.raises(UsageError, match=f"the key '{key}' is taken"):
        ckptconv.convert(path, tmp_path / "b.pth", metadata={key: 1})
    ckptconv.convert(path, tmp_path / "b.pth", metadata={"other": 1})
    assert load(tmp_path / "b.pth")["other"] == 1


def test_what_stands_beside_a_state_dict_in_a_list_keeps_its_position(tmp_path: Path) -> None:
    torch.save({"state_dict": ({"w": torch.ones(2)}, "note", {"lr": 0.1}), "epoch": 3}, tmp_path / "x.pth")
    report = ckptconv.inspect(tmp_path / "x.pth")
    assert report.checkpoint.metadata == {"state_dict": {1: "note", 2: {"lr": 0.1}}, "epoch": 3}
    assert report.to_dict()["metadata"]


def test_a_pickled_optimizer_keeps_its_state_although_parameters_are_its_keys(tmp_path: Path) -> None:
    network = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    network(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": network, "optimizer": optimizer}, tmp_path / "a.pth")
    with ckptconv.open(tmp_path / "a.pth") as checkpoint:
        assert list(checkpoint) == ["weight", "bias"]
        assert checkpoint.extras["optimizer.state.state.1.key"].alias == checkpoint["bias"].alias
        moments = checkpoint.extras["optimizer.state.state.1.exp_avg"].to_torch()
    assert torch.equal(moments, optimizer.state[network.bias]["exp_avg"])
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.safetensors")
    assert torch.equal(load_file(tmp_path / "b.safetensors")["optimizer.state.state.1.exp_avg"], moments)


def test_an_optimizers_state_alone_is_said_to_be_no_model(tmp_path: Path) -> None:
    torch.save(training()["optimizer_state_dict"], tmp_path / "optimizer.pt")
    with ckptconv.open(tmp_path / "optimizer.pt") as checkpoint:
        assert [finding.code for finding in checkpoint.findings] == ["optimizer"]


@pytest.mark.parametrize("name", ["b.safetensors", "b.npz", "b.gguf", "b.bin.index.json"])
def test_extras_beside_a_pickled_module_stay_extras(name: str, tmp_path: Path) -> None:
    torch.save({"loss": torch.tensor(0.5), "model": nn.Linear(3, 2)}, tmp_path / "a.pth")
    losses = ["opaque"] if "index" in name else []
    ckptconv.convert(tmp_path / "a.pth", tmp_path / name, allow_loss=losses)
    with ckptconv.open(tmp_path / name) as checkpoint:
        assert (sorted(checkpoint), list(checkpoint.extras)) == (["bias", "weight"], ["loss"])
    assert ckptconv.diff(tmp_path / "a.pth", tmp_path / name).equal


@pytest.mark.filterwarnings("ignore")
def test_weights_of_a_quantized_layer_are_the_model_s_though_they_stand_in_a_tuple(tmp_path: Path) -> None:
    def quantized() -> nn.Module:
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))

    state = quantized().state_dict()
    weight, bias = state["0._packed_params._packed_params"]
    path = saved(tmp_path / "a.pth", state)
    with ckptconv.open(path) as checkpoint:
        assert not checkpoint.extras
    ckptconv.convert(path, tmp_path / "bare.pth", bare=True)
    bare = torch.load(tmp_path / "bare.pth")
    assert torch.equal(bare["0._packed_params._packed_params.0"].int_repr(), weight.int_repr())
    assert torch.equal(bare["0._packed_params._packed_params.1"], bias)
    ckptconv.convert(path, tmp_path / "b.safetensors")
    ckptconv.convert(tmp_path / "b.safetensors", tmp_path / "c.pth")
    again = quantized()
    again.load_state_dict(torch.load(tmp_path / "c.pth"))
    assert torch.equal(again(torch.ones(1, 4)), rebuilt(quantized(), state)(torch.ones(1, 4)))


def rebuilt(module: nn.Module, state: Any) -> nn.Module:
    module.load_state_dict(state)
    return module
