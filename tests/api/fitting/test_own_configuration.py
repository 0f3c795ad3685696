"""A .keras is checked against the layers in its own configuration, with the verdicts of Keras 3.15's load_model."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

import ckptconv

if TYPE_CHECKING:
    from collections.abc import Callable

OTHERS = Path(__file__).parents[3] / "fixtures" / "others"
QUERY = "layers/multi_head_attention/query_dense/vars/0"


def changed(
    name: str, target: Path, weights: Callable[[Any], None], config: Callable[[Any], None] = lambda document: None
) -> Path:
    """A fixture with other weights, or another configuration."""
    with zipfile.ZipFile(OTHERS / f"{name}.keras") as archive, zipfile.ZipFile(target, "w") as made:
        for entry in archive.namelist():
            data = archive.read(entry)
            if entry == "model.weights.h5":
                image = io.BytesIO(data)
                with h5py.File(image, "r+") as file:
                    weights(file)
                data = image.getvalue()
            elif entry == "config.json":
                document = json.loads(data)
                config(document)
                data = json.dumps(document).encode()
            made.writestr(entry, data)
    return target


def reshaped(name: str, *shape: int) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        if name in file:
            del file[name]
        file[name] = np.zeros(shape, np.float32)

    return change


def deleted(name: str) -> Callable[[Any], None]:
    return lambda file: file.__delitem__(name)


@pytest.mark.parametrize(
    "name", ["keras-3", "keras-recurrent", *(f"keras-quantized/{one}" for one in ("int8", "int4-groups", "float8"))]
)
def test_what_keras_wrote_fits_and_nothing_is_left_out(name: str) -> None:
    result = ckptconv.validate(OTHERS / f"{name}.keras")
    assert result.valid
    assert [finding for finding in result.findings if finding.code == "unchecked"] == []


@pytest.mark.parametrize(
    ("name", "where", "shape", "said"),
    [
        ("keras-3", "layers/conv2d/vars/0", (3, 3, 4, 3), "the kernel of 'stem', has the shape [3, 3, 4, 3]"),
        ("keras-3", "layers/conv2d_transpose/vars/0", (2, 2, 6, 3), "the kernel of 'up'"),
        ("keras-3", "layers/depthwise_conv2d/vars/1", (4,), "the bias of 'depthwise_conv2d'"),
        ("keras-3", "layers/separable_conv2d/vars/1", (1, 1, 6, 8), "the pointwise_kernel of 'separable_conv2d'"),
        ("keras-3", "layers/embedding/vars/0", (21, 4), "the configuration says [20, 4]"),
        ("keras-3", "layers/batch_normalization/vars/3", (5,), "the moving_variance of"),
        ("keras-3", "layers/layer_normalization/vars/1", (1, 4), "the beta of"),
        ("keras-3", QUERY, (4, 3, 2), "the query_dense.kernel of 'attention'"),
        ("keras-3", "layers/sequential/layers/dense_1/vars/0", (6, 5), "the kernel of 'dense'"),
        ("keras-recurrent", "layers/lstm/cell/vars/1", (3, 11), "the cell.recurrent_kernel of 'encoder'"),
        ("keras-recurrent", "layers/gru_1/cell/vars/2", (6,), "the configuration says [2, 6]"),
        ("keras-recurrent", "layers/rnn_1/cell/cells/gru_cell/vars/0", (4, 6), "the configuration says [3, 6]"),
        ("keras-recurrent", "layers/bidirectional/backward_layer/cell/vars/2", (2, 12), "of 'bidirectional'"),
    ],
)
def test_another_shape_is_named_with_its_layer(
    name: str, where: str, shape: tuple[int, ...], said: str, tmp_path: Path
) -> None:
    result = ckptconv.validate(changed(name, tmp_path / "a.keras", reshaped(where, *shape)))
    (error,) = [finding for finding in result.findings if finding.severity == "error"]
    assert (error.code, error.where) == ("shape-mismatch", where)
    assert said in error.message


@pytest.mark.parametrize(
    ("change", "code", "where"),
    [
        (deleted("layers/dense/vars/1"), "missing-tensor", ["layers/dense/vars/1"]),
        (deleted("layers/embedding"), "missing-tensor", ["layers/embedding/vars/0"]),
        (deleted("layers/sequential"), "missing-tensor", [f"layers/sequential/layers/dense{end}" for end in
                                                          ("/vars/0", "/vars/1", "_1/vars/0")]),
        (reshaped("layers/sequential/layers/dense_1/vars/1", 4), "unexpected-tensor",
         ["layers/sequential/layers/dense_1/vars/1"]),
    ],
    ids=["a bias", "a layer", "a model in the model", "one too many"],
)  # fmt: skip
def test_what_is_missing_or_too_much_is_named(
    change: Callable[[Any], None], code: str, where: list[str], tmp_path: Path
) -> None:
    result = ckptconv.validate(changed("keras-3", tmp_path / "a.keras", change))
    errors = [finding for finding in result.findings if finding.severity == "error"]
    assert {finding.code for finding in errors} == {code}
    assert [finding.where for finding in errors] == where


def test_a_layer_that_the_configuration_lacks_is_a_warning_since_keras_does_not_look_at_it(tmp_path: Path) -> None:
    result = ckptconv.validate(changed("keras-3", tmp_path / "a.keras", reshaped("layers/foo/vars/0", 2)))
    assert result.valid
    assert [(one.code, one.where) for one in result.findings] == [("stray-tensor", "layers/foo/vars/0")]


def test_a_layer_of_somebody_elses_is_said_to_be_unchecked(tmp_path: Path) -> None:
    def customize(document: Any) -> None:
        head = document["config"]["layers"][-1]
        head |= {"module": "my.layers", "class_name": "Dense", "registered_name": "my>Dense"}

    result = ckptconv.validate(
        changed("keras-3", tmp_path / "a.keras", reshaped("layers/dense/vars/0", 9), customize)
    )  # fmt: skip
    assert result.valid
    (finding,) = result.findings
    assert (finding.code, finding.severity) == ("unchecked", "info")
    assert finding.message == "'head' is not checked: it is not known here what variables Dense has"


def test_sizes_that_are_none_make_a_layer_unchecked(tmp_path: Path) -> None:
    def damage(document: Any) -> None:
        document["config"]["layers"][-1]["config"]["units"] = -3

    result = ckptconv.validate(changed("keras-3", tmp_path / "a.keras", lambda file: None, damage))
    assert [finding.code for finding in result.findings] == ["unchecked"]


def test_values_are_checked_as_in_other_files(tmp_path: Path) -> None:
    def spoil(file: Any) -> None:
        file["layers/batch_normalization/vars/3"][0] = -1

    path = changed("keras-3", tmp_path / "a.keras", spoil)
    assert ckptconv.validate(path).valid
    found = [finding for finding in ckptconv.validate(path, values=True).findings if finding.severity != "info"]
    assert [finding.where for finding in found] == ["batch_normalization.running_var"]


def test_another_architecture_can_still_be_asked_for() -> None:
    result = ckptconv.validate(OTHERS / "keras-3.keras", arch=OTHERS / "keras-3.keras")
    assert (result.valid, result.evidence) == (True, "--arch")


def test_quantized_layers_that_cannot_be_read_are_said_to_be_unchecked(tmp_path: Path) -> None:
    scale = "layers/dense/vars/2"
    path = changed("keras-quantized/int8", tmp_path / "a.keras", reshaped(scale, 77))
    found = [finding.message for finding in ckptconv.validate(path).findings if finding.code == "unchecked"]
    assert (
        "'hidden' is not checked: it is quantized (int8), and the quantized weights in the file" in found[0] + found[1]
    )


def test_operations_of_keras_have_no_variables(tmp_path: Path) -> None:
    def add(document: Any) -> None:
        operation = {"module": "keras.src.ops.numpy", "class_name": "Add", "registered_name": "Add"}
        document["config"]["layers"].append({**operation, "config": {"name": "add"}, "inbound_nodes": []})

    assert ckptconv.validate(changed("keras-3", tmp_path / "a.keras", lambda file: None, add)).findings == []
