"""What `inspect` says of the graph that weights belong to."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import onnx
import torch
from onnx import TensorProto, helper

import ckptconv

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cli.conftest import Run


def test_inspect_shows_the_graph_of_an_onnx_file(run: Run, tmp_path: Path) -> None:
    weight = helper.make_tensor("fc.weight", TensorProto.FLOAT, [3, 2], [1.0] * 6)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "fc.weight"], ["h"]), helper.make_node("Relu", ["h"], ["y\x1b"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3])],
        [helper.make_tensor_value_info("y\x1b", TensorProto.FLOAT, ["batch", 2])],
        [weight],
    )
    onnx.save(
        helper.make_model(graph, producer_name="us", opset_imports=[helper.make_opsetid("", 20)]), tmp_path / "n.onnx"
    )
    shown = run("inspect", str(tmp_path / "n.onnx")).stdout
    for line in ("producer", "ai.onnx 20", "x F32 [batch, 3]", "y\\x1b F32 [batch, 2]", "MatMul ×1, Relu ×1"):
        assert line in shown
    assert "\x1b" not in shown
    assert "stays behind" not in shown  # of what? nothing is converted


def test_a_graph_into_a_graph_gets_a_hint_on_how_it_is_kept(run: Run, tmp_path: Path) -> None:
    layers = {f"{n}.{part}": torch.ones(shape) for n in (0, 2) for part, shape in (("weight", (4, 4)), ("bias", 4))}
    torch.save(layers, tmp_path / "raw.pth")
    ckptconv.convert(tmp_path / "raw.pth", tmp_path / "a.onnx", arch="mlp", bare=True)
    model = onnx.load(tmp_path / "a.onnx")
    del model.metadata_props[:]  # as if another exporter had made it, which says nothing of an architecture
    onnx.save(model, tmp_path / "a.onnx")
    refused = run("convert", tmp_path / "a.onnx", tmp_path / "b.onnx")
    (hint,) = [line for line in refused.stderr.splitlines() if line.startswith("hint: ")]
    command, _, other = hint.removeprefix("hint: ").partition(" keeps its graph; or ")
    assert other.startswith("ckptconv convert ")
    result = run(*shlex.split(command)[1:])
    assert result.exit_code == 0
    assert "stays behind" not in result.stdout
    assert [one.op_type for one in onnx.load(tmp_path / "b.onnx").graph.node] == [
        one.op_type for one in model.graph.node
    ]
