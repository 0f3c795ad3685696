"""Weights that Keras quantized become those that it computes with: the rows of a unit matrix, through each layer."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.core.notes import UNREAD
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import EditError, UnsupportedError

QUANTIZED = Path(__file__).parents[3] / "fixtures" / "others" / "keras-quantized"
PLAIN = ckptconv.Edits(dequantize=True)
TORCHS = ckptconv.Edits(dequantize=True, names=[NameRule("translate", "keras")])
FILES = {
    "int8": "",
    "int4": "",
    "int4-groups": "",
    "float8": "",
    "gptq-4": "-old",
    "gptq-8": "-old",
    "old-int4": "-old",
}


def expected(name: str) -> dict[str, np.ndarray]:
    with np.load(QUANTIZED / f"weights{FILES[name]}.npz") as arrays:
        return {key.removeprefix(f"{name}/"): arrays[key] for key in arrays if key.startswith(f"{name}/")}


def weights_alone(name: str, tmp_path: Path) -> Path:
    """What `save_weights` writes lies in the archive as it is."""
    with zipfile.ZipFile(QUANTIZED / f"{name}.keras") as archive:
        (tmp_path / "model.weights.h5").write_bytes(archive.read("model.weights.h5"))
    return tmp_path / "model.weights.h5"


def by_layer(path: Path) -> dict[str, np.ndarray]:
    """The layers' first variables in an HDF5 file, and a second embedding, by the layers' own names in Keras."""
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        for layer in file["layers"].values():
            for part in [layer, *(child for key, child in layer.items() if key != "vars")]:
                variables = part["vars"]
                if not len(variables):
                    continue
                around = "attention/" if part is not layer else ""
                own = f"{around}{variables.attrs['name']}"
                found[own] = variables["0"][:]
                if own == "tokens" and "1" in variables:
                    found[f"{own}/reverse"] = variables["1"][:]
                elif own != "tokens":
                    assert len(variables) < 3, own
    return found


@pytest.mark.parametrize("name", FILES)
def test_they_become_what_keras_computes_with_under_the_names_of_plain_layers(name: str, tmp_path: Path) -> None:
    ckptconv.convert(QUANTIZED / f"{name}.keras", tmp_path / "plain.keras", edits=PLAIN)
    with zipfile.ZipFile(tmp_path / "plain.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
        configuration = archive.read("config.json").decode()
    found, wanted = by_layer(tmp_path / "model.weights.h5"), expected(name)
    assert found.keys() == wanted.keys()
    for layer, weight in wanted.items():
        assert found[layer].shape == weight.shape
        assert np.array_equal(found[layer], weight), layer
    assert "source_name" not in configuration and "quantization_config" not in configuration
    assert '"class_name": "DTypePolicy"' in configuration or '"class_name":"DTypePolicy"' in configuration


@pytest.mark.parametrize("name", ["int8", "float8"])
def test_a_file_of_weights_alone_becomes_the_same(name: str, tmp_path: Path) -> None:
    done = ckptconv.convert(weights_alone(name, tmp_path), tmp_path / "plain.weights.h5", edits=PLAIN)
    found, wanted = by_layer(tmp_path / "plain.weights.h5"), expected(name)
    assert all(np.array_equal(found[layer], weight) for layer, weight in wanted.items())
    assumed = [finding.where for finding in done.findings if finding.code == "quantized-how"]
    assert assumed == (["layers/dense/vars/0"] if name == "int8" else [])


def test_they_get_torchs_names_and_layouts(tmp_path: Path) -> None:
    ckptconv.convert(QUANTIZED / "int4-groups.keras", tmp_path / "a.pth", edits=TORCHS, bare=True)
    found, wanted = torch.load(tmp_path / "a.pth", weights_only=True), expected("int4-groups")
    assert np.array_equal(found["hidden.weight"].numpy(), wanted["hidden"].T)
    assert np.array_equal(found["tokens.weight"].numpy(), wanted["tokens"])
    query = wanted["attention/query"]
    assert np.array_equal(found["attention.query.weight"].numpy(), query.reshape(len(query), -1).T)
    output = wanted["attention/attention_output"]
    assert np.array_equal(found["attention.attention_output.weight"].numpy(), output.reshape(-1, output.shape[-1]).T)


def test_translating_alone_is_refused_since_a_scale_would_pass_for_a_bias(tmp_path: Path) -> None:
    edits = ckptconv.Edits(names=[NameRule("translate", "keras")])
    with pytest.raises(EditError, match="'layers/dense/vars/0' is quantized") as caught:
        ckptconv.convert(QUANTIZED / "int8.keras", tmp_path / "a.pth", edits=edits, bare=True)
    assert "--dequantize" in str(caught.value.hint)


def test_a_shape_that_only_the_configuration_says_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="nothing in the file says the shape"):
        ckptconv.convert(weights_alone("int4", tmp_path), tmp_path / "a.weights.h5", edits=PLAIN)


def test_zero_points_that_keras_did_not_save_are_named(tmp_path: Path) -> None:
    path = weights_alone("gptq-4", tmp_path)
    with h5py.File(path, "r+") as file:
        variables = file["layers/dense/vars"]
        del variables["3"]
        variables.move("4", "3")
    with pytest.raises(UnsupportedError, match=r"'layers/dense/vars/1' is Keras' gptq, whose zero points are not"):
        ckptconv.convert(path, tmp_path / "a.weights.h5", edits=PLAIN)


def test_awqs_factors_divide_the_weight(tmp_path: Path) -> None:
    """Keras 3.15 saves AWQ without zero points; the layout with them is GPTQ's, with factors before the order."""
    path = weights_alone("gptq-4", tmp_path)
    factors = np.linspace(0.5, 2, 6, dtype=np.float32)
    with h5py.File(path, "r+") as file:
        variables = file["layers/dense/vars"]
        variables.move("4", "5")
        variables["4"] = factors
        for name in set(file["layers"]) - {"dense"}:
            del file["layers"][name]
    ckptconv.convert(path, tmp_path / "a.weights.h5", edits=PLAIN)
    wanted = expected("gptq-4")["hidden"] / factors[:, None]
    assert np.array_equal(by_layer(tmp_path / "a.weights.h5")["hidden"], wanted)


def test_a_layer_that_can_be_read_in_several_ways_is_not_guessed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.weights.h5", "w") as file:
        variables = file.create_group("layers/custom/vars")  # a Dense without a bias, or an Embedding
        variables["0"], variables["1"] = np.ones((4, 4), np.int8), np.ones(4, np.float32)
    with ckptconv.open(tmp_path / "a.weights.h5") as checkpoint:
        assert [weight.scheme for weight in checkpoint.notes.quantized] == [UNREAD]
    with pytest.raises(UnsupportedError, match="can be read in several ways"):
        ckptconv.convert(tmp_path / "a.weights.h5", tmp_path / "b.weights.h5", edits=PLAIN)


def test_a_group_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = weights_alone("int4-groups", tmp_path)
    with h5py.File(path, "r+") as file:
        file["layers/dense/vars/4"][0] = 1e9
        for name in set(file["layers"]) - {"dense"}:
            del file["layers"][name]
    with pytest.raises(EditError, match="g_idx names other groups"):
        ckptconv.convert(path, tmp_path / "a.weights.h5", edits=PLAIN)


def test_inspect_says_how_they_are_quantized_also_after_a_round_trip(tmp_path: Path) -> None:
    shutil.copy(QUANTIZED / "int8.keras", tmp_path / "a.keras")
    ckptconv.convert(tmp_path / "a.keras", tmp_path / "a.safetensors")
    kinds = [weight["called"] for weight in json.loads(json.dumps(_notes(tmp_path / "a.safetensors")))]
    assert kinds == 10 * ["Keras' int8"]
    ckptconv.convert(tmp_path / "a.safetensors", tmp_path / "b.keras", edits=PLAIN)


@pytest.mark.parametrize("name", ["int8", "int4-groups", "gptq-4", "float8"])
def test_a_copy_is_a_file_of_keras_without_a_record(name: str, tmp_path: Path) -> None:
    ckptconv.convert(QUANTIZED / f"{name}.keras", tmp_path / "copy.keras")
    with zipfile.ZipFile(tmp_path / "copy.keras") as archive:
        archive.extract("model.weights.h5", tmp_path)
    with h5py.File(tmp_path / "model.weights.h5") as file:
        assert "ckptconv" not in file.attrs
    assert _notes(tmp_path / "copy.keras") == _notes(QUANTIZED / f"{name}.keras")


def _notes(path: Path) -> list[dict[str, object]]:
    with ckptconv.open(path) as checkpoint:
        return [dict(weight.recorded()) for weight in checkpoint.notes.quantized]


def test_an_older_file_lists_plain_variables_in_the_order_in_which_keras_reads_them(tmp_path: Path) -> None:
    """Keras lists what is not trained, as quantized kernels are, after all biases, and reads by place."""
    integers, scale = np.arange(-6, 6, dtype=np.int8).reshape(3, 4), np.array([1, 2, 4, 8], np.float32)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = ["d"]
        layer = weights.create_group("d")
        layer.attrs["weight_names"] = ["d/bias", "d/kernel", "d/kernel_scale"]
        for name, value in (("bias", scale), ("kernel", integers), ("kernel_scale", scale)):
            layer[f"d/{name}"] = value
    ckptconv.convert(tmp_path / "a.h5", tmp_path / "b.h5", edits=PLAIN)
    with h5py.File(tmp_path / "b.h5") as file:
        layer = file["model_weights/d"]
        assert list(layer.attrs["weight_names"]) == ["d/kernel", "d/bias"]
        assert set(layer["d"]) == {"kernel", "bias"}
        assert np.array_equal(layer["d/kernel"][:], integers / scale)
