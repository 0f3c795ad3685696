"""Tensors that all look the same under names that say nothing: a diff of many takes no quadratic time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import torch

import ckptconv
from tests.support.stopwatch import cpu_seconds

if TYPE_CHECKING:
    from pathlib import Path

FEW, MANY = 1000, 5000

COLUMNS = {"renamed": (4, 4), "joined": (4, 8), "cut": (4, 2)}


def saved(path: Path, count: int, columns: int, *, telling: bool, dice: random.Random) -> Path:
    values = torch.arange(2.0).repeat(columns // 2) if telling else torch.zeros(columns)
    words = ["".join(dice.choices("abcdefgh", k=8)) for _ in range(2 * count)]
    torch.save({f"{words[i]}.{words[-1 - i]}.w": values.clone() for i in range(count)}, path)
    return path


@pytest.mark.parametrize("telling", [False, True], ids=["zeros", "values"])
@pytest.mark.parametrize("case", COLUMNS)
def test_time_grows_with_their_number(tmp_path: Path, case: str, telling: bool) -> None:
    dice, seconds = random.Random(1), {}
    for count in (FEW, MANY):
        a, b = (
            saved(tmp_path / f"{side}{count}.pth", count, columns, telling=telling, dice=dice)
            for side, columns in zip("ab", COLUMNS[case], strict=True)
        )

        def compared(a: Path = a, b: Path = b) -> None:
            assert not ckptconv.diff(a, b).equal

        seconds[count] = cpu_seconds(compared)
    assert seconds[MANY] <= 3 * MANY / FEW * seconds[FEW]
