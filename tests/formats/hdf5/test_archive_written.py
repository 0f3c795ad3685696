"""A ``.keras`` as it is written: Keras' documents as they were, and the weights where Keras looks for them."""

from __future__ import annotations

import json
import shlex
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptconv
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import CkptconvError, DamagedTensorError, UnsupportedError
from tests.formats.hdf5.test_keras import archive
from tests.formats.hdf5.test_written import everything

FIXTURES = Path(__file__).parents[3] / "fixtures"
MODELS = ["keras-3.keras", "keras-recurrent.keras"]


def members(path: Path, folder: Path) -> dict[str, Any]:
    """What Keras reads: the documents, and what h5py makes of the weights; all checksums hold."""
    with zipfile.ZipFile(path) as file:
        assert file.testzip() is None
        found: dict[str, Any] = {name: file.read(name) for name in file.namelist()}
    weights = folder / "weights.h5"
    weights.write_bytes(found["model.weights.h5"])
    for name in ("config.json", "metadata.json"):
        found[name] = json.loads(found[name])
    return {**found, "model.weights.h5": everything(weights)}


@pytest.mark.parametrize("name", MODELS)
def test_an_archive_comes_back_also_by_way_of_other_formats(name: str, tmp_path: Path) -> None:
    source = FIXTURES / "others" / name
    ckptconv.convert(source, tmp_path / "a.keras")
    expected = members(source, tmp_path)
    assert members(tmp_path / "a.keras", tmp_path) == expected
    for way in ("w.safetensors", "w.pth", "w.h5"):
        ckptconv.convert(source, tmp_path / way)
        ckptconv.convert(tmp_path / way, tmp_path / "b.keras", force=True)
        assert members(tmp_path / "b.keras", tmp_path) == expected
        assert ckptconv.diff(source, tmp_path / "b.keras").equal


def test_values_that_were_cast_stay_where_they_were(tmp_path: Path) -> None:
    source = FIXTURES / "others" / "keras-3.keras"
    ckptconv.convert(source, tmp_path / "a.keras", edits=ckptconv.Edits(dtype="F16"))
    found, expected = members(tmp_path / "a.keras", tmp_path), members(source, tmp_path)
    assert found["config.json"] == expected["config.json"]
    weights, before = found["model.weights.h5"], expected["model.weights.h5"]
    assert weights.keys() == before.keys()
    for name, said in before.items():
        if name.startswith("layers/") and said and isinstance(said[-1][0], np.dtype):
            _, shape, data = said[-1]
            half = np.frombuffer(data, np.float32).astype(np.float16)
            assert weights[name] == [*said[:-1], (np.dtype(np.float16), shape, half.tobytes())]
        else:
            assert weights[name] == said


def test_assets_are_files_again_and_no_path_leads_out_of_their_folder(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.keras", assets__tokens__words="ä b".encode())
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("assets/../up", b"no")
    ckptconv.convert(path, tmp_path / "a.keras")
    with zipfile.ZipFile(tmp_path / "a.keras") as file:
        assert file.namelist() == ["metadata.json", "config.json", "assets/tokens/words", "model.weights.h5"]
        assert file.read("assets/tokens/words") == "ä b".encode()
    assert ckptconv.diff(path, tmp_path / "a.keras").equal


def test_weights_of_the_written_archive_are_checked_as_those_of_keras(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.keras")
    ckptconv.convert(path, tmp_path / "a.keras")
    data = bytearray((tmp_path / "a.keras").read_bytes())
    data[data.rindex(np.float32(7).tobytes())] ^= 1
    (tmp_path / "a.keras").write_bytes(data)
    with pytest.raises(DamagedTensorError):
        ckptconv.convert(tmp_path / "a.keras", tmp_path / "b.keras")


def test_without_a_configuration_the_way_to_the_weights_alone_is_reported(tmp_path: Path) -> None:
    source = FIXTURES / "digits-raw.pth"
    for dry in (True, False):
        with pytest.raises(UnsupportedError, match=r"no keras file can be made: .*config\.json") as caught:
            ckptconv.convert(source, tmp_path / "a.keras", to_format="keras", dry_run=dry, force=True)
    assert not list(tmp_path.iterdir())
    line, _, other = (caught.value.hint or "").partition(" writes the weights alone")
    assert other.startswith("; --like MODEL.keras")
    assert shlex.split(line) == ["ckptconv", "convert", str(source), str(tmp_path / "a.weights.h5"), "--force"]


@pytest.mark.parametrize(
    ("how", "what", "hint"),
    [
        ({"bare": True}, "config.json", "leave --bare out"),
        (
            {"edits": ckptconv.Edits(names=[NameRule("translate", "keras")])},
            "not a path of Keras weights",
            ".weights.h5",
        ),
    ],
)
def test_what_keras_could_not_load_is_refused(how: dict[str, Any], what: str, hint: str, tmp_path: Path) -> None:
    with pytest.raises(CkptconvError, match=what) as caught:
        ckptconv.convert(FIXTURES / "others" / "keras-3.keras", tmp_path / "a.keras", **how)
    assert hint in (caught.value.hint or "")
