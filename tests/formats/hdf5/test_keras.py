"""Keras' files: an archive, legacy HDF5, and transformers' tf_model.h5 against the torch weights of the same models."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import CkptconvError, CorruptFileError, DamagedTensorError, UnsupportedError
from tests.support.craft import zip_bytes

OTHERS = Path(__file__).parents[3] / "fixtures" / "others"
KERNEL, BIAS = np.arange(12, dtype=np.float32).reshape(3, 4), np.ones(4, np.float32)
CONFIG = {"class_name": "Sequential", "config": {"layers": [{"units": 4, "activation": None, "rate": 0.5}]}}
ABOUT = {"keras_version": "3.15.1", "date_saved": "2026-11-26@10:00:00"}


def weights(path: Path, *, optimizer: bool = True) -> bytes:
    """What ``model.save_weights("x.weights.h5")`` of Keras 3 writes."""
    with h5py.File(path, "w") as file:
        file.create_group("vars").attrs["name"] = "sequential"
        layer = file.create_group("layers/dense/vars")
        layer.attrs["name"] = "hidden"
        layer["0"], layer["1"] = KERNEL, BIAS
        if optimizer:
            state = file.create_group("optimizer/vars")
            state.attrs["name"] = "adam"
            for i in range(11):
                state[str(i)] = np.float32(i)
    return path.read_bytes()


def archive(path: Path, method: int = zipfile.ZIP_STORED, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("metadata.json", json.dumps(ABOUT))
        file.writestr("config.json", json.dumps(CONFIG))
        file.writestr("model.weights.h5", weights(path.with_suffix(".h5")))
        for name, data in more.items():
            file.writestr(name.replace("__", "/"), data)
    return path


def test_the_state_of_metrics_is_no_weight(tmp_path: Path) -> None:
    """As tf_keras 2.21 writes them beside layers and optimizer; a layer may well be called so."""
    weights(tmp_path / "x.weights.h5", optimizer=False)
    with h5py.File(tmp_path / "x.weights.h5", "a") as file:
        for i in range(2):
            file[f"metrics/mean/vars/{i}"] = np.float32(i)
        file["layers/metrics/vars/0"] = KERNEL
    with ckptconv.open(tmp_path / "x.weights.h5") as checkpoint:
        assert list(checkpoint) == ["layers/dense/vars/0", "layers/dense/vars/1", "layers/metrics/vars/0"]
        assert list(checkpoint.extras) == ["metrics/mean/vars/0", "metrics/mean/vars/1"]


def test_an_optimizers_variables_are_extras_and_the_groups_names_metadata(tmp_path: Path) -> None:
    weights(tmp_path / "x.weights.h5")
    with ckptconv.open(tmp_path / "x.weights.h5") as checkpoint:
        assert list(checkpoint) == ["layers/dense/vars/0", "layers/dense/vars/1"]
        assert list(checkpoint.extras) == [f"optimizer/vars/{i}" for i in range(11)]
        found = {key: value for key, value in checkpoint.metadata.items() if key not in checkpoint.extras}
        assert found == {
            "vars": {"name": "sequential"}, "layers/dense/vars": {"name": "hidden"}, "optimizer/vars": {"name": "adam"}
        }  # fmt: skip


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_has_its_weights_and_its_configuration(method: int, tmp_path: Path) -> None:
    path = archive(tmp_path / "x.keras", method, assets__vocabulary="ä b".encode())
    with ckptconv.open(path) as checkpoint:
        assert checkpoint.format == "keras"
        assert np.array_equal(checkpoint["layers/dense/vars/0"].numpy(), KERNEL)
        assert checkpoint.metadata["config.json"] == CONFIG
        assert checkpoint.metadata["metadata.json"] == ABOUT
        assert checkpoint.metadata["assets/vocabulary"] == "ä b".encode()
        assert len(checkpoint.extras) == 11
    assert ckptconv.inspect(path).verdict == "plain"
    for target in ("x.pth", "x.safetensors"):
        ckptconv.convert(path, tmp_path / target)
        assert ckptconv.diff(path, tmp_path / target).equal
    assert torch.load(tmp_path / "x.pth")["config.json"] == CONFIG


def test_weights_that_fail_the_archives_checksum_are_not_converted(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.keras")
    data = path.read_bytes()
    at = data.index(KERNEL.tobytes())
    path.write_bytes(data[:at] + b"\1" + data[at + 1 :])
    with pytest.raises(DamagedTensorError):
        ckptconv.convert(path, tmp_path / "x.pth")
    assert not (tmp_path / "x.pth").exists()


def test_the_model_of_a_whole_legacy_file_has_the_names_of_its_weights_alone(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["keras_version"], file.attrs["model_config"] = "2.15.0", json.dumps(CONFIG)
        file.create_group("model_weights").attrs["layer_names"] = ["dense"]
        file.create_group("model_weights/dense").attrs["weight_names"] = ["dense/kernel:0", "dense/bias:0"]
        file["model_weights/dense/dense/kernel:0"], file["model_weights/dense/dense/bias:0"] = KERNEL, BIAS
        file["optimizer_weights/Adam/iter:0"] = np.int64(7)
    with ckptconv.open(tmp_path / "x.h5") as checkpoint:
        assert list(checkpoint) == ["dense/dense/kernel:0", "dense/dense/bias:0"]
        assert list(checkpoint.extras) == ["optimizer_weights/Adam/iter:0"]
        assert checkpoint.metadata["model_config"] == json.dumps(CONFIG)
        assert checkpoint.metadata["model_weights"] == {"layer_names": ["dense"]}
    edits = ckptconv.Edits(names=[NameRule("translate", "keras")])
    ckptconv.convert(tmp_path / "x.h5", tmp_path / "x.pth", edits=edits, bare=True)
    found = torch.load(tmp_path / "x.pth")
    assert torch.equal(found["dense.weight"], torch.from_numpy(KERNEL.T.copy()))


@pytest.mark.parametrize("model", ["bert", "gpt2", "vit"])
def test_models_of_transformers_are_their_torch_weights(model: str, tmp_path: Path) -> None:
    edits = ckptconv.Edits(names=[NameRule("translate", "keras")])
    ckptconv.convert(OTHERS / f"keras-{model}.h5", tmp_path / "x.pth", edits=edits, bare=True)
    found, expected = torch.load(tmp_path / "x.pth"), torch.load(OTHERS / f"torch-of-keras-{model}.pth")
    shared = found.keys() & expected.keys()
    assert len(shared) >= len(expected) - 2  # those that torch ties to others
    assert all(torch.equal(found[name], expected[name]) for name in shared)


def made(**entries: bytes) -> bytes:
    names = {"config": "config.json", "about": "metadata.json", "weights": "model.weights.h5"}
    return zip_bytes([(names.get(key, key), data) for key, data in entries.items()])


REFUSED: dict[str, tuple[bytes, type[CkptconvError], str]] = {
    "no weights": (made(config=b"{}", about=b"{}"), CorruptFileError, "no 'model.weights.h5'"),
    "weights of another kind": (
        zip_bytes([("config.json", b"{}"), ("metadata.json", b"{}"), ("model.weights.npz", b"x")]),
        UnsupportedError,
        "npz",
    ),
    "weights that are no HDF5": (made(config=b"{}", about=b"{}", weights=b"x" * 600), CorruptFileError, "signature"),
    "a configuration that is not JSON": (made(config=b"{", about=b"{}", weights=b""), CorruptFileError, "not JSON"),
    "a name twice": (made(config=b'{"a":1,"a":2}', about=b"{}", weights=b""), CorruptFileError, "twice"),
    "a deep configuration": (made(config=b"[" * 90 + b"]" * 90, about=b"{}", weights=b""), CkptconvError, "nested"),
    "another file": (made(config=b"{}", about=b"{}", weights=b"", odd=b"x"), UnsupportedError, "'odd'"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_an_archive_that_cannot_be_read_is_refused(
    data: bytes, error: type[CkptconvError], words: str, tmp_path: Path
) -> None:
    (tmp_path / "x.keras").write_bytes(data)
    with pytest.raises(error, match=words) as refused:
        ckptconv.open(tmp_path / "x.keras")
    assert refused.value.hint
