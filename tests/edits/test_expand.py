"""Which tensors the patterns of rules mean."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptconv.core.edit import Edit, Step
from ckptconv.edits.expand import match, steps_of
from ckptconv.edits.rules import parse_rules
from ckptconv.errors import CorruptFileError, EditError
from tests.support.stopwatch import at_most

NAMES = [f"h.{i}.{part}.w" for i in range(11) for part in "qkv"]


@given(
    pattern=st.lists(st.sampled_from(["{*}", "a", ".", "ab", "{", "*"]), max_size=6).map("".join),
    name=st.text("ab.{*}", max_size=12),
)
def test_a_pattern_is_the_regular_expression_of_least_texts(pattern: str, name: str) -> None:
    found = re.fullmatch("(.*?)".join(map(re.escape, pattern.split("{*}"))), name)
    assert match(pattern, name) == (found.groups() if found else None)


def test_a_hostile_pattern_takes_no_time() -> None:
    with at_most(1):
        assert match("a{*}" * 200 + "b", "a" * 20_000) is None


def steps(kind: str, sources: list[str], targets: list[str], names: list[str] = NAMES) -> tuple[Step, ...]:
    return steps_of(Edit(kind, tuple(sources), tuple(targets)), names, "edit 1")  # type: ignore[arg-type]


def test_a_list_of_numbers_moves_layers_all_at_once() -> None:
    found = steps("rename", ["h.{4-6,10}.{*}"], ["h.{3-6}.{*}"])
    assert Step(("h.5.k.w",), ("h.4.k.w",)) in found
    assert Step(("h.10.q.w",), ("h.6.q.w",)) in found
    assert len(found) == 12


def test_a_list_of_numbers_is_what_is_stacked() -> None:
    (first, *_) = found = steps("stack", ["h.{0-10}.{*}.w"], ["all.{*}"])
    assert first == Step(tuple(f"h.{i}.q.w" for i in range(11)), ("all.q",))
    assert [step.targets for step in found] == [("all.q",), ("all.k",), ("all.v",)]
    (one,) = steps("unstack", ["x"], ["h.{0-2}.w"], ["x"])
    assert one == Step(("x",), ("h.0.w", "h.1.w", "h.2.w"))


def test_a_glob_in_a_rule_gets_a_hint_on_how_it_is_written() -> None:
    with pytest.raises(EditError) as caught:
        steps("rename", ["h.*"], ["x"])
    assert "{*}" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("kind", "sources", "targets", "words", "details"),
    [
        ("rename", ["g.{*}"], ["{*}"], "'g.{*}' matches no tensor", []),
        ("rename", ["h.{9-12}.{*}"], ["h.{0-3}.{*}"], "matches no tensor", ["'h.11.{*}'", "'h.12.{*}'"]),
        ("concat", ["{*}.q.w", "{*}.z.w"], ["{*}"], "a part of its sources alone", ["'h.0.z.w'", "'h.1.z.w'"]),
        ("concat", ["h.0.{*}.w", "h.1.{*}"], ["x.{*}"], "there is no 'h.1.q'", ["'h.1.q'", "'h.1.k'"]),
        ("concat", ["h.1.q.w", "{*}.k.w"], ["x"], "more {*} than", []),
        ("rename", ["h.{0-3}.{*}"], ["h.{0-1}.{*}"], "different lengths", []),
        ("rename", ["h.{0-999999999}.{*}"], ["x"], "stands for no numbers", []),
        ("rename", ["h.{3-1}.{*}"], ["x"], "stands for no numbers", []),
        ("rename", ["h.{1-2}.{3-4}"], ["x"], "more than one list", []),
    ],
)
def test_a_rule_that_finds_nothing_or_a_part_lists_names(
    kind: str, sources: list[str], targets: list[str], words: str, details: list[str]
) -> None:
    with pytest.raises(EditError) as caught:
        steps(kind, sources, targets)
    assert words in caught.value.message
    assert caught.value.details[: len(details)] == tuple(details)


def test_a_part_that_is_left_over_is_listed() -> None:
    with pytest.raises(EditError, match="leaves a part") as caught:
        steps("concat", ["{*}.q.w", "{*}.k.w"], ["{*}.qk.w"], ["a.q.w", "a.k.w", "b.k.w"])
    assert caught.value.details == ("'b.k.w'",)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"edits": [], "edits": []}', "comes twice"),
        ("edit = []", "it has a key 'edit'"),
        ('{"schema": 2, "edits": []}', "its schema is 2"),
        ("[[edits]]\nkind = ['drop']\nsources = 'a'", "no kind ['drop']"),
        ("[[edits]]\nkind = 'permute'\nsources = 'a'\naxis = 0\nsize = [2]", "permute has no 'size'"),
    ],
)
def test_a_document_that_means_something_else_is_refused(text: str, words: str) -> None:
    with pytest.raises(CorruptFileError) as caught:
        parse_rules(text.encode())
    assert words in caught.value.message
