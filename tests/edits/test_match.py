"""Which names belong together: by a prefix, by likeness, by a substitution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from ckptconv.arch.check import fits
from ckptconv.edits.match import (
    find_prefix,
    likeness,
    numbered_blocks,
    numbers_in,
    pair_renames,
    skeleton,
    substitutions,
)
from tests.support.stopwatch import at_most

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = st.lists(st.sampled_from(["a", "b", "10", "2", "layers", "weight", "x.y"]), min_size=1, max_size=4).map(
    ".".join
)


def test_a_prefix_that_was_put_on_is_found() -> None:
    prefix = find_prefix(["a.weight", "b.weight"], ["module.a.weight", "module.b.weight"])
    assert prefix is not None
    assert (prefix.found, prefix.expected) == ("module.", "")
    assert prefix.pairs == (("module.a.weight", "a.weight"), ("module.b.weight", "b.weight"))


def test_a_prefix_that_was_taken_off_is_found() -> None:
    prefix = find_prefix(["model.a.weight", "model.b.weight"], ["a.weight", "b.weight"])
    assert prefix is not None
    assert (prefix.found, prefix.expected) == ("", "model.")
    assert prefix.pairs == (("a.weight", "model.a.weight"), ("b.weight", "model.b.weight"))


def test_a_prefix_of_fewer_than_half_is_none() -> None:
    assert find_prefix(["a.w", "b.w", "c.w"], ["m.a.w", "x.y", "z"]) is None
    assert find_prefix([], []) is None


@given(st.sets(NAMES, min_size=1), st.sampled_from(["module.", "a.b.", "net.0."]))
def test_every_pair_of_a_prefix_differs_by_it_alone(names: set[str], word: str) -> None:
    prefix = find_prefix(names, {word + name for name in names} - names)
    if prefix is not None:
        assert all(prefix.expected + found.removeprefix(prefix.found) == wanted for found, wanted in prefix.pairs)


def test_names_of_the_same_layer_are_paired() -> None:
    expected = {f"layers.{i}.norm.weight": (4,) for i in range(12)}
    found = {f"layers.{i}.norm.gamma": (4,) for i in range(12)}
    assert pair_renames(expected, found, fits) == [
        (f"layers.{i}.norm.gamma", f"layers.{i}.norm.weight") for i in range(12)
    ]


def test_names_are_paired_by_shape_first() -> None:
    pairs = pair_renames({"fc.weight": (3, 2), "fc.bias": (3,)}, {"fc.b": (3,), "fc.w": (3, 2)}, fits)
    assert pairs == [("fc.b", "fc.bias"), ("fc.w", "fc.weight")]


def test_the_most_alike_of_many_is_the_partner() -> None:
    expected = {f"attn.{x}.weight": (4, 4) for x in ("query", "key", "value")}
    found = {f"attn.{x}.weight": (4, 4) for x in ("value_proj", "query_proj", "key_proj")}
    assert {(a.replace("_proj", ""), b) for a, b in pair_renames(expected, found, fits)} == {(b, b) for b in expected}


def test_names_with_nothing_in_common_are_not_paired() -> None:
    assert not pair_renames({"encoder.attention.weight": (4,)}, {"zzz": (4,)}, fits)


@given(
    st.dictionaries(NAMES, st.tuples(st.integers(1, 2)), max_size=8),
    st.dictionaries(NAMES, st.tuples(st.integers(1, 2)), max_size=8),
)
def test_each_name_has_one_partner_at_most_and_their_shapes_fit(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> None:
    pairs = pair_renames(expected, found, fits)
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs)
    assert all(found[a] == expected[b] for a, b in pairs)


def test_renames_of_one_kind_are_one_substitution_the_commonest_first() -> None:
    pairs = [("a.w", "a.weight"), *((f"layers.{i}.gamma", f"layers.{i}.weight") for i in range(3))]
    first, second = substitutions(pairs)
    assert (first.found, first.expected, len(first.pairs)) == ("gamma", "weight", 3)
    assert (second.found, second.expected, second.pairs) == ("w", "weight", (("a.w", "a.weight"),))


def test_numbers_that_stay_the_same_are_left_open_in_a_substitution() -> None:
    (change,) = substitutions([(f"layer_{i}.w", f"layers.{i}.w") for i in range(3)])
    assert (change.found, change.expected) == ("layer_{}", "layers.{}")


def test_likeness_is_that_of_a_name_with_itself_at_most() -> None:
    assert likeness("a.b.weight", "a.b.weight") == 1.2
    assert likeness("a.b.weight", "a.c.weight") > likeness("a.b.weight", "x.y.bias")


def test_stacks_are_counted_by_number() -> None:
    blocks = numbered_blocks(["layers.0.w", "layers.0.b", "layers.1.w", "0.3.w", "fc1.weight", "x.01.w", "end.2"])
    assert blocks == {"layers.": {0: 2, 1: 1}, "": {0: 1}, "0.": {3: 1}}
    assert numbers_in("model.layers.3.experts.12.w") == [("model.layers.", 3), ("model.layers.3.experts.", 12)]
    assert skeleton("layers.10.w2") == "layers.{}.w{}"


def test_hostile_names_are_compared_in_bounded_time() -> None:
    with at_most(2):
        expected = {"a." * 20_000 + f"x{i}": (1,) for i in "abc"}
        found = {"b." * 20_000 + f"y{i}": (1,) for i in "abc"}
        pair_renames(expected, found, fits)
        find_prefix(list(expected), list(found))
        numbered_blocks(["9" * 100_000 + ".w", "1." * 20_000])
