"""Quantized weights of graphs: `--dequantize` gives what onnxruntime computes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

import ckptconv
from ckptconv.edits.quantized import matrix
from ckptconv.errors import EditError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEQUANTIZE = ckptconv.Edits(dequantize=True)
MICROSOFT = "com.microsoft"
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
RNG = np.random.default_rng(0)


def value(name: str, code: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, code, shape)


def saved(
    path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto], inputs: list[Any], outputs: list[str]
) -> Path:
    wanted = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(nodes, "g", inputs, wanted, weights)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid(MICROSOFT, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def array(name: str, values: Any, dtype: Any = None) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


def integers(name: str, code: int, shape: Sequence[int], low: int, high: int) -> onnx.TensorProto:
    values = RNG.integers(low, high, shape)
    return helper.make_tensor(name, code, shape, values.reshape(-1))


def scales(name: str, *shape: int, dtype: Any = np.float32) -> onnx.TensorProto:
    return array(name, RNG.random(shape) / 9 + 0.01, dtype)


def run(path: Path, outputs: list[str], **inputs: np.ndarray) -> list[np.ndarray]:
    """What onnxruntime computes, without rearranging the graph."""
    model = onnx.load(path)
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    made: list[np.ndarray] = onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, inputs)
    return made


def plain(path: Path, edits: ckptconv.Edits = DEQUANTIZE) -> dict[str, np.ndarray]:
    """At once, and by way of a file whose record says what the graph does."""
    made, kept = path.with_suffix(".safetensors"), path.with_suffix(".kept.safetensors")
    ckptconv.convert(path, made, edits=edits, bare=True, force=True)
    ckptconv.convert(path, kept, force=True)
    ckptconv.convert(kept, kept, edits=edits, bare=True, force=True)
    assert ckptconv.diff(made, kept, bare=True).equal
    return dict(load_file(made))


I4, U4, F8 = TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT8E4M3FN
LINEAR: dict[str, tuple[list[onnx.TensorProto], dict[str, Any]]] = {
    "all": ([integers("w", 3, (3, 5), -128, 128), scales("s"), integers("z", 3, (), -9, 9)], {}),
    "rows": ([integers("w", 2, (3, 5, 2), 0, 256), scales("s", 3), integers("z", 2, (3,), 0, 256)], {"axis": 0}),
    "columns": ([integers("w", 3, (3, 5), -128, 128), scales("s", 5), integers("z", 3, (5,), -9, 9)], {"axis": -1}),
    "within": ([integers("w", 5, (2, 5, 3), -3000, 3000), scales("s", 5)], {}),
    "half": ([integers("w", 3, (4, 3), -128, 128), scales("s", 4, dtype=np.float16)], {"axis": 0}),
    "32 bits": ([integers("w", 6, (7,), -90000, 90000), scales("s", 7)], {"axis": 0}),
    "odd rows of 4 bits": (
        [integers("w", I4, (3, 5), -8, 8), scales("s", 3), integers("z", I4, (3,), -8, 8)],
        {"axis": 0},
    ),
    "blocks of 4 bits": (
        [integers("w", U4, (5, 70), 0, 16), scales("s", 5, 3), integers("z", U4, (5, 3), 0, 16)],
        {"axis": 1, "block_size": 32},
    ),
    "blocks of rows": ([integers("w", I4, (70, 6), -8, 8), scales("s", 5, 6)], {"axis": 0, "block_size": 16}),
    "blocks within": ([integers("w", 3, (3, 6, 4), -9, 9), scales("s", 3, 2, 4)], {"axis": 1, "block_size": 4}),
    "floats of 8 bits": ([integers("w", F8, (3, 4), -9, 9), scales("s", 3)], {"axis": 0}),
}  # fmt: skip


@pytest.mark.parametrize("tile", [3, matrix.TILE])
@pytest.mark.parametrize("case", LINEAR)
def test_dequantize_linear(case: str, tile: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matrix, "TILE", tile)
    weights, attributes = LINEAR[case]
    node = helper.make_node("DequantizeLinear", [one.name for one in weights], ["y"], **attributes)
    path = saved(tmp_path / "x.onnx", [node], weights, [], ["y"])
    (expected,) = run(path, ["y"])
    made = plain(path)["w"]
    assert made.dtype == expected.dtype
    assert np.array_equal(made, expected)


def network(path: Path) -> Path:
    """Layers of each kind that onnxruntime quantizes, in floats."""
    shapes = {
        "conv.weight": (6, 3, 3, 3), "conv.bias": (6,), "fc.weight": (7, 24), "fc.bias": (7,), "mm.weight": (7, 8),
        "add.bias": (8,), "emb.weight": (10, 8), "W": (1, 20, 8), "R": (1, 20, 5),
    }  # fmt: skip
    weights = [array(name, RNG.standard_normal(shape), np.float32) for name, shape in shapes.items()]
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], name="conv"),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["g"], transB=1, name="fc"),
        helper.make_node("MatMul", ["g", "mm.weight"], ["m"], name="mm"),
        helper.make_node("Add", ["m", "add.bias"], ["y"], name="add"),
        helper.make_node("Gather", ["emb.weight", "i"], ["e"], name="emb"),
        helper.make_node("LSTM", ["e", "W", "R"], ["h"], hidden_size=5, name="lstm"),
    ]
    return saved(path, nodes, weights, [value("x", FLOAT, [1, 3, 4, 4]), value("i", INT64, [2, 1])], ["y", "h"])


class _Inputs:
    """What the quantizer runs the network on."""

    def __init__(self) -> None:
        self.left = 2

    def get_next(self) -> dict[str, np.ndarray] | None:
        self.left -= 1
        made = {"x": RNG.standard_normal((1, 3, 4, 4)).astype(np.float32), "i": np.array([[1], [2]])}
        return made if self.left >= 0 else None


@pytest.mark.parametrize("how", ["QDQ", "QOperator", "dynamic"])
def test_what_onnxruntime_quantizes_is_the_weights_again_but_for_half_a_step(how: str, tmp_path: Path) -> None:
    from onnxruntime import quantization

    source, path = network(tmp_path / "float.onnx"), tmp_path / "x.onnx"
    if how == "dynamic":
        quantization.quantize_dynamic(source, path, per_channel=True, weight_type=quantization.QuantType.QInt8)
    else:
        quantization.quantize_static(
            source, path, _Inputs(), quant_format=quantization.QuantFormat[how], per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
    with ckptconv.open(path) as checkpoint:
        notes = {one.name: one for one in checkpoint.notes.quantized}
        steps = {
            name: float(checkpoint[one.parts["scale"]].numpy().max())
            * (float(checkpoint[one.parts["factor"]].numpy()) if "factor" in one.parts else 1)
            for name, one in notes.items()
        }
    floats = {one.name: numpy_helper.to_array(one) for one in onnx.load(source).graph.initializer}
    floats |= {"fc.weight_Transposed": floats["fc.weight"].T, "W": floats["W"].transpose(0, 2, 1)}
    floats["R"] = floats["R"].transpose(0, 2, 1)
    made = plain(path)
    quantized = {"conv.weight", "mm.weight", "emb.weight"} | {
        "QDQ": {"fc.weight", "add.bias", "conv.bias", "fc.bias"},
        "QOperator": {"fc.weight", "add.bias", "conv.bias", "fc.bias"},
        "dynamic": {"fc.weight_Transposed", "W", "R"},
    }[how]
    assert set(notes) == quantized
    for name in quantized:
        assert made[name].shape == floats[name].shape
        assert np.abs(made[name] - floats[name]).max() <= steps[name] * 0.51, name
    leftover = made.keys() - floats.keys()
    assert not [name for name in leftover if name.endswith(("scale", "zero_point"))]
    assert {name for name, one in made.items() if one.dtype != np.float32} <= {"c_bias_reshape_shape"}


NBITS = [(4, 70, 32, np.float32, "packed"), (4, 64, 16, np.float32, ""), (8, 40, 32, np.float32, "packed"),
         (2, 64, 32, np.float32, "packed"), (4, 48, 16, np.float32, "floats")]  # fmt: skip


@pytest.mark.parametrize(("bits", "inputs", "block", "dtype", "zeros"), NBITS)
def test_mat_mul_n_bits(bits: int, inputs: int, block: int, dtype: Any, zeros: str, tmp_path: Path) -> None:
    outputs, groups = 6, -(-inputs // block)
    weights = [
        array("fc.weight_Q4", RNG.integers(0, 256, (outputs, groups, block * bits // 8)), np.uint8),
        scales("s", outputs * groups, dtype=dtype),
    ]
    if zeros == "packed":
        weights.append(array("z", RNG.integers(0, 256, outputs * -(-groups * bits // 8)), np.uint8))
    elif zeros:
        weights.append(array("z", RNG.random(outputs * groups) * 8, dtype))
    node = helper.make_node(
        "MatMulNBits", ["x", *(one.name for one in weights)], ["y"], domain=MICROSOFT, K=inputs, N=outputs, bits=bits,
        block_size=block,
    )  # fmt: skip
    path = saved(tmp_path / "x.onnx", [node], weights, [value("x", FLOAT, [inputs, inputs])], ["y"])
    (expected,) = run(path, ["y"], x=np.eye(inputs, dtype=np.float32))
    made = plain(path)
    assert list(made) == ["fc.weight"]
    assert made["fc.weight"].shape == (outputs, inputs)  # as torch has it
    assert np.allclose(made["fc.weight"], expected.T, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("code", [U4, TensorProto.UINT8])
def test_an_embedding_of_blocks(code: int, tmp_path: Path) -> None:
    packed = code == TensorProto.UINT8
    kind, width = (TensorProto.UINT8, 16) if packed else (U4, 32)
    weights = [
        integers("emb", kind, (9, width), 0, 256 if packed else 16),
        scales("s", 9, 2),
        integers("z", kind, (9, 1 if packed else 2), 0, 256 if packed else 16),
    ]
    attributes: dict[str, Any] = {"block_size": 16, "bits": 4, "quantize_axis": 1}
    node = helper.make_node("GatherBlockQuantized", ["emb", "i", "s", "z"], ["y"], domain=MICROSOFT, **attributes)
    path = saved(tmp_path / "x.onnx", [node], weights, [value("i", INT64, [9])], ["y"])
    (expected,) = run(path, ["y"], i=np.arange(9))
    assert np.array_equal(plain(path)["emb"], expected)


def test_parts_that_several_have_and_that_are_constants_of_the_graph(tmp_path: Path) -> None:
    """As tools make them that store what is equal once."""
    weights = [integers(name, 3, (4, 6), -9, 9) for name in ("a_quantized", "b", "c")]
    weights += [array("zero", 3, np.int8), integers("a", 6, (2,), 0, 9)]
    nodes = [
        helper.make_node("Constant", [], ["scale"], value=array("", 0.5, np.float32)),
        helper.make_node("DequantizeLinear", ["a_quantized", "scale", "zero"], ["y0"]),
        helper.make_node("DequantizeLinear", ["b", "scale", "zero"], ["y1"], axis=0),
        helper.make_node("DequantizeLinear", ["c", "scale"], ["y2"]),
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y3"]),
    ]
    path = saved(tmp_path / "x.onnx", nodes, weights, [value("x", FLOAT, [2])], ["y0", "y1", "y2", "y3"])
    expected = run(path, ["y0", "y1", "y2"], x=np.zeros(2, np.float32))
    done = ckptconv.convert(path, tmp_path / "x.pth", edits=DEQUANTIZE)
    assert "3 weights are dequantized (affine integers), computed in F32; left out: 2 tensors" in str(done.findings)
    made = plain(path)
    assert made.keys() == {"a", "a_quantized", "b", "c"}  # the name without the ending is another's
    for name, one in zip(("a_quantized", "b", "c"), expected, strict=True):
        assert np.array_equal(made[name], one)
    kept = plain(path, ckptconv.Edits())
    assert {"scale", "zero", "b"} <= set(kept)


def test_a_weight_in_a_branch_and_one_that_two_nodes_have_otherwise(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        nodes = [helper.make_node("DequantizeLinear", ["w", f"{name}_scale"], ["y"])]
        nodes += [helper.make_node("DequantizeLinear", ["inner", "inner_scale"], ["z"])]
        weights = [integers("inner", 3, (2,), -9, 9), scales("inner_scale")]
        outputs = [value("y", FLOAT, [3]), value("z", FLOAT, [2])]
        return helper.make_graph(nodes, name, [], outputs, weights)

    node = helper.make_node("If", ["c"], ["y", "z"], name="if", then_branch=branch("one"), else_branch=branch("two"))
    shared = [integers("w", 3, (3,), -9, 9), scales("one_scale"), scales("two_scale")]
    path = saved(tmp_path / "x.onnx", [node], shared, [value("c", TensorProto.BOOL, [])], ["y", "z"])
    for chosen, name in ((True, "if.then_branch.inner"), (False, "if.else_branch.inner")):
        (expected,) = run(path, ["z"], c=np.array(chosen))
        assert np.array_equal(plain(path)[name], expected)
    assert plain(path)["w"].dtype == np.int8


W = integers("w", 3, (3, 5), 0, 9)


@pytest.mark.parametrize(
    ("weights", "attributes", "words"),
    [
        (
            [integers("w", 3, (3, 5), 0, 9), scales("s", 4)],
            {"axis": 0},
            r"scale of shape \[4\] does not go with values",
        ),
        ([W, scales("s", 3)], {"axis": 7}, "axis 7 is none of 2 dimensions"),
        ([W, scales("s", 3), integers("z", 3, (2,), 0, 9)], {"axis": 0}, "zero_point has"),
        ([W, scales("s", 3), integers("z", I4, (4,), 0, 8)], {"axis": 0}, "zero_point has"),  # as many bytes
        ([W, scales("s", 3, 1)], {"axis": 1, "block_size": 4}, "in blocks of 4"),
        (
            [integers("w", 3, (4, 6, 8), 0, 9), scales("s", 2, 3, 8)],
            {"axis": 0, "block_size": 2},
            "along several dimensions",
        ),
        ([scales("w", 3), scales("s", 3)], {"axis": 0}, "values is F32, and not I8"),
    ],
)
def test_what_does_not_fit_is_refused(
    weights: list[onnx.TensorProto], attributes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    node = helper.make_node("DequantizeLinear", [one.name for one in weights], ["y"], **attributes)
    path = saved(tmp_path / "x.onnx", [node], weights, [], ["y"])
    ckptconv.inspect(path)
    with pytest.raises(EditError, match=words) as refused:
        plain(path)
    assert refused.value.hint


def test_inspect_says_what_they_are_and_a_part_alone_is_reported(tmp_path: Path) -> None:
    weights, attributes = LINEAR["odd rows of 4 bits"]
    node = helper.make_node("DequantizeLinear", [one.name for one in weights], ["y"], **attributes)
    path = saved(tmp_path / "x.onnx", [node], weights, [], ["y"])
    inspection = ckptconv.inspect(path)
    assert inspection.quantized == {"integers with scales": 1}
    assert inspection.plain == 15
    notes: Any = inspection.to_dict()["notes"]
    assert notes["quantized"] == [
        {"name": "w", "scheme": "affine", "parts": {"values": "w", "scale": "s", "zero_point": "z"}, "axis": 0}
    ]
    with pytest.raises(EditError, match="'w' is there, and 's' is not"):
        plain(path, ckptconv.Edits(select=["w"], dequantize=True))
    renamed = ckptconv.Edits(names=[ckptconv.NameRule("add-prefix", "m.")])
    ckptconv.convert(path, tmp_path / "y.safetensors", edits=renamed)
    with pytest.raises(EditError, match="finds no quantized weight"):  # the graph that said it stayed behind
        plain(tmp_path / "y.safetensors")


@pytest.mark.parametrize(
    ("op", "shape", "ours"),
    [
        ("ConvInteger", (1, 2, 1, 1), (2, 1, 1, 1)),
        ("ConvInteger", (2, 1, 1), (2, 1, 1, 1)),
        ("ConvInteger", (2,), None),
        ("MatMulInteger", (1, 1, 2), (1, 2)),
        ("MatMulInteger", (2, 1), None),
    ],
)
def test_a_scale_behind_it_is_for_the_channels_that_come_out(
    op: str, shape: tuple[int, ...], ours: tuple[int, ...] | None, tmp_path: Path
) -> None:
    """As many rows as columns: which of them it is for says the shape alone, as it is multiplied with the output."""
    sides = (2, 2, 1, 1) if op == "ConvInteger" else (2, 2)
    weights = [
        array("w", np.arange(1, 5).reshape(sides), np.uint8),
        array("s", np.array([10, 20]).reshape(shape), np.float32),
    ]
    nodes = [
        helper.make_node(op, ["x", "w"], ["c"]), helper.make_node("Cast", ["c"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]  # fmt: skip
    path = saved(tmp_path / "x.onnx", nodes, weights, [value("x", TensorProto.UINT8, sides)], ["y"])
    if ours is None:
        with pytest.raises(EditError, match="finds no quantized weight"):
            plain(path)
        return
    x = np.ones(sides, np.uint8)
    (theirs,) = run(path, ["y"], x=x)
    made = plain(path)["w"]
    assert np.array_equal(made, np.arange(1, 5).reshape(sides) * np.array([10.0, 20.0]).reshape(ours))
    summed = made.sum(axis=1).reshape(1, 2, 1, 1) if op == "ConvInteger" else x.astype(np.float32) @ made
    assert np.array_equal(theirs, np.broadcast_to(summed, theirs.shape))


def test_a_name_that_another_weight_has_is_not_taken(tmp_path: Path) -> None:
    weights = [array("w_quantized", [[1]], np.int8), array("s", 2, np.float32), array("w", [[1]], np.int8)]
    nodes = [helper.make_node("DequantizeLinear", [name, "s"], [f"{name}_y"]) for name in ("w_quantized", "w")]
    path = saved(tmp_path / "x.onnx", nodes, weights, [], ["w_y"])
    assert {name: made.tolist() for name, made in plain(path).items()} == {"w_quantized": [[2.0]], "w": [[2.0]]}
