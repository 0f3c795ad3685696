"""Every file of the corpus, through `inspect` and `convert`: nothing runs, soon, in little memory, with the right verdict."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptconv
from tests.hostile.cases import COMMANDS, MARKER, Case
from tests.hostile.make import corpus, place
from tests.hostile.worker import SECONDS
from tests.support.nodes import image

CASES = corpus()
LIVE = [case for case in CASES if case.live]
HONEST = [case for case in CASES if case.category in ("valid", "ordinary")]
ROOT = Path(__file__).parents[2]


def one_line_of_error(run: dict[str, Any]) -> bool:
    """Whether standard error is the error, perhaps details, and the hint."""
    lines = run["stderr"].splitlines()
    told = lines[0].startswith("ckptconv: error: ") and lines[-1].startswith("hint: ")
    return told and all(line.startswith("  ") for line in lines[1:-1]) and "Traceback" not in run["stderr"]


def python(module: str, paths: list[Path]) -> list[dict[str, Any]]:
    """What a module makes of these files: a line of JSON for each."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", module], input="".join(f"{path}\n" for path in paths), env=environment, cwd=ROOT,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the commands did with each file, by the case's folder; two processes share the work."""
    root = tmp_path_factory.mktemp("corpus")
    paths = [place(case, root) for case in CASES]
    with ThreadPoolExecutor(2) as pool:
        halves = list(pool.map(partial(python, "tests.hostile.worker"), [paths[::2], paths[1::2]]))
    return {Path(result["path"]).parent.name: result for half in halves for result in half}


def test_the_corpus_has_files_of_every_kind() -> None:
    kinds = {case.category for case in CASES}
    assert kinds == {
        "calls", "names", "not followed", "bombs", "zip", "views", "safetensors", "onnx", "legacy", "tar", "no format",
        "valid", "ordinary", "odd names", "whole safetensors", "whole onnx",
    }  # fmt: skip
    assert len(CASES) >= 500
    assert len(LIVE) >= 70


@pytest.mark.parametrize("case", CASES, ids=[case.slug for case in CASES])
def test_a_file_of_the_corpus_runs_nothing_and_ends_as_expected(case: Case, results: dict[str, dict[str, Any]]) -> None:
    result = results[case.slug]
    assert result["status"] == 0, "the process died"
    runs = result["runs"]
    assert [run["strays"] for run in runs] == [[]] * len(COMMANDS)
    codes = tuple(run["code"] for run in runs)
    if case.may_be_refused and codes == (2, 2, 2, 2):
        return
    assert codes == case.codes, [run["stderr"] for run in runs]
    for run in runs:
        assert run["seconds"] < SECONDS
        assert run["code"] != 2 or one_line_of_error(run), run["stderr"]
        assert "not enough memory" not in run["stderr"]
        assert "is a bug" not in run["stderr"]
    for run in runs[2:]:
        assert run["written"] == ([] if run["code"] else ["out.safetensors"])
    if case.verdict != "refused":
        assert f"\n  verdict    {case.verdict}: " in runs[0]["stdout"]


def test_the_payloads_are_live(tmp_path: Path) -> None:
    """A payload that would not run in Python's own unpickler either proves nothing."""
    paths = [place(case, tmp_path) for case in LIVE]
    dead = [Path(found["path"]).parent.name for found in python("tests.hostile.alive", paths) if not found["ran"]]
    assert not dead
    assert MARKER


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
