"""Keras' weights in several files: they are what Keras writes into one."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ckptconv
from ckptconv.errors import CkptconvError

if TYPE_CHECKING:
    from collections.abc import Callable

FIXTURE = Path(__file__).parents[3] / "fixtures" / "others" / "keras-sharded" / "sharded.zip"
INDEX = "sharded.weights.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(tmp_path / "saved")
    return tmp_path / "saved"


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    document = json.loads((folder / INDEX).read_text())
    edit(document)
    (folder / INDEX).write_text(json.dumps(document))
    return folder / INDEX


def test_several_files_are_what_keras_writes_into_one(folder: Path, tmp_path: Path) -> None:
    whole = folder / "whole.weights.h5"
    for source in (folder / INDEX, folder):
        found = ckptconv.diff(source, whole)
        assert found.equal, found.findings
    with ckptconv.open(folder) as checkpoint:
        assert checkpoint.format == "keras-sharded"
        assert not checkpoint.findings
        assert {name for name in checkpoint.extras if name.startswith("optimizer/vars/")} == set(checkpoint.extras)
    ckptconv.convert(folder, tmp_path / "one.weights.h5")
    assert ckptconv.diff(tmp_path / "one.weights.h5", whole).equal


def test_a_file_of_several_is_told_to_be_one(folder: Path) -> None:
    with ckptconv.open(folder / "sharded_00001.weights.h5") as checkpoint:
        assert [(one.code, one.severity) for one in checkpoint.findings] == [("shard", "warning")]


def test_what_the_index_does_not_say_is_told(folder: Path) -> None:
    change(folder, lambda document: document["metadata"].update(total_size=5))
    with ckptconv.open(folder) as checkpoint:
        assert [one.code for one in checkpoint.findings] == ["total-size"]
    change(folder, lambda document: document["weight_map"].pop("/layers/dense/vars"))
    with ckptconv.open(folder) as checkpoint:
        unlisted = [one.where for one in checkpoint.findings if one.code == "unlisted-tensor"]
    assert unlisted == ["layers/dense/vars/0", "layers/dense/vars/1"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda weights: weights.update({"/layers/dense/vars": "sharded_00000.weights.h5"}), "not where it says"),
        (lambda weights: weights.update({"/a/vars": ["sharded_00000.weights.h5"]}), "not where it says"),
        (lambda weights: weights.update({"/a/vars": "sharded_00009.weights.h5"}), "1 shard of 7 missing"),
        (lambda weights: weights.update({"/a/vars": "../sharded_00000.weights.h5"}), "not a name of a file"),
        (lambda weights: weights.update({"/a/vars": [[]]}), "something that is no file"),
        (lambda weights: weights.update({"/a/vars": "whole.weights.h5"}), "is in two files"),
    ],
)
def test_an_index_that_its_files_contradict_is_refused(
    edit: Callable[[dict[str, Any]], object], message: str, folder: Path
) -> None:
    index = change(folder, lambda document: edit(document["weight_map"]))
    with pytest.raises(CkptconvError, match=message):
        ckptconv.open(index)
