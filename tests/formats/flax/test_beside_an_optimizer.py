"""The model beside an optimizer's state in a tree that has no `params`, as people save Flax's NNX."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ckptconv

if TYPE_CHECKING:
    from pathlib import Path


def tree(*shape: int) -> dict[str, Any]:
    return {"dense": {"kernel": np.ones(shape, np.float32), "bias": np.zeros(shape[-1], np.float32)}}


def names(path: Path, root: object) -> tuple[set[str], set[str]]:
    """The model's, and the extras'."""
    path.write_bytes(pickle.dumps(root))
    with ckptconv.open(path) as checkpoint:
        return set(checkpoint), set(checkpoint.extras)


@pytest.mark.parametrize("key", ["opt", "optimizer", "opt_state"])
def test_names_of_the_model_are_bare_and_the_optimizers_are_extras(tmp_path: Path, key: str) -> None:
    root = {"model": tree(2, 3), key: {"mu": tree(2, 3)}, "step": np.array(3)}
    model, extras = names(tmp_path / "a.pkl", root)
    assert model == {"dense.kernel", "dense.bias"}
    assert extras == {f"{key}.mu.dense.kernel", f"{key}.mu.dense.bias", "step"}


def test_a_params_below_is_where_it_starts(tmp_path: Path) -> None:
    model, _ = names(tmp_path / "a.pkl", {"state": {"params": tree(2, 3), "rng": np.ones(2)}, "opt": tree(2, 3)})
    assert model == {"dense.kernel", "dense.bias"}


@pytest.mark.parametrize(
    "root", [{"model": tree(2, 3), "head": tree(3, 3)}, {"a": tree(2, 2), "b": tree(2, 2), "opt": tree(2, 2)}]
)
def test_without_an_optimizer_or_with_several_models_all_are_the_models(tmp_path: Path, root: dict[str, Any]) -> None:
    model, extras = names(tmp_path / "a.pkl", root)
    assert model == {f"{key}.dense.{name}" for key in root for name in ("kernel", "bias")}
    assert not extras
