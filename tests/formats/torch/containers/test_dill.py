"""dill's files: it pickles every array by a call of its own function, and builtin classes by their names."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptconv
from tests.formats.torch.containers.test_bare import Named, as_others_dump

DILL = Path(__file__).parents[4] / "fixtures" / "others" / "dill"
RECONSTRUCT, ARGUMENTS, STATE = tuple(np.arange(3.0).__reduce__())


class Call:
    """Pickles as a call of one of dill's functions."""

    def __init__(self, function: str, *args: object) -> None:
        self.call = Named("dill._dill", function), args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


@pytest.mark.parametrize("file", ["arrays.dill", "pipeline.dill"])
def test_arrays_are_what_dill_loads(file: str) -> None:
    with np.load(DILL / "read.npz") as read:
        expected = {name.partition("|")[2]: read[name] for name in read if name.startswith(f"{file}|")}
    with ckptconv.open(DILL / file) as checkpoint:
        found = {name.rpartition(".")[2]: tensor.numpy() for name, tensor in checkpoint.items()}
    assert expected.keys() <= found.keys()
    for name, array in expected.items():
        assert found[name].shape == array.shape
        assert np.array_equal(found[name], array)
    assert ckptconv.inspect(DILL / file).verdict == "opaque"


def test_classes_are_values() -> None:
    with ckptconv.open(DILL / "arrays.dill") as checkpoint:
        values: Any = checkpoint.metadata["values"]
    assert values["lists"] == defaultdict(list)


@pytest.mark.parametrize(
    ("call", "verdict"),
    [
        (Call("_create_array", RECONSTRUCT, ARGUMENTS, STATE, None), "plain"),
        (Call("_create_array", RECONSTRUCT, ARGUMENTS, STATE, {"of": "a subclass"}), "would run code"),
        (Call("_create_array", Named("theirs", "function"), ARGUMENTS, STATE, None), "would run code"),
        (Call("_load_type", "list"), "opaque"),
        (Call("_load_type", "CodeType"), "would run code"),
        (Call("_create_type", list, ()), "would run code"),
    ],
)
def test_only_calls_that_make_data_are_followed(call: Call, verdict: str, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(as_others_dump({"w": np.ones(2), "x": call}, 4))
    assert ckptconv.inspect(tmp_path / "a.pkl").verdict == verdict
