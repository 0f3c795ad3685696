"""Metadata as text: with its types, and cut where it grows long."""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from datetime import datetime, time

import pytest

from ckptconv.cli.text.metadata import entries, shortened, spelled
from ckptconv.core.metadata import NumpyArray, NumpyScalar, Opaque, TensorRef, TorchSize, TorchValue


@pytest.mark.parametrize(
    ("node", "text"),
    [
        ((1,), "(1,)"),
        ([], "[]"),
        (set(), "set()"),
        (frozenset({1}), "frozenset({1})"),
        (OrderedDict(a=1), "OrderedDict({'a': 1})"),
        (Counter("aa"), "Counter({'a': 2})"),
        (defaultdict(list, {1: [2]}), "defaultdict(list, {1: [2]})"),
        (TorchSize((1, 2)), "torch.Size([1, 2])"),
        (TorchValue("dtype", "float32"), "torch.float32"),
        (NumpyScalar("<f4", b"\0\0\xc0\x3f"), "numpy.float32(1.5)"),
        (NumpyArray("<i2", (2,), b"\1\0\2\0"), "numpy.array(int16, shape [2]: 1, 2)"),
        (NumpyScalar("nonsense", b"12"), "<numpy nonsense, 2 bytes>"),
        ({"m": TensorRef("a"), "v": [TensorRef("b")]}, "<2 tensors>"),
        (TensorRef("a\n"), r"<tensor a\n>"),
        (Opaque("m.C", "named"), "<m.C>"),
        (Opaque("m.f", "called", (1, "x"), {"k": None}), "m.f(1, 'x', k=None)"),
        (Opaque("m.C", "object", state={"a": 1}), "<m.C with state {'a': 1}>"),
        (Opaque("m.C", "constructed", (1,), items=[2], pairs=[(3, 4)]), "m.C(1) with items [2] with {3: 4}"),
        (Opaque("m.C", "enclosing", ("a.b",)), "<the enclosing a.b>"),
        (Opaque("m.C", "enclosing", ("",)), "<the enclosing object>"),
        (Opaque("datetime.date", "constructed", (b"\x07\xcf\x0c\x1f",)), "datetime.date(1999, 12, 31)"),
        (Opaque("datetime.date", "constructed", (b"\x07",)), "datetime.date(b'\\x07')"),
        (
            Opaque("datetime.datetime", "constructed", (datetime(2026, 1, 2, 3, 4, 5, 678).__reduce__()[1][0], None)),
            "datetime.datetime(2026, 1, 2, 3, 4, 5, 678, None)",
        ),
        (
            Opaque("datetime.time", "constructed", tuple(time(23, 59, fold=1).__reduce_ex__(4)[1])),
            "datetime.time(23, 59, 0, 0)",
        ),
        (float("nan"), "nan"),
        (-0.0, "-0.0"),
        (True, "True"),
    ],
)
def test_metadata_is_spelled_with_its_type(node: object, text: str) -> None:
    assert spelled(node) == text


def test_a_huge_value_costs_no_more_than_what_is_shown() -> None:
    for node in ([0] * 10**6, "x" * 10**7, b"x" * 10**7, 1 << 10**6, dict.fromkeys(range(10**6))):
        assert len(spelled(node)) < 300_000
        assert len(shortened(spelled(node), node)) < 140


def test_long_containers_are_opened_and_say_how_much_is_left() -> None:
    lines = entries({"config": {f"key{i}": i for i in range(50)}, "widths": list(range(100))})
    assert lines[0] == "config  dict of 50 items"
    assert lines[1].split() == ["key0", "0"]
    assert "… and 30 more" in lines[21]
    assert lines[-1].endswith("… (100 items)")


def test_lists_are_opened_where_there_are_containers_in_them() -> None:
    lines = entries({"groups": [{"lr": 0.1, "names": "x" * 80}, {"lr": 0.2}], "widths": list(range(40))})
    assert lines[0] == "groups  list of 2 items"
    assert [line.split()[0] for line in lines] == ["groups", "0", "lr", "names", "1", "widths"]
    assert lines[-1].startswith("widths  [0, 1, 2")


def test_values_of_metadata_stand_in_a_column_beside_keys_as_long_as_a_ggufs() -> None:
    keys = ("general.name", "llama.attention.layer_norm_rms_epsilon")
    lines = entries(dict.fromkeys((*keys, "x" * 90), 1))
    assert [line.index(" 1") for line in lines] == [39, 39, 91]
