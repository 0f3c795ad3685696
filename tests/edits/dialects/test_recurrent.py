"""Recurrent layers of Keras and Flax, and Flax's transposed convolutions: torch's modules compute what those did."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

import ckptconv
from ckptconv.edits.name_rule import NameRule
from tests.edits.dialects.test_of_keras_3 import written

if TYPE_CHECKING:
    from collections.abc import Mapping

OTHERS = Path(__file__).parents[3] / "fixtures" / "others"


def translated(source: Path, target: Path, dialect: str = "keras") -> dict[str, torch.Tensor]:
    edits = ckptconv.Edits(names=[NameRule("translate", dialect)])
    ckptconv.convert(source, target, edits=edits, bare=True)
    return torch.load(target, weights_only=True)


class Cells(nn.Module):
    """Keras' RNN of two cells, which stay cells."""

    def __init__(self, parent: str) -> None:
        super().__init__()
        cells = nn.ModuleDict({"lstm_cell": nn.LSTMCell(3, 3), "gru_cell": nn.GRUCell(3, 2)})
        self.add_module(parent, nn.ModuleDict({"cells": cells}) if parent == "cell" else cells)
        self.cells = [cells]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None]:
        hidden, state, second = torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 2)
        found = []
        for step in x.unbind(1):
            hidden, state = self.cells[0]["lstm_cell"](step, (hidden, state))
            second = self.cells[0]["gru_cell"](hidden, second)
            found.append(second)
        return torch.stack(found, 1), None


class Network(nn.Module):
    """The network of `fixtures/others/make.py`, with Keras' names for its layers, in their order."""

    def __init__(self, cells: str) -> None:
        super().__init__()
        self.encoder = nn.LSTM(4, 3, batch_first=True)
        self.bidirectional = nn.LSTM(3, 3, batch_first=True, bidirectional=True)
        self.bidirectional_1 = nn.GRU(6, 2, batch_first=True, bidirectional=True)
        self.simple_rnn = nn.RNN(4, 4, batch_first=True)
        self.plain = nn.LSTM(4, 2, batch_first=True, bias=False)
        self.gru = nn.GRU(2, 3, batch_first=True, bias=False)
        self.rnn = nn.LSTM(3, 3, batch_first=True)
        self.stack = Cells(cells)
        self.decoder = nn.GRU(2, 2, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.children():
            x, _ = layer(x)
        return x


@pytest.mark.parametrize(
    ("file", "cells"), [("keras-recurrent.keras", "cell"), ("keras-recurrent.h5", "stacked_rnn_cells")]
)
def test_torchs_layers_compute_what_keras_did(file: str, cells: str, tmp_path: Path) -> None:
    network = Network(cells)
    network.load_state_dict(translated(OTHERS / file, tmp_path / "a.pth"))
    with np.load(OTHERS / "keras-recurrent.npz") as arrays, torch.no_grad():
        found = network(torch.tensor(arrays["input"]))
        assert np.abs(arrays["output"]).max() > 0.1
        assert np.allclose(found.numpy(), arrays["output"], rtol=1e-4, atol=1e-6)


def test_torchs_modules_compute_what_flaxs_did(tmp_path: Path) -> None:
    state = translated(OTHERS / "flax-modules.msgpack", tmp_path / "a.pth", "flax")
    layers = {
        "layers.rnn": nn.LSTM(4, 3, batch_first=True),
        "layers.both": nn.GRU(4, 2, batch_first=True, bidirectional=True),
        "LSTMCell_0": nn.LSTM(4, 3, batch_first=True), "GRUCell_0": nn.GRU(4, 3, batch_first=True),
        "SimpleCell_0": nn.RNN(4, 3, batch_first=True), "ConvTranspose_0": nn.ConvTranspose2d(3, 5, (2, 3), (2, 1)),
        "ConvTranspose_1": nn.ConvTranspose2d(3, 3, 4, 2, padding=1),
        "ConvTranspose_2": nn.ConvTranspose2d(3, 5, (2, 3)),
        "ConvTranspose_3": nn.ConvTranspose1d(4, 2, 3, bias=False),
    }  # fmt: skip
    outputs = {
        "layers.rnn": "rnn", "layers.both": "both", "LSTMCell_0": "LSTMCell", "GRUCell_0": "GRUCell",
        "SimpleCell_0": "SimpleCell", "ConvTranspose_0": "valid", "ConvTranspose_1": "same",
        "ConvTranspose_2": "turned", "ConvTranspose_3": "narrow",
    }  # fmt: skip
    with np.load(OTHERS / "flax-modules.npz") as arrays, torch.no_grad():
        for name, module in layers.items():
            own = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
            if "Cell" in name:
                own = {f"{key}_l0": value for key, value in own.items()}
            module.load_state_dict(own)
            if "Conv" not in name:
                found = module(torch.tensor(arrays["sequence"]))[0]
            else:
                picture = torch.tensor(arrays["row" if name.endswith("3") else "picture"])
                found = module(picture.movedim(-1, 1)).movedim(1, -1)
            assert np.allclose(found.numpy(), arrays[outputs[name]], rtol=1e-4, atol=1e-5), name
    assert all(key.startswith(tuple(layers)) for key in state)


def named(path: Path, tensors: Mapping[str, tuple[int, ...]], config: object = None) -> Path:
    """A file of Keras 2 with zeros under these names."""
    with h5py.File(path, "w") as file:
        for name, shape in tensors.items():
            file[name] = np.zeros(shape, "f4")
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
    return path


def lstm(path: str, inputs: int = 2, bias: Any = (12,)) -> dict[str, tuple[int, ...]]:
    return {f"{path}/kernel:0": (inputs, 12), f"{path}/recurrent_kernel:0": (3, 12), f"{path}/bias:0": bias}


GRU = {"g/gru_cell/kernel:0": (2, 9), "g/gru_cell/recurrent_kernel:0": (3, 9)}


def ends(prefix: str, end: str = "_l0") -> list[str]:
    return [f"{prefix}.{word}{end}" for word in ("bias_hh", "bias_ih", "weight_hh", "weight_ih")]


@pytest.mark.parametrize(
    ("tensors", "expected"),
    [
        (lstm("lstm_1/lstm_1"), ends("lstm_1")),  # of Keras before TensorFlow 2
        (lstm("a/a/lstm_cell_3"), ends("a")),
        (lstm("model/layer_with_weights-0/cell"), ends("model.layer_with_weights-0")),  # a checkpoint of TensorFlow's
        (lstm("lstm_cell"), ends("lstm_cell", "")),
        (lstm("rnn/stacked_rnn_cells/lstm_cell_1"), ends("rnn.stacked_rnn_cells.lstm_cell_1", "")),
        (lstm("b/b/forward_x/lstm_cell") | lstm("b/b/backward_x/lstm_cell_1"), [*ends("b"), *ends("b", "_l0_reverse")]),
        (lstm("forward_x/lstm_cell") | lstm("backward_x/lstm_cell"), [*ends("backward_x"), *ends("forward_x")]),
        (lstm("b/b/forward_x/lstm_cell") | lstm("b/b/backward_x/lstm_cell_1", 5),
         [*ends("b.backward_x"), *ends("b.forward_x")]),
        (GRU | {"g/gru_cell/bias:0": (2, 9)}, ends("g")),
    ],
)  # fmt: skip
def test_layers_are_recognised_by_their_names_and_shapes(
    tensors: dict[str, tuple[int, ...]], expected: list[str], tmp_path: Path
) -> None:
    assert sorted(translated(named(tmp_path / "a.h5", tensors), tmp_path / "a.pth")) == sorted(expected)


PLAIN = ["g.weight_hh_l0", "g.weight_ih_l0"]


def configured(**settings: object) -> object:
    """A layer in a model in a model."""
    layer = {"class_name": "GRU", "config": {"name": "g", **settings}}
    return {"class_name": "Functional", "config": {"name": "m", "layers": [layer]}}


@pytest.mark.parametrize(
    ("tensors", "config", "why"),
    [
        (GRU | {"g/gru_cell/bias:0": (9,)}, None, "it is a GRU with reset_after=False"),
        (GRU, configured(reset_after=False), "it is a GRU with reset_after=False"),
        (GRU, None, "nothing says whether this GRU without a bias has reset_after"),
        (GRU, configured(), "nothing says whether this GRU without a bias has reset_after"),
        (GRU, "[" * 9999, "nothing says whether this GRU without a bias has reset_after"),
        (GRU | {"g/gru_cell/bias:0": (18,)}, None, "it is a CuDNNGRU"),
        (lstm("g/gru_cell"), None, "its variables or their shapes"),
        (lstm("g/x", bias=(24,)), None, "it is a CuDNNLSTM"),
        (lstm("g/x", bias=(2, 12)), None, "its bias fits no torch layer"),
        (lstm("g/x") | {"g/x/input_gate_peephole_weights:0": (3,)}, None, "its variables or their shapes"),
        ({"g/conv/kernel:0": (3, 3, 2, 8), "g/conv/recurrent_kernel:0": (3, 3, 2, 8)}, None, "its variables or"),
        ({"g/x/recurrent_kernel:0": (3, 3)}, None, "its variables or their shapes"),
    ],
)  # fmt: skip
def test_what_torch_does_not_have_is_left_and_reported(
    tensors: dict[str, tuple[int, ...]], config: object, why: str, tmp_path: Path
) -> None:
    path = named(tmp_path / "a.h5", tensors, config)
    edits = ckptconv.Edits(names=[NameRule("translate", "keras")])
    said = [one for one in ckptconv.convert(path, tmp_path / "a.pth", edits=edits).findings if one.code == "left-alone"]
    assert [one.severity for one in said] == ["warning"]
    assert why in said[0].message
    with ckptconv.open(tmp_path / "a.pth") as found:
        assert {name: tensor.info.shape for name, tensor in found.items()} == {
            name.removesuffix(":0").replace("/", "."): shape for name, shape in tensors.items()
        }


def test_a_configuration_says_what_a_gru_without_a_bias_is(tmp_path: Path) -> None:
    path = named(tmp_path / "a.h5", GRU, configured(reset_after=True))
    assert sorted(translated(path, tmp_path / "a.pth")) == PLAIN
    layer = {"class_name": "GRU", "config": {"name": "inner", "reset_after": True}}
    both = {"class_name": "Bidirectional", "config": {"name": "g", "layer": layer, "backward_layer": layer}}
    path = named(
        tmp_path / "b.h5", GRU, {"class_name": "Sequential", "config": [both]} | {"config": {"layers": [both]}}
    )
    assert sorted(translated(path, tmp_path / "b.pth")) == PLAIN


def test_the_class_of_a_numbered_cell_is_what_it_says_or_the_configuration(tmp_path: Path) -> None:
    shapes = {"layers/rnn/cell": [(2, 12), (3, 12), (12,)]}
    path = written(tmp_path / "a.h5", {**shapes, "layers/dense": [(2, 2)]}, {"layers/rnn/cell": "own"})
    numbers = [f"layers.rnn.cell.vars.{i}" for i in range(3)]
    assert sorted(translated(path, tmp_path / "a.pth")) == sorted(["dense.weight", *numbers])
    with h5py.File(path, "a") as file:
        file.attrs["model_config"] = json.dumps({"layers": {"class_name": "LSTMCell", "config": {"name": "own"}}})
    assert sorted(translated(path, tmp_path / "b.pth")) == sorted(["dense.weight", *ends("rnn")])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({("ii", "bias"): (3,)}, "c.ii.bias"),  # not as Flax makes it: linear layers
        ({("hi", "kernel"): (4, 3)}, "c.ii.weight"),
        ({("hx", "kernel"): (3, 3)}, "c.hx.weight"),
        ({}, "c.weight_ih"),
    ],
)
def test_only_whole_cells_of_flax_are_put_together(
    change: dict[tuple[str, str], tuple[int, ...]], expected: str, tmp_path: Path
) -> None:
    units = {f"{side}{gate}": (4 if side == "i" else 3, 3) for side in "ih" for gate in "ifgo"}
    tree: dict[tuple[str, str], tuple[int, ...]] = {(layer, "kernel"): shape for layer, shape in units.items()}
    tree |= {(layer, "bias"): (3,) for layer in units if layer[0] == "h"} | change
    arrays: Any = {".".join(("c", *path)): np.zeros(shape, "f4") for path, shape in tree.items()}
    np.savez(tmp_path / "a.npz", **arrays)
    found = translated(tmp_path / "a.npz", tmp_path / "a.pth", "flax")
    assert expected in found
    assert ("c.weight_ih" in found) == (not change)


def test_the_gates_of_flax_come_in_torchs_order(tmp_path: Path) -> None:
    arrays: Any = {f"c.{side}{gate}.kernel": np.full((3, 3), ord(gate), "f4") for side in "ih" for gate in "rzn"}
    arrays |= {f"c.{layer}.bias": np.full(3, ord(layer[1]), "f4") for layer in ("ir", "iz", "in", "hn")}
    np.savez(tmp_path / "a.npz", **arrays)
    found = translated(tmp_path / "a.npz", tmp_path / "a.pth", "flax")
    assert found["c.weight_hh"][::3, 0].tolist() == [ord(gate) for gate in "rzn"]
    assert found["c.bias_ih"][::3].tolist() == [ord(gate) for gate in "rzn"]
    assert found["c.bias_hh"][::3].tolist() == [0, 0, ord("n")]


def test_a_window_that_is_too_wide_to_be_turned_is_left_and_reported(tmp_path: Path) -> None:
    edits = ckptconv.Edits(names=[NameRule("translate", "flax")])
    arrays: Any = {"ConvTranspose_0.kernel": np.zeros((1025, 2, 3)), "d.kernel": np.zeros((2, 3))}
    np.savez(tmp_path / "a.npz", **arrays)
    said = ckptconv.convert(tmp_path / "a.npz", tmp_path / "a.pth", edits=edits).findings
    assert [one.where for one in said if one.code == "left-alone"] == ["ConvTranspose_0.kernel"]
    assert torch.load(tmp_path / "a.pth")["ConvTranspose_0.kernel"].shape == (1025, 2, 3)


def nameless(path: Path, groups: dict[str, list[tuple[int, ...]]], layers: list[object]) -> Path:
    """An archive of Keras 2, whose groups do not say what their layers are called."""
    weights = written(path.with_suffix(".h5"), groups, {})
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {"layers": layers}}))
        file.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        file.write(weights, "model.weights.h5")
    return path


def layer(kind: str, **settings: object) -> dict[str, object]:
    return {"class_name": kind, "config": settings}


VARIABLES = [(2, 12), (3, 12), (12,)]
DIRECTIONS = {f"layers/bidirectional/{way}_layer/cell": VARIABLES for way in ("forward", "backward")}


@pytest.mark.parametrize(
    ("groups", "layers", "expected"),
    [
        ({"layers/lstm/cell": VARIABLES}, [layer("LSTM")], ends("lstm")),
        ({"layers/rnn/cell": VARIABLES}, [layer("RNN")], [f"layers.rnn.cell.vars.{i}" for i in range(3)]),
        (DIRECTIONS, [layer("Bidirectional", layer=layer("LSTM"))],
         [*ends("bidirectional"), *ends("bidirectional", "_l0_reverse")]),
        (DIRECTIONS, [layer("Bidirectional", layer=layer("mine>LSTM2"))],
         [f"layers.bidirectional.{way}_layer.cell.vars.{i}" for way in ("forward", "backward") for i in range(3)]),
        ({"layers/gru/cell": [(2, 9), (3, 9)]}, [layer("GRU", name="gru_7", reset_after=True)],
         ["gru.weight_ih_l0", "gru.weight_hh_l0"]),
        ({"layers/gru/cell": [(2, 9), (3, 9)]},
         [layer("GRU", name="gru_1", reset_after=False), layer("GRU", name="gru", reset_after=True)],
         ["gru.cell.kernel", "gru.cell.recurrent_kernel"]),
    ],
)  # fmt: skip
def test_archives_of_keras_2_do_not_say_the_names_of_their_layers(
    groups: dict[str, list[tuple[int, ...]]], layers: list[object], expected: list[str], tmp_path: Path
) -> None:
    path = nameless(tmp_path / "a.keras", {**groups, "layers/dense": [(2, 2)]}, layers)
    assert sorted(translated(path, tmp_path / "a.pth")) == sorted([*expected, "dense.weight"])
