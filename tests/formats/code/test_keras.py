"""What Keras would run of a configuration: the layers that Keras 2 and 3 wrote, and those that somebody might."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

import ckptconv

if TYPE_CHECKING:
    from pathlib import Path

CODE = "4wEAAAAAAAAAAAAAAAIAAAADAAAA8wwAAACXAHwAZAF6BQAAUwApAk7pAgAAAKkAKQHaAXhzAQAA\n"
KERAS_2 = {
    "class_name": "Lambda",
    "config": {"name": "lambda", "function": [CODE, None, None], "function_type": "lambda", "module": "__main__"},
}
KERAS_3 = {
    "module": "keras.layers", "class_name": "Lambda", "registered_name": None,
    "config": {
        "name": "lambda",
        "function": {"class_name": "__lambda__", "config": {"code": CODE, "defaults": None, "closure": None}},
    },
}  # fmt: skip
NAMED = {"class_name": "Lambda", "config": {"function": "system", "function_type": "function", "module": "os"}}
FUNCTION = {
    "module": "keras.layers", "class_name": "Dense",
    "config": {"activation": {"module": "os", "class_name": "function", "config": "system", "registered_name": "x"}},
}  # fmt: skip
IMPORTED = {"module": "mine.layers", "class_name": "Attention", "config": {"units": 3}, "registered_name": "Attention"}
PLAIN = {
    "module": "keras.layers", "class_name": "Dense",
    "config": {"name": "Lambda", "activation": {"module": "builtins", "class_name": "function", "config": "relu"}},
}  # fmt: skip


def function(module: str, name: str) -> dict[str, object]:
    """A function in a layer's place, called with what its node says."""
    return {
        "module": module, "class_name": "function", "config": name, "registered_name": name,
        "inbound_nodes": [{"args": ["touch pwned"], "kwargs": {}}],
    }  # fmt: skip


FUNC_LOAD = "keras.src.utils.python_utils.func_load"
CASES = {
    "Keras 2": (KERAS_2, "would run code", FUNC_LOAD),
    "Keras 3": (KERAS_3, "would run code", FUNC_LOAD),
    "named": (NAMED, "would run code", "os.system"),
    "function": (FUNCTION, "would run code", "os.system"),
    "Python's": (function("builtins", "exec"), "would run code", "builtins.exec"),
    "Keras' of files": (function("keras.utils", "get_file"), "would run code", "keras.utils.get_file"),
    "a function as a class": (
        {**function("keras.utils", "get_file"), "class_name": "get_file", "config": {}}, "would run code",
        "keras.utils.get_file",
    ),
    "a module's function as a class": (
        {"module": "keras.src.saving.saving_lib", "class_name": "load_model", "config": {}}, "would run code",
        "keras.src.saving.saving_lib.load_model",
    ),
    "Python's function as a class": (
        {"module": "subprocess", "class_name": "getoutput", "config": {}}, "would run code", "subprocess.getoutput",
    ),
    "Python's class": (
        {"module": "subprocess", "class_name": "Popen", "config": {}}, "would run code", "subprocess.Popen",
    ),
    "Keras' switch": (
        function("keras.config", "enable_unsafe_deserialization"), "would run code",
        "keras.config.enable_unsafe_deserialization",
    ),
    "Keras' of models": (function("keras.src.ops.nn", "relu"), "plain", None),
    "a type": (
        {"class_name": "__typespec__", "module": "os", "spec_name": "system", "config": ["id"]},
        "would run code", "os.system",
    ),
    "a pickle of torch's": (
        {"module": "keras.layers", "class_name": "TorchModuleWrapper", "config": {"module": "gAI="}}, "would run code",
        "torch.load",
    ),
    "TensorFlow's of files": (
        {"class_name": "TFOpLambda", "config": {"function": "io.write_file"}}, "would run code",
        "tensorflow.io.write_file",
    ),
    "TensorFlow's that prints": (
        {"class_name": "TFOpLambda", "config": {"function": "print"}}, "would run code", "tensorflow.print",
    ),
    "TensorFlow's of old": (
        {"class_name": "TFOpLambda", "config": {"function": "compat.v1.gfile.MkDir"}}, "would run code",
        "tensorflow.compat.v1.gfile.MkDir",
    ),
    "an operator": ({"class_name": "TFOpLambda", "config": {"function": "__operators__.add"}}, "plain", None),
    "TensorFlow's of no module": ({"class_name": "TFOpLambda", "config": {"function": "expand_dims"}}, "plain", None),
    "TensorFlow's of models": ({"class_name": "TFOpLambda", "config": {"function": "math.add"}}, "plain", None),
    "imported": (IMPORTED, "opaque", "mine.layers.Attention"),
    "plain": (PLAIN, "plain", None),
}  # fmt: skip


def weights(path: Path, config: object = None) -> Path:
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = np.zeros((2, 3), "f4")
        if config is not None:
            file.attrs["model_config"] = config
    return path


def archive(path: Path, config: object) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        file.writestr("config.json", json.dumps(config))
        file.write(weights(path.with_suffix(".h5")), "model.weights.h5")
    return path


def model(layer: Any) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": {"layers": [{"class_name": "TimeDistributed", "config": layer}]}}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["archive", "text", "bytes"])
def test_code_in_a_configuration_is_shown_and_never_run(case: str, form: str, tmp_path: Path) -> None:
    layer, verdict, name = CASES[case]
    config = model(layer)
    if form == "archive":
        path = archive(tmp_path / "a.keras", config)
    else:
        text = json.dumps(config)
        path = weights(tmp_path / "a.h5", text if form == "text" else np.bytes_(text.encode()))
    found = ckptconv.inspect(path)
    assert found.verdict == verdict
    assert [use.node.name for use in found.opaque] == ([] if name is None else [name])
    assert all(use.where.startswith(("config.json", "model_config")) for use in found.opaque)


def test_the_code_is_among_what_is_shown(tmp_path: Path) -> None:
    (use,) = ckptconv.inspect(archive(tmp_path / "a.keras", model(KERAS_3))).opaque
    assert use.to_dict()["args"] == [CODE]


def test_converting_it_carries_the_text_and_needs_no_consent(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.keras", model(KERAS_3))
    ckptconv.convert(path, tmp_path / "b.safetensors")
    with ckptconv.open(tmp_path / "b.safetensors") as checkpoint:
        assert checkpoint.metadata["config.json"] == model(KERAS_3)
    assert ckptconv.inspect(tmp_path / "b.safetensors").verdict == "plain"


def test_a_configuration_that_is_no_json_says_nothing(tmp_path: Path) -> None:
    assert ckptconv.inspect(weights(tmp_path / "a.h5", "{" * 5000)).verdict == "plain"


@pytest.mark.parametrize("name", ["StringLookup", "IntegerLookup", "TextVectorization"])
def test_a_vocabulary_that_is_a_file_is_reported(name: str, tmp_path: Path) -> None:
    layer = {"module": "keras.layers", "class_name": name, "config": {"vocabulary": "/etc/passwd"}}
    found = ckptconv.inspect(archive(tmp_path / "a.keras", model(layer)))
    assert found.verdict == "plain"
    (finding,) = found.findings
    assert (finding.code, finding.severity, finding.found) == ("reads-file", "warning", "/etc/passwd")
    layer["config"] = {"vocabulary": ["a", "b"]}
    assert ckptconv.inspect(archive(tmp_path / "a.keras", model(layer))).findings == []
