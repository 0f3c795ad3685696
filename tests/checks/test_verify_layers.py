"""Where two differ, the first layer whose outputs do is named."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import onnx
import pytest
import torch
from torch import nn

import ckptconv
from ckptconv.checks.layers import scope_outputs
from fixtures.network import Network

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ckptconv.core.report import Finding

BLOCKS = 3


class Block(nn.Module):
    """A residual block, so that a layer's change reaches the end by two ways."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(12), nn.Linear(12, 24), nn.Linear(24, 12)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


class Net(nn.Module):
    """Blocks in a Sequential, which is a scope of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 12)
        self.blocks = nn.Sequential(*[Block() for _ in range(BLOCKS)])
        self.out = nn.Linear(12, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.blocks(self.embed(ids)))


NET, IDS = f"{__file__}:Net", ("ids:I64[N,T]<30",)


def saved(path: Path, state: Mapping[str, torch.Tensor]) -> Path:
    torch.save(dict(state), path)
    return path


def changed(state: Mapping[str, torch.Tensor], layer: str) -> dict[str, torch.Tensor]:
    """One number of the layer's weight is another, by far more than rounding."""
    weight = state[f"{layer}.weight"].clone()
    weight.view(-1)[3] += 0.5
    if weight.dim() > 1:
        weight[:, 0] += 0.5
    return {**state, f"{layer}.weight": weight}


def first(a: Path, b: Path, **options: Any) -> Finding:
    result = ckptconv.verify(a, b, **options)
    assert not result.equivalent
    found = [finding for finding in result.findings if finding.code == "first-difference"]
    assert len(found) == 1, result.findings
    return found[0]


LINEARS = ["hidden_layers.0", "hidden_layers.1", "hidden_layers.2", "output"]


@pytest.fixture
def digits() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Network(16, 5, [12, 12, 12]).state_dict()


@pytest.fixture
def net() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Net().eval().state_dict()


@pytest.mark.parametrize("layer", LINEARS)
def test_the_layer_of_a_changed_weight_is_named_in_a_recipes_graph(
    tmp_path: Path, digits: dict[str, torch.Tensor], layer: str
) -> None:
    source, graph = saved(tmp_path / "a.pth", digits), tmp_path / "a.onnx"
    ckptconv.convert(source, graph, arch="mlp")
    other = saved(tmp_path / "b.pth", changed(digits, layer))
    for pair in ((other, graph), (graph, other)):
        found = first(*pair, arch="mlp")
        assert found.where == layer
        assert float(found.found or 0) > float(found.expected or 0) > 0
    assert first(source, other, arch="mlp").where == layer
    assert first(source, other, arch="mlp").expected == "0"


@pytest.mark.parametrize("layer", ["embed", "blocks.0.norm", "blocks.0.up", "blocks.1.down", "blocks.2.norm", "out"])
def test_the_layer_is_named_in_an_exported_graph_and_in_python(
    tmp_path: Path, net: dict[str, torch.Tensor], layer: str
) -> None:
    source, other = saved(tmp_path / "a.pth", net), saved(tmp_path / "b.pth", changed(net, layer))
    assert first(source, other, arch=NET, inputs=IDS).where == layer
    ckptconv.convert(source, tmp_path / "ours.onnx", arch=NET, inputs=IDS)
    assert first(other, tmp_path / "ours.onnx", arch=NET, inputs=IDS).where == layer


@pytest.mark.parametrize("optimize", [True, False])
def test_torchs_own_export_is_understood(tmp_path: Path, net: dict[str, torch.Tensor], *, optimize: bool) -> None:
    module = Net().eval()
    module.load_state_dict(net)
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own
        program = torch.onnx.export(
            module, (torch.zeros(2, 6, dtype=torch.long),), dynamo=True, dynamic_shapes=(free,), optimize=optimize,
            verbose=False,
        )  # fmt: skip
    assert program is not None
    program.save(tmp_path / "torch.onnx", external_data=True)
    assert ckptconv.verify(saved(tmp_path / "a.pth", net), tmp_path / "torch.onnx", arch=NET, inputs=IDS).equivalent
    for layer in ("embed", "blocks.1.up", "blocks.2.down", "out"):
        other = saved(tmp_path / "b.pth", changed(net, layer))
        assert first(other, tmp_path / "torch.onnx", arch=NET, inputs=IDS).where == layer


def test_two_graphs_are_compared_layer_by_layer(tmp_path: Path, digits: dict[str, torch.Tensor]) -> None:
    for name, state in (("a", digits), ("b", changed(digits, "hidden_layers.1"))):
        ckptconv.convert(saved(tmp_path / f"{name}.pth", state), tmp_path / f"{name}.onnx", arch="mlp")
    assert first(tmp_path / "a.onnx", tmp_path / "b.onnx").where == "hidden_layers.1"
    assert first(tmp_path / "a.onnx", tmp_path / "b.onnx", arch="mlp").where == "hidden_layers.1"


def test_another_activation_is_found_where_it_is_first_felt(tmp_path: Path, digits: dict[str, torch.Tensor]) -> None:
    source = saved(tmp_path / "a.pth", digits)
    ckptconv.convert(source, tmp_path / "a.onnx", arch="mlp", settings=["activation=tanh"])
    torch.save({"activation": "relu", "state_dict": digits}, tmp_path / "b.pth")
    found = first(tmp_path / "b.pth", tmp_path / "a.onnx")
    assert found.where == "dropout"  # the first that both have behind the activation
    assert "hidden_layers.0 before it agrees, and where the one has relu then, the other has tanh" in found.message


def test_scopes_are_read_as_exporters_write_them() -> None:
    """The older exporter repeats the name of a container that is called; ours has dots within one step."""

    def node(name: str, inputs: list[str], output: str) -> onnx.NodeProto:
        return onnx.helper.make_node("Relu", inputs, [output], name=name)

    value = onnx.helper.make_tensor_value_info
    nodes = [
        node("/layers/layers.0/MatMul", ["x"], "a"),
        node("/layers/layers.0/Add", ["a"], "b"),
        node("/layers/layers.1/fc/Gemm", ["b"], "c"),
        node("/hidden.0/Gemm", ["c"], "d"),
        node("Relu_7", ["d"], "y"),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [value("x", 1, [1])], [value("y", 1, [1])])
    assert scope_outputs(graph) == {
        "layers.0#1": "b", "layers.1.fc#1": "c", "layers.1#1": "c", "layers#1": "c", "hidden.0#1": "d"
    }  # fmt: skip
