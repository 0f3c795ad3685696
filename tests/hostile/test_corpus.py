"""Every file of the corpus, through `inspect` and `convert`: nothing runs, soon, in little memory, with the right verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckptconv
from tests.hostile.cases import COMMANDS, MARKER, Case
from tests.hostile.make import corpus, place
from tests.hostile.worker import SECONDS
from tests.support.nodes import image
from tests.support.stopwatch import expect

if TYPE_CHECKING:
    from collections.abc import Iterator

CASES = corpus()
LIVE = [case for case in CASES if case.live]
OF_LOADERS = [case for case in CASES if case.loader]
HONEST = [case for case in CASES if case.category in ("valid", "ordinary")]
ROOT = Path(__file__).parents[2]


def one_line_of_error(run: dict[str, Any]) -> bool:
    """Whether standard error is the error, perhaps details, and the hint."""
    lines = run["stderr"].splitlines()
    told = lines[0].startswith("ckptconv: error: ") and lines[-1].startswith("hint: ")
    return told and all(line.startswith("  ") for line in lines[1:-1]) and "Traceback" not in run["stderr"]


class Asked:
    """A module that reads a path a line, and answers each with a line of JSON."""

    def __init__(self, module: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", module]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT, text=True
        )

    def __call__(self, path: Path, before: str = "") -> Any:
        """What it says of a file."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{before}{path}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


@contextmanager
def asked(module: str) -> Iterator[Asked]:
    made = Asked(module)
    try:
        yield made
    finally:
        made.process.communicate()


@pytest.fixture(scope="module")
def run() -> Iterator[Asked]:
    """Runs the commands on a file."""
    with asked("tests.hostile.worker") as worker:
        yield worker


def test_the_corpus_has_files_of_every_kind() -> None:
    kinds = {case.category for case in CASES}
    assert kinds == {
        "calls", "names", "not followed", "bombs", "zip", "views", "safetensors", "onnx", "legacy", "tar", "no format", "bare",
        "valid", "ordinary", "odd names", "whole safetensors", "whole onnx", "of loaders",
    }  # fmt: skip
    assert len(CASES) >= 500
    assert len(LIVE) >= 70


@pytest.mark.parametrize("case", CASES, ids=[case.slug for case in CASES])
def test_a_file_of_the_corpus_runs_nothing_and_ends_as_expected(case: Case, run: Asked, tmp_path: Path) -> None:
    result = run(place(case, tmp_path))
    assert result["status"] == 0, "the process died"
    runs = result["runs"]
    assert [one["strays"] for one in runs] == [[]] * len(COMMANDS)
    codes = tuple(one["code"] for one in runs)
    if case.may_be_refused and codes == (2, 2, 2, 2):
        return
    assert codes == case.codes, [one["stderr"] for one in runs]
    for one in runs:
        expect(one["seconds"], SECONDS)
        assert one["code"] != 2 or one_line_of_error(one), one["stderr"]
        assert "not enough memory" not in one["stderr"]
        assert "is a bug" not in one["stderr"]
    for one in runs[2:]:
        assert one["written"] == ([] if one["code"] else ["out.safetensors"])
    if case.verdict != "refused":
        assert f"\n  verdict    {case.verdict}: " in runs[0]["stdout"]


def test_the_payloads_are_live(tmp_path: Path) -> None:
    """A payload that would not run in Python's own unpickler either proves nothing."""
    with asked("tests.hostile.alive") as load:
        dead = [case.slug for case in LIVE if not load(place(case, tmp_path))["ran"]]
    assert not dead
    assert MARKER


def test_the_payloads_of_other_loaders_are_live_in_these(tmp_path: Path) -> None:
    with asked("tests.hostile.loaders") as load:
        dead = [case.slug for case in OF_LOADERS if not load(place(case, tmp_path), f"{case.loader} ")["ran"]]
    assert not dead
    assert len(OF_LOADERS) >= 10


@pytest.mark.parametrize("case", HONEST, ids=[case.slug for case in HONEST])
def test_an_honest_file_has_the_tensors_that_torch_loads(case: Case, tmp_path: Path) -> None:
    path = place(case, tmp_path)
    if case.category == "valid":
        warnings.simplefilter("ignore")  # of protocols that may not be supported; here they are not
        with pytest.raises(Exception, match=r"(?i)weights_only|Unsupported|unsafe"):
            torch.load(path, weights_only=True)
    try:
        loaded = torch.load(path, weights_only=False)
    except (ImportError, AttributeError):  # someone's class, which is not installed here
        loaded = None
    with ckptconv.open(path) as checkpoint:
        assert len(checkpoint) > 0
        images = {name: bytes(tensor.read()) for name, tensor in checkpoint.items()}
    if loaded is not None:
        assert images == {name: image(tensor) for name, tensor in state_dict_of(loaded).items()}


def state_dict_of(loaded: Any) -> dict[str, torch.Tensor]:
    """The model's tensors as the files of this corpus hold them."""
    if isinstance(loaded, list):
        return {str(i): tensor for i, tensor in enumerate(loaded)}
    for key in ("state_dict", "model"):
        if key in loaded:
            return dict(loaded[key])
    return {name: value for name, value in loaded.items() if isinstance(value, torch.Tensor)}
