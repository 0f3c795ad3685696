"""Objects of the usual libraries, as these pickle them: nothing of it runs what the file says, so none is a call."""

from __future__ import annotations

import pickle
import zoneinfo
from datetime import UTC, datetime
from functools import partial
from logging import getLogger
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import SGDClassifier, TweedieRegressor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier
from torch.distributed._shard.sharded_tensor.metadata import MEM_FORMAT_ENCODING

import ckptconv

if TYPE_CHECKING:
    from pathlib import Path

X = np.arange(12.0).reshape(6, 2)
Y = np.array([0, 1, 0, 1, 0, 1])


class Outer:
    class Inner:
        def __init__(self) -> None:
            self.rate = 0.1


STARTED = iter(["a", "b"])  # as TorchRL's networks have one
next(STARTED)

OBJECTS: dict[str, Any] = {
    "a tree": DecisionTreeClassifier().fit(X, Y),
    "neighbours in a tree": KNeighborsClassifier(2, algorithm="kd_tree").fit(X, Y),
    "a loss in Cython": SGDClassifier(random_state=0).fit(X, Y),
    "a loss of one number": TweedieRegressor().fit(X, Y + 1.0),
    "an array with a mask": np.ma.array([1, 2], mask=[False, True]),
    "a polynomial": np.polynomial.Polynomial([1, 2]),
    "functions of numpy": [np.add, np.mean, np.linalg.norm, np.random.rand, np.float32],
    "functions of torch": [torch.relu, torch.select, torch.nn.functional.gelu, torch.nn.init.ones_],
    "functions of Python": [len, max, sum, print, str.upper, itemgetter(1), partial(print, end="")],
    "times in zones": [
        datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        datetime(2026, 1, 1, tzinfo=UTC),
    ],
    "iterators": [iter([1, 2]), STARTED, iter(()), iter("ab"), iter({1: 2}), iter({3}), iter(range(4)), iter(b"ab")],
    "a logger": getLogger("x"),
    "an error": ValueError("x"),
    "a layer that waits for its width": torch.nn.LazyLinear(3),
    "an optimizer": torch.optim.Adam(torch.nn.Linear(2, 2).parameters()),
    "a recurrent layer": torch.nn.LSTM(2, 2),
    "torch's version": torch.__version__,
    "a device of another process": torch.distributed._remote_device("rank:1/cpu"),
    "a shard's memory format": MEM_FORMAT_ENCODING.TORCH_CONTIGUOUS_FORMAT,
    "an object of a class in a class": Outer.Inner(),
}


@pytest.mark.parametrize("value", OBJECTS.values(), ids=OBJECTS)
@pytest.mark.parametrize("protocol", [2, 5])
def test_an_object_of_a_library_is_no_call(value: Any, protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"w": X, "object": value}, protocol))
    found = ckptconv.inspect(path)
    assert [use.node.name for use in found.opaque if use.node.how == "called"] == []
    assert found.verdict in ("plain", "opaque")
