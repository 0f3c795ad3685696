"""Specs: every mistake is refused with its line and key; mounts, variants and the published schema."""

from __future__ import annotations

import json
import tomllib
from importlib import resources
from typing import TYPE_CHECKING

import pytest

from ckptconv.arch.bind import from_config, is_for
from ckptconv.arch.check import check
from ckptconv.arch.load import library_names, library_text, load_spec, parse_text
from ckptconv.arch.solver import solve
from ckptconv.arch.table import Expected, expand
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import CorruptFileError, LimitError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

HEAD = 'spec = 1\nname = "x"\n'


@pytest.mark.parametrize(
    ("body", "line", "said", "hint"),
    [
        ('[params]\nwidth = "itn"', 4, '[params] "width": no type', "'int'"),
        ('[params]\nwidth = { type = "int", defualt = 3 }', 4, '"defualt": unknown key', "'default'"),
        ('[tensor]\n"w" = "1"', 3, '"tensor": unknown key', "'tensors'"),
        ('[tensors]\n\n"w" = "widht"', 5, "no param, let or loop 'widht'", None),
        ('[params]\nwidth = "int"\n[tensors]\n"w" = "widht"', 6, "no param, let or loop 'widht'", "'width'"),
        ('[tensors]\n"w" = "1 +"', 4, "column 4", None),
        ('[tensors]\n"w.{i" = "1"', 4, "a brace without its partner", None),
        ('[tensors]\n"w" = { optional = true }', 4, "needs a shape", None),
        ('[tensors]\n"w" = { shape = "1", dtype = "F33" }', 4, "no element type 'F33'", "'F32'"),
        ('[tensors]\n"w" = 3', 4, "expected a table, found an integer", None),
        ('[repeat]\ni = "3"\n[tensors]\n"w" = "i"', 6, "uses the loop 'i'", None),
        ('[repeat]\nj = "i"\ni = "3"\n[tensors]\n"w{i}.{j}" = "1"', 4, "not declared before it", None),
        ('[repeat]\ni = "3"\nj = "i"\n[tensors]\n"w{j}" = "1"', 7, "depends on 'i'", None),
        ('[repeat]\ni = "3"\n[tensors]\n"w{i}{i}" = "1"', 6, "two numbers", None),
        ('[params]\na = "str"\nb = "str"\n[tensors]\n"{a}.{b}" = "1"', 7, "two texts", None),
        ('[params]\na = "int"\n[let]\na = "3"', 6, "two meanings", None),
        ('[params]\nlen = "int"', 4, "no word of the language", None),
        ('[params]\na = { type = "int", default = 1.5 }', 4, "the default is not of type int", None),
        ('[params]\na = { type = "str", choices = ["x"], default = "y" }', 4, "none of the choices", None),
        ('[let]\na = "b"\nb = "a"', 4, "defined by itself: a → b → a", None),
        ('[constraints]\n"even" = "1 +"', 4, "column 4", None),
        ('[variants.a.tensors]\n"w" = "q"', 4, "'q'", None),
        ('[mount.m]\nuse = "nothing"', 3, "no architecture 'nothing'", None),
        ('[mount.m]\nuse = "mlp"\nset = { wrong = "1" }', 3, "no param 'wrong'", None),
        ('[config.params]\nq = "1"', 4, "'q'", None),
        ('[params]\na = "ints"\n[config.params]\na = { for = "i", each = "i" }', 6, "needs for, to and each", None),
        ('[params]\na = "ints"\n[config.params]\na = { for = "in", to = "3", each = "1" }', 6, "no word", None),
        ('[params]\na = "ints"\n[config.params]\na = { for = "i", to = "3 +", each = "i" }', 6, "column 4", None),
        ('[params]\na = "ints"\n[config.params]\na = { form = "i" }', 6, "unknown key", "'for'"),
        ('[config]\ndefaults = 3', 4, "expected a table", None),
        ('[repeat]\ni = "3"\n[tensors]\n"w{i}0" = "1"', 6, "nothing but digits", None),
        ('[evidence]\nyields = ["a"]', 4, "unknown key", "'yields_to'"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_line_and_key(body: str, line: int, said: str, hint: str | None) -> None:
    with pytest.raises((CorruptFileError, UsageError)) as caught:
        parse_text(HEAD + body)
    assert f"line {line}, " in str(caught.value)
    assert said in str(caught.value)
    assert hint is None or hint in str(caught.value.hint)


LOOPED = (
    HEAD
    + """
[params]
depths = "ints"
widths = "ints"
heads  = "int"
[config.params]
depths = { for = "level", to = "len(types)", each = ["[2, 2][:layers] if types[level] == 'deep' else [1]", "0"] }
widths = { for = "level", to = "count", each = "wide[level]" }
heads  = "n_head*2"
[config.defaults]
n_head = 4
types  = ["deep"]
"""
)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"types": ["deep", "flat"], "layers": 2}, {"depths": [2, 2, 1], "heads": 8}),
        ({"types": ["deep", "flat"]}, {"depths": [0, 1], "heads": 8}),
        ({"n_head": None, "layers": 1}, {"depths": [2], "heads": 8}),
        ({"n_head": 5, "types": 3}, {"heads": 10}),
        ({"count": 2, "wide": [7, 8, 9]}, {"widths": [7, 8], "depths": [0], "heads": 8}),
        ({"count": 4, "wide": [7, 8, 9]}, {"depths": [0], "heads": 8}),
        ({"count": 2, "wide": [[1, 2], [3, "x"]]}, {"depths": [0], "heads": 8}),
        ({"count": 2, "wide": [[1, 2], [3]]}, {"widths": [1, 2, 3], "depths": [0], "heads": 8}),
        ({"count": -1}, {"widths": [], "depths": [0], "heads": 8}),
    ],
)
def test_a_loop_over_a_configuration_states_a_list(config: dict[str, object], said: dict[str, object]) -> None:
    stated = from_config(parse_text(LOOPED), config)
    assert (dict(stated.values), stated.findings) == (said, ())


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({}, True),
        ({"mixed": False, "body": None}, True),
        ({"mixed": True}, False),
        ({"body": {"kind": "deep"}}, False),
        ({"mixed": False, "body": {"kind": "flat"}}, True),
        ({"body": 3}, True),
    ],
)
def test_a_configuration_with_an_option_that_the_spec_lacks_is_not_for_it(
    config: dict[str, object], fits: bool
) -> None:
    text = HEAD + """[config]\nwhen = ["not mixed", "body.kind != 'deep'"]\n"""
    assert is_for(parse_text(text), config) is fits


def test_a_loop_that_says_nothing_leaves_its_name_to_the_configuration() -> None:
    text = LOOPED.replace('"n_head*2"', '"level"')
    stated = from_config(parse_text(text), {"count": 2, "wide": [1], "level": 9})
    assert dict(stated.values) == {"depths": [0], "heads": 9}


def test_a_configuration_cannot_ask_for_more_turns_than_a_list_has_items() -> None:
    with pytest.raises(LimitError, match="turns"):
        from_config(parse_text(LOOPED), {"count": 1 << 62, "wide": []})


def test_text_that_is_not_toml_names_its_line() -> None:
    with pytest.raises(CorruptFileError, match="line 3"):
        parse_text(HEAD + "[params\n")


def test_a_newer_language_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="version 2"):
        parse_text('spec = 2\nname = "x"')


def test_a_file_is_named_in_its_error(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(HEAD + '[tensors]\n"w" = "widht"')
    with pytest.raises(CorruptFileError) as caught:
        load_spec(path)
    assert caught.value.path == path


def info_of(entry: Expected) -> TensorInfo:
    return TensorInfo.of(DType.F32, tuple(size for size in entry.shape if size is not None))


def test_a_mounted_spec_keeps_its_own_params_under_its_alias(tmp_path: Path) -> None:
    (tmp_path / "block.toml").write_text(
        'spec = 1\nname = "block"\n[params]\nwidth = "int"\nlayers = "int"\nbias = { type = "bool", default = true }\n'
        '[repeat]\ni = "layers"\n[tensors]\n"h.{i}.w" = "width width"\n"h.{i}.b" = { shape = "width", when = "bias" }\n'
        '[constraints]\n"even" = "width % 2 == 0"\n'
    )
    (tmp_path / "pair.toml").write_text(
        HEAD + '[params]\nhidden = "int"\n[repeat]\nside = "2"\n'
        '[mount.text]\nuse = "block.toml"\nprefix = "text."\nset = { width = "2*hidden" }\n'
        '[mount.sides]\nuse = "block.toml"\nprefix = "side.{side}."\n'
        '[tensors]\n"join" = "hidden sides.width"\n'
    )
    spec = load_spec(tmp_path / "pair.toml")
    table = expand(spec, {"hidden": 3, "text.layers": 2, "text.bias": False, "sides.width": 4, "sides.layers": 1})
    assert {name: entry.shape for name, entry in table.tensors.items()} == {
        "join": (3, 4), "text.h.0.w": (6, 6), "text.h.1.w": (6, 6), "side.0.h.0.w": (4, 4), "side.0.h.0.b": (4,),
        "side.1.h.0.w": (4, 4), "side.1.h.0.b": (4,),
    }  # fmt: skip
    tensors = {name: info_of(entry) for name, entry in table.tensors.items()}
    solution = solve(spec, tensors)
    assert solution.params == table.params
    assert solution.table is not None
    assert check(solution.table, tensors) == []
    odd = expand(spec, {"hidden": 3, "text.layers": 0, "sides.width": 5, "sides.layers": 0})
    assert [finding.where for finding in odd.findings] == ["sides: even"]


def test_a_mounted_spec_reads_its_own_part_of_a_configuration(tmp_path: Path) -> None:
    """The first part of several that is there, with its own defaults; what the outer spec says outranks it."""
    (tmp_path / "inner.toml").write_text(
        'spec = 1\nname = "inner"\n[params]\na = "int"\nb = "int"\nc = "int"\nd = "ints"\n'
        '[tensors]\n"w" = "a b c len(d)"\n[config.params]\na = "width"\nb = ["x", "depth"]\nc = "width"\n'
        'd = { for = "i", to = "depth", each = "width + i" }\n[config.defaults]\ndepth = 2\n'
    )
    (tmp_path / "middle.toml").write_text(
        'spec = 1\nname = "middle"\n[mount.deep]\nuse = "inner.toml"\nprefix = "deep."\nconfig = "deep_config"\n'
    )
    (tmp_path / "outer.toml").write_text(
        HEAD + '[params]\nn = "int"\n[tensors]\n"v" = "n"\n[config.params]\n"far.deep.c" = "n"\n'
        '[mount.near]\nuse = "inner.toml"\nprefix = "near."\nset = { c = "n" }\nconfig = ["near_config", "."]\n'
        '[mount.far]\nuse = "middle.toml"\nprefix = "far."\nconfig = "far_config"\n'
    )
    spec = load_spec(tmp_path / "outer.toml")
    flat = {"width": 5, "depth": 1, "n": 9}
    assert from_config(spec, flat).values == {"near.a": 5, "near.b": 1, "near.d": [5], "far.deep.c": 9}
    nested = {**flat, "near_config": {"width": 7, "depth": None}, "far_config": {"deep_config": {"width": 3}}}
    assert from_config(spec, nested).values == {
        "near.a": 7, "near.b": 2, "near.d": [7, 8], "far.deep.a": 3, "far.deep.b": 2, "far.deep.c": 9,
        "far.deep.d": [3, 4],
    }  # fmt: skip


def test_loops_take_ranges_strides_and_lists() -> None:
    spec = parse_text(
        HEAD + '[params]\nn = "int"\n[repeat]\ni = "1:n"\nj = "0:2*n:2"\nk = ["q", "v"]\n'
        '[tensors]\n"a{i}" = "i"\n"b{j}" = "j+1"\n"c{k}" = "n"\n"d.{2*i + 1}.{k}" = "1"\n'
    )
    names = expand(spec, {"n": 3}).tensors
    assert list(names) == ["a1", "a2", "b0", "b2", "b4", "cq", "cv", "d.3.q", "d.3.v", "d.5.q", "d.5.v"]
    tensors = {name: info_of(entry) for name, entry in names.items()}
    assert solve(spec, tensors).params == {"n": 3}


def test_expanding_without_a_param_names_it() -> None:
    with pytest.raises(UsageError, match="needs a value for layers") as caught:
        expand(load_spec("gpt2"), {"vocab": 5, "hidden": 4, "positions": 3})
    assert caught.value.hint == "--set layers=…"


def test_the_digest_covers_the_content_and_not_its_spelling() -> None:
    text = library_text("mlp")
    assert parse_text(text).digest == parse_text("# a comment\n" + text.replace('"int"', "'int'")).digest
    assert parse_text(text).digest != parse_text(text.replace("widths[-2]", "widths[-1]")).digest


def test_every_library_spec_follows_the_published_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    schema = json.loads((resources.files("ckptconv.arch") / "spec.schema.json").read_text("utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    jsonschema.Draft202012Validator.check_schema(schema)
    for name in library_names():
        assert list(validator.iter_errors(tomllib.loads(library_text(name)))) == []
    wrong = {"spec": 1, "name": "x", "params": {"len": "int"}, "tensors": {"w": {"shap": "1"}}}
    assert len(list(validator.iter_errors(wrong))) == 2


def test_a_mounted_spec_may_be_absent_and_lose_its_dots(tmp_path: Path) -> None:
    (tmp_path / "inner.toml").write_text(
        'spec = 1\nname = "inner"\n[params]\nwidth = "int"\n[repeat]\nblock = "2"\n'
        '[tensors]\n"blocks.{block}.0.weight" = "width"\n'
    )
    (tmp_path / "outer.toml").write_text(
        'spec = 1\nname = "outer"\n[params]\naverage = { type = "bool", default = false }\n[tensors]\n"w" = "1"\n'
        '[mount.copy]\nuse = "inner.toml"\nprefix = "ema."\ndots = false\nwhen = "average"\n'
    )
    spec = load_spec(tmp_path / "outer.toml")
    assert spec.required == []
    assert list(expand(spec, {}).tensors) == ["w"]
    names = ["w", "ema.blocks00weight", "ema.blocks10weight"]
    assert list(expand(spec, {"average": True, "copy.width": 3}).tensors) == names
    found = {name: TensorInfo.of(DType.F32, (1,) if name == "w" else (3,)) for name in names}
    assert solve(spec, found).params == {"average": True, "copy.width": 3}
