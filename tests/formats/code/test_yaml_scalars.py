"""Values of YAML are told however they are written; PyYAML says that they are the same."""

from __future__ import annotations

import time

import pytest
import yaml  # type: ignore[import-untyped]

from ckptconv.formats.beside.settings import programs_in
from ckptconv.formats.code.yaml_scalars import HIDDEN, Scalars

SAME = {
    "plain": "a: {_target_: os.system}",
    "quoted": 'a: {"_target_" : "os.system"}',
    "spaces": "a:\n  _target_: ' os.system'",
    "escaped": 'a:\n  _target_: "os\\\n    .system"',
    "the next line": "a:\n  _target_:\n    os.system",
    "behind a comment": "a:\n  _target_: # x: y\n    # z\n    os.system",
    "folded": "a:\n  _target_: >-\n    os.system",
    "a block": "a:\n  _target_: |2- # x\n    os.system",
    "an anchor": "a:\n  _target_: &x os.system",
    "a tag": "a:\n  _target_: !!str os.system",
    "a tag in full": "a:\n  _target_: !<tag:yaml.org,2002:str> 'os.system'",
    "an anchor and a tag": "a:\n  _target_: &x !!str\n    os.system",
    "an alias": "b: &x !!str os.system\na:\n  _target_: *x",
    "a key of its own": "a:\n  ? _target_\n  : os.system",
    "a key with a comment": "a:\n  ? !!str _target_ # x\n  : os.system",
    "a key by an alias": "k: &k _target_\na:\n  *k : os.system",
    "merged": "b: &x {_target_: os.system}\na:\n  <<: *x",
}  # fmt: skip


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_a_target_is_found_however_it_is_written(text: str) -> None:
    assert yaml.safe_load(text)["a"]["_target_"].strip() == "os.system"
    assert [(one.node.name, one.node.how) for one in programs_in("x.yaml", text, ())] == [("os.system", "called")]


def test_what_is_put_together_is_reported() -> None:
    told = [one.node for one in programs_in("x.yaml", "b: os.system\na:\n  _target_: ${b}\n", ())]
    assert {(one.name, one.how) for one in told} == {("${b}", "object"), ("os.system", "called")}
    (part,) = programs_in("x.yaml", "b: os\na:\n  _target_: ${b}.system\n", ())
    assert part.node.how == "object"


def test_more_than_yaml_has_before_a_value_is_reported() -> None:
    assert [value for _, value, _ in Scalars("name: &a !b &c !d &e x").values_of("name")] == [HIDDEN]
    assert [value for _, value, _ in Scalars(f"name: !{'a' * 300} x").values_of("name")] == [HIDDEN]


ALIKE = ("name: # ", "&a", "name: &a ", "name: *a ", "&a name ", "#\nname:", "name:!", 'name:"', "target: os.x\n")


@pytest.mark.parametrize("part", ALIKE)
def test_the_time_is_linear(part: str) -> None:
    text = part * (200_000 // len(part))
    start = time.process_time()
    for _ in programs_in("x.yaml", f"pipeline: {text}", ()):
        pass
    assert time.process_time() - start < 20  # of quadratic time minutes


@pytest.mark.parametrize(
    "text",
    [
        "names: f(x)", 'names: "f(x)"', "names: !!str 'f(x)'", "names: &a f(x)", "names: >-\n  f(x)\n", "'names': f(x)",
        "other: &a f(x)\nnames: *a\nnext: 1", "names: |\n  f(x)\nnext: 1", "names: # which\n  f(x)",
        "{names: 'f(x)', next: 1}", "{other: 1, names: &a 'f(x)'}", "  names: f(x)",
    ],
)  # fmt: skip
def test_a_text_behind_a_key_is_found_however_it_is_written(text: str) -> None:
    assert yaml.safe_load(text)["names"].strip() == "f(x)"
    assert [said for said, _ in Scalars(text).texts_of("names")] == ["f(x)"]


def test_a_text_over_several_lines_is_one_line_and_another_key_ends_it() -> None:
    assert [said for said, _ in Scalars("names: f(\n  x)\nnext: g(y)").texts_of("names")] == ["f( x)"]
    assert [said for said, _ in Scalars("said: 'the names: f(x)'").texts_of("names")] == []
    assert [said for said, _ in Scalars("names: !a !b !c !d !e f(x)").texts_of("names")] == [HIDDEN]


@pytest.mark.parametrize("text", ["names: *a\nb: &a f(x)\n", "{names: ", "names: >-\n  f(\n", "names: &a x\n"])
def test_texts_of_many_keys_take_linear_time(text: str) -> None:
    started = time.process_time()
    assert len(list(Scalars(text * 20_000).texts_of("names"))) <= 20_200
    assert time.process_time() - started < 5
