"""Many edits one after another: each costs as much as the names that it changes, and means what it means alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptconv.api.editing.state import State
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.composite import Sparse
from ckptconv.core.dtypes import DType
from ckptconv.core.edit import Edit, Step
from ckptconv.core.metadata import StateDict
from ckptconv.core.tensor import LazyTensor, TensorInfo, in_memory
from ckptconv.edits.apply import apply, apply_edit, label
from ckptconv.edits.ordered import OrderedMap
from ckptconv.errors import EditError
from tests.support.stopwatch import at_most

if TYPE_CHECKING:
    from ckptconv.core.edit import Kind

KINDS: list[Kind] = ["rename", "rename", "rename", "drop", "tie", "untie", "zeros", "concat", "split"]

PADDING = [f"padding.{i}" for i in range(24)]
"""Names that few edits touch, so that the others are replaced in their places, and the map is not made anew."""


def vector(length: int = 8, dtype: DType = DType.F32) -> LazyTensor:
    info = TensorInfo.of(dtype, (length,))
    return in_memory(info, bytes(info.nbytes))


@given(st.data())
def test_new_names_stand_where_the_old_ones_stood(data: st.DataObject) -> None:
    expected = [(name, 0) for name in [*"abcd", *PADDING]]
    names = OrderedMap(dict(expected))
    for number in range(1, data.draw(st.integers(2, 8))):
        there = [name for name, _ in expected if name not in PADDING]
        gone = {name for name in there if data.draw(st.booleans())}
        free = [name for name in "abcdefgh" if name in gone or name not in there]
        made_at: dict[str, dict[str, int]] = {}
        for name in data.draw(st.lists(st.sampled_from(free), unique=True, max_size=3) if free else st.just([])):
            made_at.setdefault(data.draw(st.sampled_from([*there, PADDING[5]])), {})[name] = number
        names.replace(gone, made_at)
        expected = [
            item
            for name, value in expected
            for item in (*([] if name in gone else [(name, value)]), *made_at.get(name, {}).items())
        ]
        names.update({"padding.3": number})
        expected = [(name, number if name == "padding.3" else value) for name, value in expected]
        assert list(names.items()) == expected
    names.update({"last": 1})
    names.remove({"padding.3"})
    assert list(names) == [*(name for name, _ in expected if name != "padding.3"), "last"]


@st.composite
def edits(draw: st.DrawFn) -> Edit:
    """An edit of names a to f; some have patterns, and some cannot be made."""
    kind = draw(st.sampled_from(KINDS))
    names = st.sampled_from("abcdef")
    count = 2 if kind == "concat" else 1
    sources = draw(st.lists(names | st.sampled_from(["{*}c", "padding.1{*}"]), min_size=count, max_size=count))
    count = {"drop": 0, "split": 2}.get(kind, 1)
    targets = draw(st.lists(names | st.just("{*}d"), min_size=count, max_size=count))
    return Edit(kind, tuple(sources), tuple(targets))


@given(st.lists(edits(), max_size=12))
def test_edits_do_together_what_they_do_one_by_one(edits: list[Edit]) -> None:
    start = {name: vector() for name in [*"abcd", *PADDING]}
    by_one = start
    possible: list[Edit] = []
    for edit in edits:
        alone = OrderedMap(by_one)
        try:
            apply_edit(alone, edit, label(edit, len(possible) + 1))
        except EditError as error:
            with pytest.raises(EditError) as caught:
                apply(start, [*possible, edit])
            assert (str(caught.value), caught.value.details) == (str(error), error.details)
        else:
            by_one = dict(alone)
            possible.append(edit)
    together = apply(start, possible)
    assert [(name, t.info) for name, t in together.items()] == [(name, t.info) for name, t in by_one.items()]


def sparse(name: str) -> Sparse:
    return Sparse({"values": f"{name}.values", "indices": f"{name}.indices"}, (9,), DType.F32, "sparse_coo")


def state_of(count: int) -> State:
    """`count` sparse tensors, each of two parts, and as many tensors outside of the state_dict."""
    composites = {f"s.{i}": sparse(f"s.{i}") for i in range(count)}
    tensors = {part: vector() for whole in composites.values() for part in whole.parts.values()}
    extras = {f"extra.{i}": vector() for i in range(count)}
    return State.of(Checkpoint(tensors, extras=extras, composites=composites, root=StateDict()), (), ())


def test_thousands_of_rules_take_no_quadratic_time() -> None:
    count = 3000
    state = state_of(count)
    with at_most(3):  # usually 0.3; 60 if each edit looked at all tensors
        for i in range(count):
            for role in ("values", "indices"):
                state.apply(Edit("rename", (f"s.{i}.{role}",), (f"t.{i * 7 % count}.{role}",)), "edit")
            names = (f"extra.{i}",), (f"copy.{i}",)
            state.apply(Edit("tie", *names, {"new": True}, (Step(*names),)), "edit")
    assert list(state.composites) == [f"t.{i * 7 % count}" for i in range(count)]
    assert list(state.tensors)[-1] == f"copy.{count - 1}"
    assert state.origins["t.7.indices"] == ("s.1.indices",)


def test_two_composites_do_not_come_to_have_one_name() -> None:
    state = state_of(2)
    with pytest.raises(EditError, match="two tensors would have one name") as caught:
        state.apply(Edit("rename", ("s.0.values",), ("s.1",)), "edit 1")
    assert caught.value.details == ("'s.1'",)
    assert caught.value.hint
