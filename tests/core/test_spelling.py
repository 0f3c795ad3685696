"""The metadata tree as JSON: nothing lost, equal trees spelled alike, nonsense refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import pytest
from hypothesis import given, settings

from ckptconv.core.metadata import NumpyArray, NumpyScalar, Opaque, StateDict, TensorRef, TorchSize, TorchValue, walk
from ckptconv.core.spelling import canonical, dumps, from_json, same, to_json
from ckptconv.errors import LimitError
from ckptconv.testing.samples import METADATA as EVERYTHING
from tests.support.nodes import as_node, as_python, same_object
from tests.support.strategies import TYPED


@settings(max_examples=500)
@given(TYPED.map(as_node))
def test_every_tree_comes_back_through_json_text(node: object) -> None:
    text = dumps(to_json(node))
    text.encode("ascii")
    again = from_json(json.loads(text))
    assert same(again, node)
    assert same_object(as_python(again), as_python(node))


def test_one_of_everything_comes_back() -> None:
    assert same(from_json(json.loads(dumps(to_json(EVERYTHING)))), EVERYTHING)


DIFFERENT: list[Any] = [
    None, False, True, 0, 1, -1, 0.0, -0.0, 1.0, float("inf"), -float("inf"), float("nan"), 2**64, 2.0**64, 1j, 0j,
    complex(0, -0.0), "", "1", "null", b"", b"1", bytearray(b""), [], [0], [False], (), (0,), [()], set(), frozenset(),
    {1}, frozenset([1]), {}, {"a": 1}, {"a": 1.0}, {1: "a"}, {"1": "a"}, OrderedDict(), OrderedDict(a=1), Counter(),
    defaultdict(list), defaultdict(None), defaultdict(dict), TorchSize(), TorchSize((1,)), TorchValue("dtype", "int8"),
    TorchValue("device", "cpu"), TorchValue("device", "cuda"), TorchValue("layout", "strided"), TensorRef("a"),
    NumpyScalar("<f4", bytes(4)), NumpyScalar("<i4", bytes(4)), NumpyArray("<f4", (1,), bytes(4)), StateDict(),
    NumpyArray("<f4", (), bytes(4)), NumpyArray("<f4", (1, 1), bytes(4)), NumpyArray("<f4", (1, 1), bytes(4), True),
    StateDict(container="dict"), StateDict(prefix="a."), StateDict(plain=((0, "a", 1),)), StateDict(versions={}),
    Opaque("a.B", "named"), Opaque("a.B", "object"), Opaque("a.B", "object", (1,)), {"$": 1}, {"$int": "0x1"}, "\ud800",
    {"a": [1, {"b": None}]}, {(1, 2): 3}, {None: 1}, {True: 1}, {0.5: 1}, {b"a": 1},
]  # fmt: skip


def test_trees_that_differ_in_value_or_type_are_spelled_differently() -> None:
    spelled = [canonical(node) for node in DIFFERENT]
    assert len(set(spelled)) == len(spelled)
    assert all(same(from_json(to_json(node)), node) for node in DIFFERENT)


def test_the_order_of_a_plain_dict_or_a_set_does_not_count_and_that_of_an_ordered_one_does() -> None:
    assert same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert same({1: 1, "b": 2}, {"b": 2, 1: 1})
    assert same({1, 2, "x"}, {"x", 2, 1})
    assert same(Counter({"a": 1, "b": 2}), Counter({"b": 2, "a": 1}))
    assert not same(OrderedDict(a=1, b=2), OrderedDict(b=2, a=1))


def test_the_spelling_does_not_depend_on_the_hash_seed() -> None:
    program = (
        "from ckptconv.testing.samples import METADATA; from ckptconv.core.spelling import dumps, to_json;"
        "print(dumps(to_json(METADATA)))"
    )
    texts = {
        subprocess.run(
            [sys.executable, "-c", program], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(texts) == 1


MALFORMED = [
    {"$nope": 1}, {"$int": 5}, {"$int": "0xzz"}, {"$int": None}, {"$float": "00"}, {"$float": 1}, {"$complex": [1]},
    {"$bytes": "!"}, {"$bytes": 1}, {"$set": [[1]]}, {"$set": 3}, {"$dict": [[1]]}, {"$dict": [[[], 1]]}, {"$dict": 1},
    {"$tuple": 1}, {"$tuple": [], "a": 1}, {"a": 1, "$tuple": []}, {"$OrderedDict": {}, "b": 1}, {"$Counter": [1]},
    {"$defaultdict": ["os.system", []]}, {"$defaultdict": []}, {"$torch.Size": ["1"]}, {"$torch.Size": [True]},
    {"$torch.dtype": "a b"}, {"$torch.dtype": 3}, {"$torch.device": ""}, {"$numpy.scalar": ["O", ""]},
    {"$numpy.scalar": ["<f4", "AA=="]}, {"$numpy.array": ["<f4", [1], "C", ""]},
    {"$numpy.array": ["<f4", [0], "X", ""]},
    {"$numpy.array": ["<f4", [-1], "C", ""]}, {"$numpy.array": ["|O", [0], "C", ""]}, {"$stored": ["a", 3]},
    {"$stored": [1, {"$bytes": ""}]}, {"$tensor": 1}, {"$state_dict": {"x": 1}}, {"$state_dict": {"type": "list"}},
    {"$state_dict": {"plain": [[1]]}}, {"$state_dict": {"prefix": 1}}, {"$opaque": {}},
    {"$opaque": {"class": "a", "how": "x"}}, {"$opaque": {"class": 1, "how": "named"}}, {"$": 1},
]  # fmt: skip


@pytest.mark.parametrize("document", MALFORMED, ids=map(str, MALFORMED))
def test_what_we_never_write_is_refused(document: object) -> None:
    with pytest.raises(ValueError):
        from_json(document)
    with pytest.raises(ValueError):
        from_json([{"k": document}])


def test_an_int_of_any_length_is_spelled_in_linear_time() -> None:
    number = 7**400_000
    assert from_json(json.loads(dumps(to_json(number)))) == number
    assert from_json(json.loads(dumps(to_json(-number)))) == -number


@pytest.mark.parametrize("key", [10**4_400, (1, (10**4_400,))], ids=["int", "tuple"])
def test_an_int_of_any_length_is_no_key(key: object) -> None:
    with pytest.raises(LimitError, match="digits"):
        from_json({"$dict": [[to_json(key), 1]]})


def test_walk_visits_every_node_with_its_path() -> None:
    tree = {"a": [1, {"b": (2,)}], "o": Opaque("x.Y", "object", ("arg",), {"k": 3}, [4])}
    paths = {path: node for path, node in walk(tree) if not isinstance(node, (dict, list, tuple, Opaque))}
    assert paths == {
        ("a", 0): 1, ("a", 1, "b", 0): 2, ("o", "args[0]"): "arg", ("o", "k"): 3, ("o", "state", 0): 4,
    }  # fmt: skip
