"""Quantized tensors and ONNX: a graph may compute with their parts, and the record says what they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, save

import ckptconv
from ckptconv.errors import UnsupportedError
from tests.support.composites import MAKERS, quiet, same_tensor

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:.*:UserWarning", "ignore:.*:DeprecationWarning")


def dequantizing_graph(path: Path) -> Path:
    """``(w - zero point) * scale`` in doubles, with initializers that go by our names of the parts."""
    codes = {"w": TensorProto.INT8, "w.scale": TensorProto.DOUBLE, "w.zero_point": TensorProto.INT64}
    sizes = {name: (code, (4, 6) if name == "w" else ()) for name, code in codes.items()}
    weights = [
        helper.make_tensor(
            name, code, shape, np.zeros(shape, helper.tensor_dtype_to_np_dtype(code)).tobytes(), raw=True
        )
        for name, (code, shape) in sizes.items()
    ]
    nodes = [
        helper.make_node("Cast", ["w"], ["integers"], to=TensorProto.DOUBLE),
        helper.make_node("Cast", ["w.zero_point"], ["zero"], to=TensorProto.DOUBLE),
        helper.make_node("Sub", ["integers", "zero"], ["steps"]),
        helper.make_node("Mul", ["steps", "w.scale"], ["values"]),
    ]
    output = helper.make_tensor_value_info("values", TensorProto.DOUBLE, (4, 6))
    graph = helper.make_graph(nodes, "dequantize", [], [output], weights)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def test_a_template_computes_with_the_parts_and_the_record_makes_them_one_again(tmp_path: Path) -> None:
    import onnxruntime

    tensor = quiet(MAKERS["qint8"])
    torch.save({"w": tensor}, tmp_path / "a.pth")
    template = dequantizing_graph(tmp_path / "template.onnx")
    for bare in (False, True):
        ckptconv.convert(
            tmp_path / "a.pth", tmp_path / "b.onnx", options={"template": str(template)}, bare=bare, force=True
        )
        (values,) = onnxruntime.InferenceSession(tmp_path / "b.onnx").run(None, {})
        assert torch.allclose(torch.from_numpy(values), tensor.dequantize().double())
        ckptconv.convert(tmp_path / "b.onnx", tmp_path / "c.pth", force=True)
        assert same_tensor(torch.load(tmp_path / "c.pth")["w"], tensor)
    assert ckptconv.diff(tmp_path / "a.pth", tmp_path / "b.onnx").equal


def test_no_graph_is_made_that_takes_integers_for_weights(tmp_path: Path) -> None:
    names = {"hidden_layers.0.weight": (3, 4), "output.weight": (2, 3)}
    state = {name: torch.rand(shape) for name, shape in names.items()}
    state |= {"hidden_layers.0.bias": torch.zeros(3), "output.bias": torch.zeros(2)}
    state["output.weight"] = quiet(lambda: torch.quantize_per_tensor(state["output.weight"], 0.1, 0, torch.qint8))
    torch.save(state, tmp_path / "a.pth")
    assert ckptconv.validate(tmp_path / "a.pth", arch="mlp").valid
    with pytest.raises(UnsupportedError, match=r"'output\.weight' is QI8 \[2, 3\]") as caught:
        ckptconv.convert(tmp_path / "a.pth", tmp_path / "a.onnx", arch="mlp")
    assert "--dequantize" in str(caught.value.hint)
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "a.onnx", arch="mlp", edits=ckptconv.Edits(dequantize=True))
    with ckptconv.open(tmp_path / "a.onnx") as made:
        assert torch.equal(made["output.weight"].to_torch(), state["output.weight"].dequantize())


def test_an_architecture_is_compared_with_a_sparse_tensor_as_a_whole(tmp_path: Path) -> None:
    state = {"hidden_layers.0.weight": torch.eye(3), "hidden_layers.0.bias": torch.zeros(3)}
    state |= {"output.weight": torch.eye(3)[:2].to_sparse(), "output.bias": torch.zeros(2)}
    torch.save(state, tmp_path / "a.pth")
    found = ckptconv.validate(tmp_path / "a.pth", arch="mlp", values=True)
    assert found.valid
    assert found.params["output_size"] == 2
    ckptconv.convert(tmp_path / "a.pth", tmp_path / "b.safetensors", arch="mlp", with_params=True)
    ckptconv.convert(tmp_path / "b.safetensors", tmp_path / "c.pth")
    assert same_tensor(torch.load(tmp_path / "c.pth")["state_dict"]["output.weight"], state["output.weight"])
