"""Names that share a tensor cost no more than names that do not, however many they are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest
import torch

import ckptconv
from tests.support.stopwatch import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAMES = [f"model.layers.{i}.experts.{j}.weight" for i in range(60) for j in range(100)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One value under many names: as one tensor, and as many."""
    folder, one = tmp_path_factory.mktemp("ties"), torch.ones(2)
    made = {"tied": dict.fromkeys(NAMES, one), "apart": {name: one.clone() for name in NAMES}}
    for name, state in made.items():
        torch.save(state, folder / f"{name}.pth")
    return {name: folder / f"{name}.pth" for name in made}


@pytest.mark.parametrize(
    "ask",
    [
        lambda path: ckptconv.diff(path, path),
        lambda path: ckptconv.validate(path, arch="mlp"),
        lambda path: ckptconv.inspect(path, digest=True),
    ],
    ids=["diff", "validate", "inspect"],
)
def test_they_take_no_quadratic_time(files: dict[str, Path], ask: Callable[[Path], object]) -> None:
    """A step for each pair of so many names took several times as long as all else."""
    best = dict.fromkeys(files, float("inf"))
    for _ in range(2):
        for name, path in files.items():
            best[name] = min(best[name], cpu_seconds(partial(ask, path)))
    assert best["tied"] <= 1.5 * best["apart"]
