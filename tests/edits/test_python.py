"""Edits as lines of Python: run on a state_dict, each does what it says and touches nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptconv.edits.python import drops, python, renames, single

if TYPE_CHECKING:
    from collections.abc import Iterable

PARTS = st.sampled_from(["a", "aa", "b", "0", "10", "gamma", "weight", "it's", "\\d", '"', "a\n"])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map(".".join)


def run(line: str | None, names: Iterable[str]) -> dict[str, str]:
    assert line is not None
    assert "\n" not in line
    scope: dict[str, Any] = {"state_dict": {name: name for name in names}}
    exec(line, scope)
    return scope["state_dict"]


def renamed(pairs: Iterable[tuple[str, str]], names: Iterable[str]) -> dict[str, str]:
    wanted = dict(pairs)
    return {wanted.get(name, name): name for name in names}


@given(
    st.sets(NAMES, max_size=12),
    st.sampled_from([("gamma", "weight"), ("a", "b"), ("a.", "b.a."), ("0", "layer.0"), ("b.", ""), ("", "module.")]),
)
def test_a_rename_gives_every_name_its_new_one_and_leaves_the_others(names: set[str], change: tuple[str, str]) -> None:
    old, new = change
    pairs = [(name, name.replace(old, new, 1) if old else new + name) for name in sorted(names)]
    pairs = [(a, b) for a, b in pairs if a != b and b and b not in names]
    if pairs and len({b for _, b in pairs}) == len(pairs):
        assert run(python(renames(pairs), names), names) == renamed(pairs, names)


@given(st.sets(NAMES, min_size=1, max_size=12), st.data())
def test_dropping_leaves_the_others(names: set[str], data: st.DataObject) -> None:
    gone = data.draw(st.lists(st.sampled_from(sorted(names)), min_size=1, unique=True))
    left = run(python(drops(gone), names), names)
    assert left == {name: name for name in names if name not in gone}


@pytest.mark.parametrize(
    ("pairs", "others", "line"),
    [
        ([(f"m.{x}", x) for x in "abcd"], [], "name.removeprefix('m.')"),
        ([(x, f"m.{x}") for x in "abcd"], [], "'m.' + name"),
        ([(f"l.{x}", f"m.l.{x}") for x in "abcd"], ["head"], "'m.' + name if name.startswith('l.') else name"),
        ([(f"l.{i}.gamma", f"l.{i}.weight") for i in range(5)], ["head"], "name.replace('gamma', 'weight')"),
        ([(f"l.{i}.g", f"l.{i}.w") for i in range(5)], ["big.g_x"], r"re.sub(r'\b(\d+)\.g\b', r'\g<1>.w', name)"),
        ([(f"l_{i}.w", f"l.{i}.w") for i in range(5)], [], r"re.sub(r'\bl_(\d+)\b', r'l.\g<1>', name)"),
    ],
)  # fmt: skip
def test_many_renames_are_one_expression(pairs: list[tuple[str, str]], others: list[str], line: str) -> None:
    names = [*(a for a, _ in pairs), *others]
    text = python(renames(pairs), names)
    assert run(text, names) == renamed(pairs, names)
    assert line in str(text)


def test_a_line_that_would_be_too_long_is_none() -> None:
    pairs = tuple((f"a{i * i}", f"b{i + 1}") for i in range(30))
    assert python(renames(pairs), [a for a, _ in pairs]) is None


def test_short_edits_are_spelled_as_one_would() -> None:
    assert python(single("transpose", "w", axes=[1, 0])) == "state_dict['w'] = state_dict['w'].T.contiguous()"
    assert (
        python(renames([("a", "b"), ("b", "a")]))
        == "state_dict['a'], state_dict['b'] = state_dict['b'], state_dict['a']"
    )
    assert python(single("tie", "b", "a")) == "state_dict['a'] = state_dict['b']"
