"""What `inspect` says of the graph that weights belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
from onnx import TensorProto, helper

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
