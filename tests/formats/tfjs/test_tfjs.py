"""Models of TensorFlow.js': their weights are what it loads itself."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from struct import pack
from typing import Any, cast

import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.errors import CkptconvError, CorruptFileError, FileAccessError, LimitError, UnsupportedError

MODELS = Path(__file__).parents[3] / "fixtures" / "others" / "tfjs"
NUMPY = {"float32": "u4", "int32": "i4", "bool": "u1", "complex64": "u4"}


@pytest.mark.parametrize("name", ["layers", "types-weights_manifest"])
def test_every_weight_is_what_tensorflow_js_loads(name: str, tmp_path: Path) -> None:
    expected = json.loads((MODELS / f"{name}.values.json").read_bytes())
    texts = expected.pop("texts", None)
    with ckptconv.open(MODELS / f"{name}.json") as checkpoint:
        assert checkpoint.format == "tfjs"
        found = {**checkpoint, **checkpoint.extras}
        assert found.keys() == expected.keys()
        for key, one in expected.items():
            assert list(found[key].info.shape) == one["shape"], key
            image = bytes(found[key].read())
            assert image == np.array(one["values"], NUMPY[one["dtype"]]).T.tobytes(), key
            assert bytes(found[key].read(1, len(image))) == image[1:] if image else not found[key].info.numel
        if texts is not None:
            flat = [text for row in cast("Any", checkpoint.metadata["strings"])["texts"] for text in row]
            assert [text.decode("utf-8", "replace") for text in flat] == texts["values"][0]
    ckptconv.convert(MODELS / f"{name}.json", tmp_path / "x.pth")
    assert ckptconv.diff(MODELS / f"{name}.json", tmp_path / "x.pth").equal


def test_a_layers_model_computes_the_same_in_torch(tmp_path: Path) -> None:
    run = json.loads((MODELS / "layers.run.json").read_bytes())
    names = ckptconv.Edits(names=[ckptconv.NameRule("translate", "keras")])
    ckptconv.convert(MODELS / "layers.json", tmp_path / "x.pth", edits=names, bare=True)
    weights = torch.load(tmp_path / "x.pth")
    x = torch.tensor(run["x"]).reshape(2, 6, 6, 2).permute(0, 3, 1, 2)
    hidden = torch.relu(torch.nn.functional.conv2d(x, weights["conv.weight"], weights["conv.bias"]))
    mean, variance, gain, bias = (weights[f"norm.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    hidden = torch.nn.functional.batch_norm(hidden, mean, variance, gain, bias, eps=1e-3).permute(0, 2, 3, 1).flatten(1)
    y = torch.nn.functional.linear(hidden, weights["head.weight"], weights["head.bias"])
    torch.testing.assert_close(y, torch.tensor(run["y"]).reshape(2, 4))


def test_what_the_model_is_trained_with_is_an_extra_and_its_configuration_metadata() -> None:
    with ckptconv.open(MODELS / "layers.json") as checkpoint:
        assert list(checkpoint)[:2] == ["conv/kernel", "conv/bias"]
        assert "iter" in checkpoint.extras
        assert cast("Any", checkpoint.metadata["model_config"])["class_name"] == "Sequential"
        assert checkpoint.metadata["format"] == "layers-model"


def test_a_folder_is_the_model_in_it(tmp_path: Path) -> None:
    shutil.copy(MODELS / "layers.json", tmp_path / "model.json")
    shutil.copy(MODELS / "layers.weights.bin", tmp_path)
    assert ckptconv.diff(tmp_path, MODELS / "layers.json").equal
    (tmp_path / "layers.weights.bin").unlink()
    with pytest.raises(CorruptFileError, match=r"1 file of its weights missing: 'layers.weights.bin'"):
        ckptconv.open(tmp_path)


@pytest.mark.parametrize("inside", ["", "model"])
def test_an_archive_of_a_folder_is_the_model_in_it(inside: str, tmp_path: Path) -> None:
    """TorchScript of before 1.4 had a model.json as well."""
    folder = tmp_path / "packed" / inside
    folder.mkdir(parents=True)
    shutil.copy(MODELS / "layers.json", folder / "model.json")
    shutil.copy(MODELS / "layers.weights.bin", folder)
    path = shutil.make_archive(str(tmp_path / "x"), "zip", tmp_path / "packed")
    assert ckptconv.diff(path, MODELS / "layers.json", bare=True).equal


WEIGHT: dict[str, object] = {"name": "w", "shape": [2], "dtype": "float32"}


def written(folder: Path, *weights: object, paths: object = ("w.bin",), data: bytes = bytes(8), **said: object) -> Path:
    (folder / "w.bin").write_bytes(data)
    document = {"format": "graph-model", "weightsManifest": [{"paths": paths, "weights": weights}], **said}
    (folder / "model.json").write_text(json.dumps(document))
    return folder / "model.json"


def test_integers_that_are_stored_in_bytes_are_rounded_as_javascript_does(tmp_path: Path) -> None:
    quantization = {"dtype": "uint8", "scale": 0.5, "min": -1.5}
    weight = WEIGHT | {"shape": [4], "dtype": "int32", "quantization": quantization}
    with ckptconv.open(written(tmp_path, weight, data=bytes([0, 2, 3, 6]))) as checkpoint:
        assert checkpoint["w"].info.dtype is DType.I32
        assert checkpoint["w"].numpy().tolist() == [-1, 0, 0, 2]  # Math.round: halves upwards
        assert [one.message for one in checkpoint.findings] == [
            "1 weight stored as uint8: read as what TensorFlow.js makes of them"
        ]


def test_bytes_that_no_weight_has_are_reported(tmp_path: Path) -> None:
    nodes = {"node": [{"op": "Const"}, {"op": "Relu"}, 3]}
    with ckptconv.open(written(tmp_path, WEIGHT, data=bytes(9), modelTopology=nodes)) as checkpoint:
        assert [one.code for one in checkpoint.findings] == ["unused-bytes", "graph"]


@pytest.mark.parametrize("around", [{}, {"keras_version": "2.15.0"}])
def test_a_layer_that_is_python_is_reported(around: dict[str, str], tmp_path: Path) -> None:
    """tensorflowjs' own converter hands the configuration to tf_keras, which runs it."""
    topology = {
        "class_name": "Sequential",
        "config": {"layers": [{"class_name": "Lambda", "config": {"function": ["4wE="]}}]},
    }
    topology = {"model_config": topology, **around} if around else topology
    path = written(tmp_path, WEIGHT, modelTopology=topology, format="layers-model")
    assert ckptconv.inspect(path).verdict == "would run code"
    assert ckptconv.inspect(tmp_path).verdict == "would run code"
    (tmp_path / "model.safetensors").write_bytes(pack("<Q", 2) + b"{}")
    assert ckptconv.inspect(tmp_path).verdict == "would run code"


EIGHT: dict[str, object] = {"dtype": "uint8", "scale": 1, "min": 0}
BAD: dict[str, tuple[dict[str, object], type[CkptconvError]]] = {
    "elsewhere": ({"paths": ["../w.bin"]}, CorruptFileError),
    "no file": ({"paths": [""]}, CorruptFileError),
    "paths": ({"paths": 3}, CorruptFileError),
    "path": ({"paths": [3]}, CorruptFileError),
    "short": ({"data": bytes(7)}, CorruptFileError),
    "type": (WEIGHT | {"dtype": "float8"}, UnsupportedError),
    "no type": (WEIGHT | {"dtype": None}, CorruptFileError),
    "shape": (WEIGHT | {"shape": [-1]}, CorruptFileError),
    "truth": (WEIGHT | {"shape": [True]}, CorruptFileError),
    "huge": (WEIGHT | {"shape": [1 << 62, 1 << 62]}, CorruptFileError),
    "rank": (WEIGHT | {"shape": [1] * 65}, CorruptFileError),
    "name": (WEIGHT | {"name": 3}, CorruptFileError),
    "no scale": (WEIGHT | {"quantization": {"dtype": "uint8", "min": 0}}, CorruptFileError),
    "a text": (WEIGHT | {"quantization": EIGHT | {"scale": "1"}}, CorruptFileError),
    "truth as scale": (WEIGHT | {"quantization": EIGHT | {"scale": True}}, CorruptFileError),
    "huge scale": (WEIGHT | {"quantization": EIGHT | {"scale": 10**400}}, CorruptFileError),
    "no quantization": (WEIGHT | {"quantization": None}, CorruptFileError),
    "another": (WEIGHT | {"quantization": EIGHT | {"dtype": "int4"}}, UnsupportedError),
    "half of ints": (WEIGHT | {"dtype": "int32", "quantization": {"dtype": "float16"}}, UnsupportedError),
    "texts": (WEIGHT | {"dtype": "string", "shape": [1 << 40]}, CorruptFileError),
    "a text past the end": (WEIGHT | {"dtype": "string", "shape": [1], "data": b"\xff\0\0\0"}, CorruptFileError),
    "deep": ({"modelTopology": json.loads("[" * 100 + "]" * 100)}, LimitError),
}  # fmt: skip


@pytest.mark.parametrize(("said", "error"), BAD.values(), ids=BAD)
def test_what_contradicts_itself_is_refused(
    said: dict[str, object], error: type[CkptconvError], tmp_path: Path
) -> None:
    beside = {key: said[key] for key in ("paths", "data", "modelTopology") if key in said}
    weight = {key: value for key, value in said.items() if key not in beside} or WEIGHT
    with pytest.raises(error) as refused:
        ckptconv.open(written(tmp_path, weight, **beside))  # type: ignore[arg-type]
    assert refused.value.hint


def test_names_that_come_twice_and_documents_without_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match="comes twice"):
        ckptconv.open(written(tmp_path, WEIGHT, WEIGHT, data=bytes(16)))
    for text in ("{}", '{"weightsManifest": []}', "[]", '[{"paths": []}]', '[{"paths": [], "weights": [3]}]', '{"a"'):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(CorruptFileError):
            ckptconv.open(tmp_path / "x.json", format="tfjs")


def test_a_file_of_the_weights_names_the_model_beside_it(tmp_path: Path) -> None:
    for file in ("group1-shard1of2.bin", "group1-shard2of2", "face-shard1"):
        (tmp_path / file).write_bytes(b"\1\2\3\4" * 20)
    for document in ("model.json", "face-weights_manifest.json"):
        (tmp_path / document).write_text("{}")
    for file, document in (("group1-shard1of2.bin", "model.json"), ("group1-shard2of2", "model.json"),
                           ("face-shard1", "face-weights_manifest.json")):  # fmt: skip
        with pytest.raises(CkptconvError, match=r"weight files of a TensorFlow.js model") as refused:
            ckptconv.open(tmp_path / file)
        assert str(refused.value.hint).endswith(document)


def test_a_file_that_leads_elsewhere_by_a_link_is_followed_only_as_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, WEIGHT)
    (tmp_path / "w.bin").unlink()
    (tmp_path / "w.bin").symlink_to("/dev/zero")
    with pytest.raises(FileAccessError):
        ckptconv.open(path)
