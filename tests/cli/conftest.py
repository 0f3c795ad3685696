"""What the tests of the command line share: a runner, a process, and checkpoints made by torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from click.testing import CliRunner, Result

from ckptconv.cli.main import program

if TYPE_CHECKING:
    from pathlib import Path

Run = Callable[..., Result]
Process = Callable[..., "subprocess.CompletedProcess[str]"]


class Call:
    """Pickles as a call of ``os.system``."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("echo \x1b[31mpwned",)


class Settings:
    """A class that a reader does not know."""

    def __init__(self) -> None:
        self.rate = 0.1


def strict(text: str) -> Any:
    """The one strict JSON document that `text` is."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    document = json.loads(text, parse_constant=refuse)
    assert document["schema"] == 1
    assert text == json.dumps(document) + "\n"
    return document


@pytest.fixture
def run() -> Run:
    """Run a command in this process."""
    return lambda *args: CliRunner().invoke(program, [str(arg) for arg in args])


@pytest.fixture
def process() -> Process:
    """Run a command in a process of its own."""

    def started(*args: object, **options: object) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "ckptconv", *map(str, args)]
        settings: dict[str, object] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.run(line, **(settings | options), text=True, timeout=120, check=False)  # type: ignore[call-overload]

    return started


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A metadata .pth of a small network."""
    path = tmp_path / "model.pth"
    state = {"fc.weight": torch.arange(12.0).reshape(3, 4), "fc.bias": torch.tensor([1.0, -2.0, 0.0])}
    torch.save({"input_size": 4, "hidden": [3], "betas": (0.9, 0.999), "state_dict": state}, path)
    return path


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A .pth with an optimizer's tensors beside the model's."""
    path = tmp_path / "training.pth"
    state = {"weight": torch.zeros(2, 2)}
    torch.save({"state_dict": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2, 2)}}}}, path)
    return path


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A .pth that would run code, with names and values that a terminal would obey."""
    path = tmp_path / "hostile.pth"
    state = {
        "\x1b[31mred\n.w": torch.ones(2),
        "[red]markup[/red]": torch.ones(1),
        "bidi\u202e": torch.ones(1),
        "lone\udc80": torch.ones(1),
        "c1\x9b2J": torch.ones(1),
    }
    torch.save({"state_dict": state, "key\x07": "v\x1b]0;t\x07", "boom": Call(), "settings": Settings()}, path)
    return path
