"""Folders of the corpus: nothing in them runs, and what others would run of them is told."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
import torch.distributed.checkpoint as distributed

import ckptconv
from ckptconv.api.inspecting.uses import uses_of
from ckptconv.errors import LimitError
from tests.hostile.cases import CODES, COMMANDS, MARKER
from tests.hostile.folder import MODULE, Folder, json_of
from tests.hostile.folders import CONSENT, EVIL_ARCHIVE, FOLDERS, PICKLES, place
from tests.hostile.others import WHOLE
from tests.hostile.test_corpus import asked
from tests.hostile.worker import SECONDS
from tests.support.stopwatch import at_most, expect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.hostile.test_corpus import Asked


@pytest.fixture(scope="module")
def run() -> Iterator[Asked]:
    with asked("tests.hostile.worker") as worker:
        yield worker


@pytest.mark.parametrize("case", FOLDERS, ids=[case.slug for case in FOLDERS])
def test_a_folder_runs_nothing_and_is_recognised(case: Folder, run: Asked, tmp_path: Path) -> None:
    result = run(place(case, tmp_path))
    assert result["status"] == 0, "the process died"
    assert [one["strays"] for one in result["runs"]] == [[]] * len(COMMANDS)
    assert not list(tmp_path.rglob(f"{MARKER}*"))
    inspected, gated = CODES[case.verdict][:2]  # what is converted are the weights alone
    assert tuple(one["code"] for one in result["runs"]) == (inspected, gated, 0, 0)
    for one in result["runs"]:
        expect(one["seconds"], SECONDS)


@pytest.mark.parametrize(
    "case", [case for case in FOLDERS if case.verdict != "refused"],
    ids=[case.slug for case in FOLDERS if case.verdict != "refused"],
)  # fmt: skip
def test_what_is_found_is_named_with_the_file_that_it_is_in(case: Folder, tmp_path: Path) -> None:
    found = ckptconv.inspect(place(case, tmp_path))
    assert found.verdict == case.verdict
    assert tuple(use.node.name for use in found.opaque if not use.part) == case.named
    assert tuple(use.only_if for use in found.runs_if) == case.runs_if
    files = tuple({**case.files, **case.links})
    assert all(use.where.startswith(files) for use in (*found.opaque, *found.runs_if))
    document = found.to_dict()
    assert [one["only_if"] for one in document["runs_if"]] == list(case.runs_if)


PACKED = [case for case in FOLDERS if case.verdict != "refused" and not case.links]


@pytest.mark.parametrize("how", ["zip", "gztar"])
@pytest.mark.parametrize("case", PACKED, ids=[case.slug for case in PACKED])
def test_an_archive_of_it_gets_the_same_verdict(case: Folder, how: str, tmp_path: Path) -> None:
    place(case, tmp_path / "in")
    path = shutil.make_archive(str(tmp_path / "packed"), how, tmp_path / "in")
    found = ckptconv.inspect(path)
    nested = [use for use in found.opaque if use.where.startswith(f"{case.slug}/old.zip")]
    assert nested == []  # an archive in an archive is not looked into, and that is said
    if "old.zip" in case.files:
        assert "not-looked-at" in {one.code for one in found.findings}
        return
    assert found.verdict == case.verdict
    assert tuple(use.node.name for use in found.opaque if not use.part) == case.named
    assert tuple(use.only_if for use in found.runs_if) == case.runs_if
    files = tuple(f"{case.slug}/{name}" for name in case.files)
    assert all(use.where.startswith(files) for use in (*found.opaque, *found.runs_if))


def test_a_folder_in_an_archive_is_looked_at_and_a_file_in_it_alone(tmp_path: Path) -> None:
    place(PICKLES[0], tmp_path / "in")
    path = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "in"))
    assert ckptconv.inspect(path / PICKLES[0].slug).verdict == "would run code"
    assert ckptconv.inspect(path / PICKLES[0].slug / "model.safetensors").verdict == "plain"


@pytest.mark.parametrize(
    "members",
    [
        {"a.pkl": b"\x80\x02" + b"N0" * (1 << 20) + b"N."},
        {f"{i}.pkl": b"\x80\x02" + b"N0" * (1 << 17) + b"N." for i in range(20)},
        {f"{i}/config.json": b"[" + b"{}," * 10_000 + b"1]" for i in range(40)},
        {f"{i}.pkl": b"\x80\x02T" + (1 << 20).to_bytes(4, "little") + bytes(1 << 20) + b"." for i in range(3)},
        {f"{i}.z": zlib.compress(b"\x80\x02" + bytes(1 << 20)) for i in range(3)},
    ],
    ids=["one pickle", "pickles", "configurations", "what is inflated", "what is inflated twice"],
)
def test_a_small_archive_cannot_ask_for_much(
    members: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptconv.io.archive_kinds.FREE_ARCHIVE_BYTES", 1 << 21)
    monkeypatch.setattr("ckptconv.io.spool.FREE_PARSED_BYTES", 1 << 20)
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.safetensors", WHOLE)
        for name, data in members.items():
            file.writestr(name, data)
    with at_most(5), pytest.raises(LimitError):
        ckptconv.inspect(path)


def test_the_pickles_run_in_pythons_own_unpickler(tmp_path: Path) -> None:
    with asked("tests.hostile.alive") as load:
        dead = [case.slug for case in PICKLES if case.pickle and not load(place(case, tmp_path) / case.pickle)["ran"]]
    assert not dead


@pytest.mark.parametrize("trusted", [False, True])
def test_transformers_asks_before_it_runs_what_counts_as_asked_for(
    trusted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoConfig, dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    files = {"config.json": json_of(model_type="mine", auto_map={"AutoConfig": "mine.C"}), "mine.py": MODULE}
    folder = place(Folder("transformers", files), tmp_path)
    assert [use.node.name for use in ckptconv.inspect(folder).runs_if] == ["mine.C"]
    with pytest.raises((ValueError, AttributeError)):  # it wants consent, or has run the module, whose class is none
        AutoConfig.from_pretrained(folder, trust_remote_code=trusted)
    assert (tmp_path / MARKER).exists() is trusted


def test_a_file_that_is_named_is_inspected_alone(tmp_path: Path) -> None:
    folder = place(PICKLES[0], tmp_path)
    assert ckptconv.inspect(folder / "model.safetensors").verdict == "plain"
    assert ckptconv.inspect(folder).verdict == "would run code"


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptconv.formats.beside.files.MAX_FILES", 3)
    folder = place(Folder("many", {f"a/{i}": b"" for i in range(4)}), tmp_path)
    with pytest.raises(LimitError, match="more than 3 files"):
        ckptconv.inspect(folder)


def test_folders_that_are_reached_by_many_links_are_too_many_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptconv.formats.beside.files.MAX_FILES", 500)
    links = {f"{level}/{side}": f"../{level + 1}" for level in range(20) for side in "ab"}
    folder = place(Folder("many", {f"{level}/x": b"" for level in range(21)}, links=links), tmp_path)
    with pytest.raises(LimitError, match="more than 500 files"):
        ckptconv.inspect(folder)


def test_what_cannot_be_looked_at_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    files = {"a.pkl": b"", "a.json": b"{}", "below/x": b"", "log.json": b" " * 100, "cut.pt": EVIL_ARCHIVE[:-30]}
    folder = place(Folder("here", files, links={"out": "../elsewhere"}), tmp_path)
    denied = {folder / name for name in ("a.pkl", "a.json", "below")}

    def deny(function: Callable[..., Any]) -> Callable[..., Any]:
        def denying(path: Any, *rest: Any) -> Any:
            if path in denied:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return function(path, *rest)

        return denying

    monkeypatch.setattr(os, "scandir", deny(os.scandir))
    monkeypatch.setattr(os, "open", deny(os.open))
    monkeypatch.setattr("ckptconv.formats.beside.places.MAX_CONFIG", 50)
    found = ckptconv.inspect(folder)
    assert found.verdict == "plain"
    told = {one.where: one.message for one in found.beside.findings if one.code == "not-looked-at"}
    assert told == {
        "a.json": "'a.json' was not looked into: cannot open: permission denied",
        "a.pkl": "'a.pkl' was not looked into: cannot open: permission denied",
        "below": "'below' was not looked into: permission denied",
        "cut.pt": "'cut.pt' was not looked into: the zip archive is damaged: its end record is missing",
        "log.json": "'log.json' was not looked into: it has 100 bytes; the limit is 50",
        "out": "'out' was not looked into: it is a link to a folder elsewhere",
    }


class Calls:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.getenv, ("HOME",)


@pytest.mark.parametrize(
    ("state", "verdict", "named"),
    [
        ({"w": torch.ones(3), "epoch": 3}, "plain", []),
        ({"w": torch.ones(3), "x": Calls()}, "would run code", ["os.getenv"]),
    ],
)
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_folder_of_torchs_below_is_read_as_one(
    state: dict[str, Any], verdict: str, named: list[str], tmp_path: Path
) -> None:
    folder = place(Folder("fsdp", {}), tmp_path)
    distributed.save(state, checkpoint_id=folder / "pytorch_model_fsdp_0", no_dist=True)
    found = ckptconv.inspect(folder)
    assert found.verdict == verdict
    assert [use.node.name for use in found.opaque] == named
    assert all(use.where.startswith("pytorch_model_fsdp_0/.metadata: ") for use in found.opaque)


def test_what_the_checkpoint_says_itself_is_reported_once(tmp_path: Path) -> None:
    ranks = Path(__file__).parents[2] / "fixtures" / "others" / "megatron" / "gated-1x1" / "ranks"
    with ckptconv.open(ranks) as checkpoint:
        own = [use.node.name for use in uses_of(checkpoint)]
    found = ckptconv.inspect(ranks)
    assert [use.node.name for use in found.opaque] == own
    assert not found.beside.findings


def test_consent_is_reported_in_the_verdict_and_listed(tmp_path: Path) -> None:
    from click.testing import CliRunner

    from ckptconv.cli.main import program

    folder = place(CONSENT[0], tmp_path)
    lines = CliRunner().invoke(program, ["inspect", str(folder)]).output.splitlines()
    assert "  verdict    plain: tensors and plain data, nothing that runs but with trust_remote_code=True" in lines
    at = lines.index("what runs only if it is asked for")
    assert lines[at + 1].split("  ")[1] == "config.json: auto_map.AutoConfig"
    assert lines[at + 1].endswith("  by transformers, if trust_remote_code=True")
