"""Models of gensim's whose arrays are in files beside the pickle."""

from __future__ import annotations

import pickle
import shutil
import sys
import types
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ckptconv
from ckptconv.errors import CkptconvError, LossError

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = Path(__file__).parents[4] / "fixtures" / "others" / "gensim"
VECTORS = "apart.model.wv.vectors.npy"


def test_the_arrays_are_those_of_the_model_that_is_saved_whole() -> None:
    with (
        ckptconv.open(MODELS / "apart.model") as apart,
        ckptconv.open(MODELS / "whole.model") as whole,
        np.load(MODELS / "read.npz") as read,
    ):
        assert {*apart} == {*whole}
        for name, tensor in apart.items():
            assert tensor.info == whole[name].info
            assert bytes(tensor.read()) == bytes(whole[name].read())
        for name in read.files:
            assert np.array_equal(apart[name].numpy(), read[name])
        assert "3 arrays in files beside it" in apart.findings[0].message
    assert ckptconv.inspect(MODELS / "apart.model").verdict == "opaque"


@pytest.mark.parametrize("damage", ["missing", "cut", "another", "pickle"])
def test_an_array_that_cannot_be_read_is_a_loss(damage: str, tmp_path: Path) -> None:
    for path in MODELS.glob("apart.*"):
        shutil.copy(path, tmp_path)
    array = tmp_path / VECTORS
    match damage:
        case "missing":
            array.unlink()
        case "cut":
            array.write_bytes(array.read_bytes()[:-1])
        case "another":
            array.write_bytes(b"\x80\x04N.")
        case _:
            np.save(array, np.array([{}], dtype=object), allow_pickle=True)
    with ckptconv.open(tmp_path / "apart.model") as checkpoint:
        assert "state.syn1neg" in checkpoint
        assert "state.wv.state.vectors" not in checkpoint
        assert any(VECTORS in finding.message for finding in checkpoint.findings if finding.severity == "warning")
    with pytest.raises(LossError, match="opaque"):
        ckptconv.convert(tmp_path / "apart.model", tmp_path / "x.safetensors")
    ckptconv.convert(tmp_path / "apart.model", tmp_path / "x.safetensors", allow_loss=["opaque"])


def test_in_an_archive_the_arrays_are_those_beside_it_there(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in MODELS.glob("apart.*"):
            archive.write(path, path.name)
    assert ckptconv.diff(MODELS / "apart.model", tmp_path / "a.zip" / "apart.model").equal
    assert len(ckptconv.inspect(tmp_path / "a.zip" / "apart.model").opaque) == len(
        ckptconv.inspect(MODELS / "apart.model").opaque
    )
    assert ckptconv.inspect(tmp_path / "a.zip").verdict == "opaque"


@pytest.fixture
def model() -> Iterator[type]:
    """A class whose pickles name gensim."""
    module = types.ModuleType("gensim")
    found: Any = type("Model", (), {"__module__": "gensim"})
    module.Model = found  # type: ignore[attr-defined]
    sys.modules["gensim"] = module
    yield found
    del sys.modules["gensim"]


def test_names_that_lead_elsewhere_are_not_followed(model: type, tmp_path: Path) -> None:
    np.save(tmp_path / "secret.npy", np.ones(3))
    (tmp_path / "m.").mkdir()
    (tmp_path / "in").mkdir()
    thing = model()
    thing.__dict__.update({"__numpys": ["/../secret", 3, "\0"], "__scipys": ["s"], "__recursive_saveloads": "abc"})
    (tmp_path / "in" / "m").write_bytes(pickle.dumps(thing))
    with ckptconv.open(tmp_path / "in" / "m") as checkpoint:
        assert not checkpoint
        warnings = [finding.message for finding in checkpoint.findings if finding.severity == "warning"]
        assert len(warnings) == 3
        assert any("a sparse matrix" in warning for warning in warnings)


def test_an_object_of_its_own_beside_the_model_is_named(model: type, tmp_path: Path) -> None:
    """LsiModel's projection and LdaModel's state are all that these have learned."""
    thing = model()
    thing.__dict__.update({"__ignoreds": ["projection", "dispatcher", 3], "__numpys": []})
    (tmp_path / "m").write_bytes(pickle.dumps(thing))
    (tmp_path / "m.projection").write_bytes(pickle.dumps(model()))
    with ckptconv.open(tmp_path / "m") as checkpoint:
        (warning,) = [finding for finding in checkpoint.findings if finding.severity == "warning"]
    assert "not read with it: 'm.projection'" in warning.message
    assert warning.hint is not None and warning.hint.endswith("inspect m.projection")


def test_objects_that_share_others_are_looked_at_once(model: type, tmp_path: Path) -> None:
    """Ten ways to the next object, twelve times over."""
    inner = model()
    names = [f"n{number}" for number in range(10)]
    for _ in range(12):
        outer = model()
        outer.__dict__.update({"__recursive_saveloads": names} | dict.fromkeys(names, inner))
        inner = outer
    (tmp_path / "m").write_bytes(pickle.dumps(inner))
    with pytest.raises(CkptconvError, match="comes to more than"), ckptconv.open(tmp_path / "m"):
        pass
