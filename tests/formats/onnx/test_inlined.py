"""Prefixes that names got as one graph was put into another, by programs that do that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import ckptconv

OTHERS = Path(__file__).parents[3] / "fixtures" / "others"


def read(path: Path) -> dict[str, list[object]]:
    with ckptconv.open(path) as checkpoint:
        return {name: tensor.numpy().tolist() for name, tensor in checkpoint.items()}


def test_a_model_that_spox_put_into_a_branch_has_its_names_back(tmp_path: Path) -> None:
    found = read(OTHERS / "spox-branch.onnx")
    assert found.pop("If_0_else_branch__Constant_0_output") == np.ones((3, 4)).tolist()
    assert found == {"fc.weight": np.full((4, 3), 3.0).tolist(), "fc.bias": [0, 1, 2, 3]}
    with ckptconv.open(OTHERS / "spox-branch.onnx") as checkpoint:
        said = next(finding for finding in checkpoint.findings if finding.code == "inlined")
    assert "'fc.weight' is the graph's 'If_0_then_branch__Inline_0__fc.weight'" in said.message


def test_names_that_would_be_two_tensors_keep_their_prefixes() -> None:
    assert read(OTHERS / "spox-twice.onnx").keys() == {
        f"Inline_{i}__fc.{name}" for i in range(2) for name in ("weight", "bias")
    }


def test_another_producers_names_are_its_own(tmp_path: Path) -> None:
    model = onnx.load(OTHERS / "spox-branch.onnx")
    model.producer_name = "mine"
    onnx.save(model, tmp_path / "mine.onnx")
    assert "If_0_then_branch__Inline_0__fc.weight" in read(tmp_path / "mine.onnx")


def optimized(tmp_path: Path, own: list[str]) -> Path:
    """What onnxruntime leaves of Ifs whose condition is known, each with a branch that has a weight of that name."""
    nodes = [helper.make_node("Constant", [], ["no"], value=numpy_helper.from_array(np.array(False)))]
    for i, name in enumerate(own):
        branches = {}
        for branch in ("then_branch", "else_branch"):
            y = helper.make_tensor_value_info(f"{branch}_{i}", TensorProto.FLOAT, [2, 3])
            node = helper.make_node("MatMul", ["x", name], [y.name])
            stored = [numpy_helper.from_array(np.full((3, 3), i, np.float32), name)]
            branches[branch] = helper.make_graph([node], branch, [], [y], stored)
        nodes.append(helper.make_node("If", ["no"], [f"y{i}"], name=f"If_{i}", **branches))
    values = ["x", *(f"y{i}" for i in range(len(own)))]
    x, *ys = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3]) for name in values)
    graph = helper.make_graph(nodes, "main_graph", [x], ys)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="pytorch")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return tmp_path / "optimized.onnx"


@pytest.mark.parametrize("own", [["fc.weight"], ["a.weight", "b.weight", "c.weight"]])
def test_a_branch_that_onnxruntime_put_in_place_of_its_if_has_its_names_back(tmp_path: Path, own: list[str]) -> None:
    path = optimized(tmp_path, own)
    stored = [one.name for one in onnx.load(path).graph.initializer]
    assert all(name.startswith("_if_else_branch") for name in stored)
    assert read(path) == {name: np.full((3, 3), i).tolist() for i, name in enumerate(own)}


def test_branches_of_one_name_keep_theirs(tmp_path: Path) -> None:
    path = optimized(tmp_path, ["fc.weight", "fc.weight", "other"])
    alike = [one.name for one in onnx.load(path).graph.initializer if one.name.endswith("fc.weight")]
    assert len(alike) == 2
    assert read(path).keys() == {*alike, "other"}


def test_the_graph_is_a_template_for_tensors_of_the_plain_names(tmp_path: Path) -> None:
    template = optimized(tmp_path, ["a.weight", "b.weight"])
    ckptconv.convert(template, tmp_path / "weights.safetensors", bare=True)
    ckptconv.convert(tmp_path / "weights.safetensors", tmp_path / "back.onnx", options={"template": str(template)})
    assert read(tmp_path / "back.onnx") == read(template)
