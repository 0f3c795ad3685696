"""What else is in a model: its graph as facts, its strings as metadata, and our record among them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors import safe_open

import ckptconv
from ckptconv.errors import UnsupportedError
from tests.support.craft import saved
from tests.support.nodes import load, same_object

from .models import model, reference, seen, tensor, write

if TYPE_CHECKING:
    from pathlib import Path


def test_inspect_says_who_made_the_graph_and_what_goes_in_and_out(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Relu", ["r"], ["y"]),
        helper.make_node("Gelu", ["y"], ["z"], domain="com.microsoft"),
    ]
    made = model(
        nodes, [tensor("w", 1, (2, 3))], producer_name="me", producer_version="1.2",
        opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)], ir_version=9,
    )  # fmt: skip
    sequence = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [1]))
    made.graph.input.extend(
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, None]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3]),
            helper.make_tensor_value_info("text", TensorProto.STRING, None),
        ]
    )
    made.graph.output.extend(
        [
            helper.make_tensor_value_info("z", TensorProto.BFLOAT16, []),
            helper.make_value_info("list", sequence),
        ]
    )
    found = ckptconv.inspect(write(tmp_path / "m.onnx", made)).to_dict()
    assert found["notes"]["graph"] == {
        "name": "g",
        "ir_version": 9,
        "producer": "me 1.2",
        "opset": {"ai.onnx": 18, "com.microsoft": 1},
        "inputs": [
            {"name": "x", "dtype": "F32", "shape": ["batch", 3, None]},
            {"name": "text", "dtype": "STRING", "shape": None},
        ],
        "outputs": [
            {"name": "z", "dtype": "BF16", "shape": []},
            {"name": "list", "dtype": "sequence of F32", "shape": None},
        ],
        "nodes": 4,
        "operators": {"Relu": 2, "Gemm": 1, "com.microsoft::Gelu": 1},
    }
    assert found["metadata"] == {}
    assert found["verdict"] == "plain"


def test_leaving_the_graph_behind_is_reported(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", model([helper.make_node("Relu", ["x"], ["y"])], [tensor("w", 1, (2,))]))
    done = ckptconv.convert(path, tmp_path / "m.safetensors")
    assert [(one.code, one.severity) for one in done.findings] == [("graph", "info")]
    assert not done.losses


def test_a_model_of_every_type_goes_to_safetensors_and_to_pth(tmp_path: Path) -> None:
    weights = [
        tensor(f"t{code}", code, (4, 6)) for code in (1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 23)
    ]
    made = model(initializers=weights)
    made.metadata_props.add(key="author", value="ü")
    path = write(tmp_path / "m.onnx", made)
    ckptconv.convert(path, tmp_path / "m.safetensors")
    ckptconv.convert(tmp_path / "m.safetensors", tmp_path / "m.pth")
    ckptconv.convert(path, tmp_path / "direct.pth")
    loaded = load(tmp_path / "m.pth")
    assert loaded["author"] == "ü"
    assert same_object(loaded, load(tmp_path / "direct.pth"))
    assert torch.equal(loaded["state_dict"]["t7"], torch.from_numpy(onnx.numpy_helper.to_array(weights[6]).copy()))
    for name in ("m.safetensors", "m.pth", "direct.pth"):
        with ckptconv.open(tmp_path / name) as found:
            for proto in weights:
                lazy = found[proto.name]
                assert (lazy.info.dtype.name, lazy.info.shape, bytes(lazy.read())) == seen(proto)


def test_strings_of_others_are_metadata(tmp_path: Path) -> None:
    made = model(initializers=[tensor("w", 1, (2,))])
    for key, value in {"author": "me", "classes": "[1, 2]", "ckptconv": "not ours", "": ""}.items():
        made.metadata_props.add(key=key, value=value)
    path = write(tmp_path / "m.onnx", made)
    with ckptconv.open(path) as found:
        assert found.metadata == {"author": "me", "classes": "[1, 2]", "ckptconv": "not ours", "": ""}
        assert found.metadata == reference(path).metadata


def beside(path: Path) -> Path:
    """An ONNX file with the tensors and the strings of a safetensors file, as the two packages read and write them."""
    with safe_open(path, framework="np") as file:
        strings = file.metadata()
        protos = [onnx.numpy_helper.from_array(file.get_tensor(name), name) for name in file.keys()]  # noqa: SIM118
    made = model(initializers=protos)
    helper.set_model_props(made, strings)
    return write(path.with_suffix(".onnx"), made)


def test_our_record_gives_back_types_names_and_ties(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    value: dict[str, Any] = {
        "hidden": (512, 256), "rate": 0.5, "size": torch.Size([1, 2]),
        "state_dict": {"a.weight": weight, "b.weight": weight, "odd\ud800": torch.ones(2)},
    }  # fmt: skip
    ckptconv.convert(saved(tmp_path / "v.pth", value), tmp_path / "v.safetensors")
    ckptconv.convert(beside(tmp_path / "v.safetensors"), tmp_path / "back.pth")
    back, expected = load(tmp_path / "back.pth"), load(tmp_path / "v.pth")
    assert {key: back[key] for key in value if key != "state_dict"} == {
        key: item for key, item in value.items() if key != "state_dict"
    }
    assert type(back["hidden"]) is tuple
    assert type(back["size"]) is torch.Size
    assert set(back["state_dict"]) == set(expected["state_dict"])
    assert back["state_dict"]["a.weight"].data_ptr() == back["state_dict"]["b.weight"].data_ptr()
    with ckptconv.open(tmp_path / "v.onnx") as found:
        assert found.ties == [["a.weight", "b.weight"]]
        assert found.notes.graph
        assert found.notes.source == "torch"


def test_tensors_stored_as_another_type_and_bytes_kept_apart_come_back(tmp_path: Path) -> None:
    value: dict[str, Any] = {
        "vocabulary": bytes(range(256)) * 300,
        "scales": np.arange(20_000.0),
        "state_dict": {
            "spectrum": torch.complex(torch.rand(2, 3, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64)),
            "half": torch.rand(3, 2).half().to(torch.complex32),
            "plain": torch.rand(2),
        },
    }
    path = saved(tmp_path / "v.pth", value)
    ckptconv.convert(path, tmp_path / "v.safetensors")
    made = beside(tmp_path / "v.safetensors")
    stored = {one.name: list(one.dims) for one in onnx.load(made).graph.initializer}
    assert stored["half"] == [3, 2, 2]
    assert stored["ckptconv.bytes.0"] == [76_800]
    with ckptconv.open(made) as found:
        assert {name: (one.info.dtype.name, one.info.shape) for name, one in found.items()} == {
            "spectrum": ("C128", (2, 3)), "half": ("C32", (3, 2)), "plain": ("F32", (2,)),
        }  # fmt: skip
        assert bytes(found["half"].read(4, 10)) == bytes(found["half"].read())[4:10]
        assert found.metadata["vocabulary"] == value["vocabulary"]
    ckptconv.convert(made, tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=False)  # ours; numpy's arrays ask for it
    back["state_dict"] = dict(sorted(back["state_dict"].items()))  # safe_open has an order of its own
    value["state_dict"] = dict(sorted(value["state_dict"].items()))
    assert same_object(back, value)
    less = onnx.load(made)
    (blob,) = [one for one in less.graph.initializer if one.name == "ckptconv.bytes.0"]
    less.graph.initializer.remove(blob)
    with ckptconv.open(write(tmp_path / "less.onnx", less)) as found:
        assert found.metadata["vocabulary"] is None
        assert "lost-tensor" in {one.code for one in found.findings}


def test_a_record_that_the_tensors_contradict_is_reported_and_the_tensors_are_read_as_they_lie(tmp_path: Path) -> None:
    made = model(initializers=[tensor("w", 1, (2, 2))])
    for claim in ("C32", "nonsense"):
        del made.metadata_props[:]
        record = {"version": 1, "encodings": {"w": {"dtype": claim, "shape": [2]}}}
        made.metadata_props.add(key="ckptconv", value=json.dumps(record))
        with ckptconv.open(write(tmp_path / "m.onnx", made)) as found:
            assert found["w"].info.shape == (2, 2)
            (finding,) = [one for one in found.findings if one.code == "encoding"]
            assert f"'w' is {claim}, which its header contradicts" in finding.message


def test_a_record_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    made = model(initializers=[tensor("w", 1, (2,))])
    made.metadata_props.add(key="ckptconv", value='{"version": 99}')
    with pytest.raises(UnsupportedError, match="version 99"):
        ckptconv.open(write(tmp_path / "m.onnx", made))
