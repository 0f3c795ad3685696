"""A folder or an archive without a checkpoint in it is told for what those who load it would run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from typing import TYPE_CHECKING

import joblib
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import ckptconv
from ckptconv.cli.main import program
from ckptconv.errors import CorruptFileError, UnknownFormatError, UsageError
from tests.hostile.folders import FOLDERS, place

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from ckptconv.api.inspect import Inspection


class Calls:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.getenv, ("HOME",)


def spacy(folder: Path) -> Path:
    """What spaCy's `Language.to_disk` writes, by the names of its files; msgpack and JSON."""
    files = {"meta.json": b"{}", "config.cfg": b"[nlp]\n", "tokenizer": b"\x83\xa1a\x01", "ner/model": b"\x84\xa5nodes"}
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(program, [str(word) for word in words])
    return result.exit_code, result.output


def test_a_folder_in_which_nothing_runs_is_plain(tmp_path: Path) -> None:
    code, output = run("inspect", "--json", "--fail-on-code", spacy(tmp_path / "en"))
    document = json.loads(output)
    assert code == 0
    assert (document["format"], document["verdict"], document["tensors"]) == ("folder", "plain", [])
    assert document["nbytes"] == 19
    assert [one["code"] for one in document["findings"]] == ["no-checkpoint"]
    shown = run("inspect", tmp_path / "en")[1]
    assert "verdict  plain: nothing in it was found to run" in shown
    assert "parameters" not in shown


def test_pickles_of_any_name_are_reported_by_their_files_in_a_folder_and_in_archives(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    (folder / "models").mkdir(parents=True)
    (folder / "train.py").write_text("import os\n")
    joblib.dump({"calls": Calls()}, folder / "models" / "classifier", compress=("zlib", 3))
    (folder / "scaler.dat").write_bytes(pickle.dumps(Calls()))
    paths: list[str | Path] = [folder, *(shutil.make_archive(f"{tmp_path}/a", how, folder) for how in ("zip", "gztar"))]
    paths += [f"{shutil.make_archive(f'{tmp_path}/whole', 'zip', tmp_path, 'repository')}/repository"]
    for path in paths:
        found = ckptconv.inspect(path)
        assert found.verdict == "would run code"
        assert {use.where.partition(":")[0] for use in found.opaque} == {"models/classifier", "scaler.dat"}
        assert {use.node.name for use in found.opaque} == {"os.getenv"}
        assert ("program", "train.py") in {(one.code, one.where) for one in found.findings}
    assert run("inspect", "--fail-on-code", folder)[0] == 1
    assert run("inspect", folder)[0] == 0


def uses(found: Inspection) -> list[dict[str, Any]]:
    return [use.to_dict() for use in (*found.opaque, *found.runs_if)]


def test_folders_of_the_corpus_get_the_same_verdict_without_weights(tmp_path: Path) -> None:
    looked_at, wrong = 0, []
    for case in FOLDERS:
        home = place(case, tmp_path)
        if case.verdict == "refused" or all(".git/" in name for name in case.files):
            continue
        expected = ckptconv.inspect(home)
        (home / "model.safetensors").unlink()
        try:
            found = ckptconv.inspect(home)
        except CorruptFileError:  # a file by which a folder is a checkpoint is damaged
            continue
        if found.absent is not None:
            looked_at += 1
            wrong += [case.slug] if uses(found) != uses(expected) else []
    assert not wrong
    assert looked_at > 60


def test_what_asks_for_tensors_names_what_is_in_the_folder(tmp_path: Path) -> None:
    folder = spacy(tmp_path / "en")
    said = "in it: 'config.cfg', 'meta.json', 'tokenizer', 'ner/'"
    for words in (("--list",), ("--tensor", "w"), ("--stats",), ("--digest",)):
        code, output = run("inspect", folder, *words)
        assert (code, said in output) == (2, True)
    with pytest.raises(UnknownFormatError) as caught:
        ckptconv.convert(folder, tmp_path / "b.safetensors")
    assert said in str(caught.value)
    assert caught.value.hint == f"ckptconv inspect {folder} says what of it would run"


def test_a_folder_with_several_checkpoints_is_looked_at_as_well(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"w": torch.ones(2)}, tmp_path / f"{name}.safetensors")
    (tmp_path / "c.bin").write_bytes(pickle.dumps(Calls()))
    found = ckptconv.inspect(tmp_path)
    assert found.verdict == "would run code"
    assert "holds 2 safetensors files" in found.findings[0].message
    with pytest.raises(UsageError):
        ckptconv.open(tmp_path)


def test_where_nothing_is_there_is_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnknownFormatError, match="without a file"):
        ckptconv.inspect(tmp_path / "empty")
    packed = shutil.make_archive(f"{tmp_path}/packed", "zip", tmp_path / "empty")
    with pytest.raises(UnknownFormatError, match="nothing in it"):
        ckptconv.inspect(packed)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UnknownFormatError, match="this is text"):
        ckptconv.inspect(tmp_path / "notes.txt")


def test_an_archive_that_is_called_as_a_checkpoint_is_a_damaged_one(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "whole.pth")
    for name in ("half.pth", "half.zip"):
        with zipfile.ZipFile(tmp_path / "whole.pth") as whole, zipfile.ZipFile(tmp_path / name, "w") as half:
            for member in whole.namelist():
                if not member.endswith("data.pkl"):
                    half.writestr(member, whole.read(member))
    assert run("inspect", tmp_path / "half.pth")[0] == 2
    assert run("inspect", tmp_path / "half.zip")[0] == 0
