"""Records whose JSON is well formed and says something else: one value of it is another, or is gone.

Bytes that are flipped (`tests.hostile.fuzz`) seldom leave JSON that parses; what a stranger types does.
"""

from __future__ import annotations

import copy
import json
import random
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import ckptconv
from ckptconv.errors import CkptconvError
from tests.support.craft import saved

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MUTANTS = 300

GONE = object()

VALUES: list[Any] = [
    None, True, -1, 2**63, 1.5, float("nan"), "", "b", "\ud800", "9" * 5_000, [], {}, [[1]], [{}], {"a": 1}, [-1],
    [2**40] * 3, {"$tensor": "b"}, {"$tensor": "gone"}, {"$state_dict": {"prefix": "[[1]]"}}, {"$tuple": [[1]]},
    {"$set": [{"$bytes": "AA=="}]}, {"$dict": [[{"$tuple": [1, "x"]}, 2]]}, {"$stored": ["b", {"$bytes": ""}]},
    {"$int": "zz"}, {"$numpy.array": ["<f4", [2**40], "C", ""]}, {"$opaque": {"class": "a.b", "how": "object"}},
    {"$defaultdict": ["builtins.list", [[1, 2]]]}, GONE, GONE, GONE,
]  # fmt: skip


def checkpoint() -> dict[str, Any]:
    """What a record has most to say of."""
    shared = torch.ones(2, 2)
    model = OrderedDict(a=shared, tied=shared, b=torch.arange(3.0), turned=torch.ones(2, 3).T)
    model["z"] = torch.ones(2, dtype=torch.complex128)
    model._metadata = OrderedDict({"": {"version": 1}, "norm": {"version": 2}})  # type: ignore[attr-defined]
    groups = [{"lr": 0.1, "betas": (0.9, 0.99)}]
    optimizer = {"state": {0: {"step": 5, "exp_avg": torch.ones(2, 2)}}, "param_groups": groups}
    kept = {"sizes": [512, 256], "names": {"x", "y"}, "size": torch.Size([1, 2]), "big": 2**70, "bytes": b"0" * 3_000}
    return {"state_dict": model, "optimizer": optimizer, "deep": {"er": [{"x": (1, {2})}]}, **kept}


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every value but the root."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in items:
        yield (*path, key)
        yield from places(child, (*path, key))


def changed(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(document)
    inner = made
    for key in path[:-1]:
        inner = inner[key]
    if value is GONE:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return made


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, dict[str, torch.Tensor], dict[str, str]]:
    """A path, and what is to be saved there of a file of ours."""
    path = tmp_path / "x.safetensors"
    ckptconv.convert(saved(tmp_path / "x.pth", checkpoint()), path)
    with safe_open(path, framework="pt") as file:
        strings = dict(file.metadata())
    return path, load_file(path), strings


def test_a_record_with_one_other_value_is_refused_or_read_and_written_again(
    written: tuple[Path, dict[str, torch.Tensor], dict[str, str]],
) -> None:
    path, tensors, strings = written
    record = json.loads(strings["ckptconv"])
    found = list(places(record))
    chance = random.Random(5)
    read = 0
    for _ in range(MUTANTS):
        document = changed(record, chance.choice(found), chance.choice(VALUES))
        save_file(tensors, path, metadata=strings | {"ckptconv": json.dumps(document)})
        for target in ("y.pth", "y.safetensors"):
            try:
                ckptconv.convert(path, path.with_name(target), force=True, allow_loss="all")
                read += 1
            except CkptconvError as error:
                assert error.hint, error
    assert 0.2 * MUTANTS < read < 1.9 * MUTANTS
