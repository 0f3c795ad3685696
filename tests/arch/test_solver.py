"""Solving params: from names and shapes, by majority, cross-checked with what else is said."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ckptconv.arch.bind import Source, from_config, from_metadata, from_settings
from ckptconv.arch.check import check
from ckptconv.arch.load import load_spec, parse_text
from ckptconv.arch.match import compile_patterns, match_names
from ckptconv.arch.solver import Solution, solve
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import NumpyScalar, TorchSize
from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import UsageError

if TYPE_CHECKING:
    import re
    from pathlib import Path

    from ckptconv.arch.spec import Spec

MLP = load_spec("mlp")
WIDTHS = [784, 512, 256, 128, 10]
META: dict[Any, Any] = {"input_size": 784, "hidden_layers": [512, 256, 128], "output_size": 10}


def info(*shape: int) -> TensorInfo:
    return TensorInfo.of(DType.F32, shape)


def mlp(widths: list[int] = WIDTHS) -> dict[str, TensorInfo]:
    rows: dict[str, TensorInfo] = {}
    for i in range(len(widths) - 2):
        rows[f"hidden_layers.{i}.weight"] = info(widths[i + 1], widths[i])
        rows[f"hidden_layers.{i}.bias"] = info(widths[i + 1])
    return {**rows, "output.weight": info(widths[-1], widths[-2]), "output.bias": info(widths[-1])}


def llama(**sizes: int) -> dict[str, TensorInfo]:
    s = {"layers": 2, "hidden": 24, "query": 24, "key": 12, "inner": 40, **sizes}
    rows = {"model.embed_tokens.weight": info(97, s["hidden"])}
    for i in range(s["layers"]):
        at = f"model.layers.{i}"
        rows |= {
            f"{at}.self_attn.q_proj.weight": info(s["query"], s["hidden"]),
            f"{at}.self_attn.k_proj.weight": info(s["key"], s["hidden"]),
            f"{at}.self_attn.v_proj.weight": info(s["key"], s["hidden"]),
            f"{at}.self_attn.o_proj.weight": info(s["hidden"], s["query"]),
            f"{at}.mlp.gate_proj.weight": info(s["inner"], s["hidden"]),
            f"{at}.mlp.up_proj.weight": info(s["inner"], s["hidden"]),
            f"{at}.mlp.down_proj.weight": info(s["hidden"], s["inner"]),
            f"{at}.input_layernorm.weight": info(s["hidden"]),
            f"{at}.post_attention_layernorm.weight": info(s["hidden"]),
        }
    return {**rows, "model.norm.weight": info(s["hidden"]), "lm_head.weight": info(97, s["hidden"])}


def errors(solution: Solution, tensors: dict[str, TensorInfo]) -> list[tuple[str, str]]:
    assert solution.table is not None
    found = [*solution.findings, *check(solution.table, tensors)]
    return [(finding.code, finding.where) for finding in found if finding.severity == "error"]


def test_list_valued_widths_come_from_the_shapes() -> None:
    solution = solve(MLP, mlp())
    assert {name: solution.params[name] for name in META} == META
    assert {solution.origins[name] for name in META} == {"tensors"}
    assert {name: solution.params[name] for name, origin in solution.origins.items() if origin == "default"} == {
        "activation": "relu", "head": "log_softmax", "prefix": "", "first": 0, "stride": 2,
    }  # fmt: skip
    assert solution.open == ()


SPEC_OF_A_LIST = b"""
spec = 1
name = "chain"
[params]
first  = "int"
widths = "ints"
last   = "int"
[let]
all = "[first, *widths, last]"
[repeat]
i = "len(widths)"
[tensors]
"row.{i}" = "all[i+1] all[i]"
"end"     = "last all[-2]"
"""


def test_a_list_that_is_empty_still_lets_shapes_say_what_stands_beside_it(tmp_path: Path) -> None:
    single = solve(MLP, mlp([5, 3]))
    assert {name: single.params[name] for name in META} == {"input_size": 5, "hidden_layers": [], "output_size": 3}
    assert (single.open, errors(single, mlp([5, 3]))) == ((), [])
    (tmp_path / "chain.toml").write_bytes(SPEC_OF_A_LIST)
    chain = solve(load_spec(tmp_path / "chain.toml"), {"end": info(3, 5)})
    assert (chain.params, chain.open) == ({"first": 5, "widths": [], "last": 3}, ())


@pytest.mark.parametrize(("prefix", "first", "stride"), [("", 0, 2), ("net.", 0, 3), ("fc", 1, 1), ("a.b.", 2, 4)])
def test_index_strides_and_prefixes_come_from_the_names(prefix: str, first: int, stride: int) -> None:
    tensors: dict[str, TensorInfo] = {}
    for i in range(4):
        tensors[f"{prefix}{first + stride * i}.weight"] = info(WIDTHS[i + 1], WIDTHS[i])
        tensors[f"{prefix}{first + stride * i}.bias"] = info(WIDTHS[i + 1])
    solution = solve(MLP, tensors)
    assert solution.params["variant"] == "numbered"
    assert [solution.params[name] for name in ("prefix", "first", "stride")] == [prefix, first, stride]
    assert errors(solution, tensors) == []


def test_a_wrong_tensor_is_outvoted_and_named() -> None:
    tensors = {**mlp(), "hidden_layers.1.bias": info(999)}
    solution = solve(MLP, tensors)
    assert solution.params["hidden_layers"] == [512, 256, 128]
    assert errors(solution, tensors) == [("shape-mismatch", "hidden_layers.1.bias")]


def test_a_lost_layer_in_the_middle_does_not_change_the_count() -> None:
    tensors = {name: value for name, value in mlp().items() if not name.startswith("hidden_layers.1.")}
    solution = solve(MLP, tensors, [from_metadata(MLP, META)])
    assert solution.params["hidden_layers"] == [512, 256, 128]
    assert errors(solution, tensors) == [
        ("missing-tensor", "hidden_layers.1.weight"), ("missing-tensor", "hidden_layers.1.bias"),
    ]  # fmt: skip


def test_metadata_breaks_a_draw_between_tensors_and_loses_one_against_them() -> None:
    split = {**mlp(), "output.bias": info(11)}
    assert solve(MLP, split, [from_metadata(MLP, META)]).params["output_size"] == 10
    wrong = from_metadata(MLP, {**META, "input_size": 785})
    solution = solve(MLP, mlp(), [wrong])
    assert solution.params["input_size"] == 784
    (finding,) = solution.findings
    assert (finding.code, finding.where, finding.found) == ("param-conflict", "input_size", "785")
    assert "hidden_layers.0.weight" in finding.message


@pytest.mark.parametrize(
    "field",
    [
        {"input_size": None}, {"input_size": "many"}, {"hidden_layers": [512, 256]}, {"hidden_layers": 512},
        {"hidden_layers": [512, 256, 128, 64]}, {"output_size": -1}, {"output_size": True}, {"hidden_layers": "[512"},
    ],
)  # fmt: skip
def test_any_wrong_metadata_field_is_a_conflict(field: dict[object, Any]) -> None:
    solution = solve(MLP, mlp(), [from_metadata(MLP, {**META, **field})])
    assert errors(solution, mlp()) == [("param-conflict", next(iter(field)))]


def test_values_of_other_types_and_strings_of_foreign_files_are_read() -> None:
    typed: dict[object, Any] = {
        "input_size": NumpyScalar("<i8", (784).to_bytes(8, "little")), "hidden_layers": TorchSize((512, 256, 128)),
        "output_size": 10.0,
    }  # fmt: skip
    strings: dict[object, Any] = {
        "input_size": "784",
        "hidden_layers": "[512, 256, 128]",
        "output_size": "10",
        "bias": "True",
    }
    assert from_metadata(MLP, typed).values == META
    assert from_metadata(MLP, strings).values == {**META, "bias": True}


def test_the_users_word_binds_whatever_the_tensors_say() -> None:
    said = from_settings(MLP, ["input_size=785", "hidden_layers=[512, 256, 128]"])
    solution = solve(MLP, mlp(), [said])
    assert solution.params["input_size"] == 785
    assert solution.origins["input_size"] == "--set"
    assert errors(solution, mlp()) == [("shape-mismatch", "hidden_layers.0.weight")]


@pytest.mark.parametrize("setting", ["input_size", "nothing=3", "input_size=three", "norm=group"])
def test_a_setting_that_the_spec_does_not_take_is_refused(setting: str) -> None:
    with pytest.raises(UsageError):
        from_settings(MLP, [setting])


def spec() -> Spec:
    return load_spec("llama")


def test_a_product_is_determined_and_its_factors_stay_open() -> None:
    solution = solve(spec(), llama())
    assert solution.products == {"head_dim*heads": 24, "head_dim*kv_heads": 12}
    assert "heads" not in solution.params
    assert errors(solution, llama()) == []
    wrong = {**llama(), "model.layers.1.self_attn.q_proj.weight": info(25, 24)}
    assert errors(solve(spec(), wrong), wrong) == [("shape-mismatch", "model.layers.1.self_attn.q_proj.weight")]


def test_one_factor_from_elsewhere_gives_the_others() -> None:
    solution = solve(spec(), llama(), [Source("config.json", {"heads": 4})])
    assert (solution.params["head_dim"], solution.params["kv_heads"]) == (6, 2)
    assert solution.origins["head_dim"] == "tensors"


def test_a_factor_that_does_not_divide_the_product_is_a_conflict() -> None:
    solution = solve(spec(), llama(), [Source("config.json", {"heads": 5})])
    assert errors(solution, llama()) == [("param-conflict", "heads")]
    both = solve(spec(), llama(), [Source("config.json", {"heads": 4, "head_dim": 8})])
    assert errors(both, llama()) == [("param-conflict", "head_dim")]


def test_a_constraint_that_does_not_hold_is_an_error() -> None:
    tensors = llama(query=36, key=24)
    solution = solve(spec(), tensors, [Source("config.json", {"heads": 3})])
    assert errors(solution, tensors) == [("constraint", "key-value heads divide the heads")]


def test_an_absent_head_is_tied_and_contradicts_a_config_that_says_otherwise() -> None:
    tensors = {name: value for name, value in llama().items() if name != "lm_head.weight"}
    assert solve(spec(), tensors).params["tie_word_embeddings"] is True
    assert errors(solve(spec(), tensors), tensors) == []
    untied = from_config(spec(), {"tie_word_embeddings": False})
    assert errors(solve(spec(), tensors, [untied]), tensors) == [("param-conflict", "tie_word_embeddings")]


def test_a_config_says_what_it_has_and_nothing_of_what_it_lacks() -> None:
    config = {"model_type": "qwen2", "hidden_size": 24, "num_attention_heads": 4, "head_dim": None, "vocab_size": "x"}
    source = from_config(spec(), config)
    assert source.values == {
        "hidden": 24, "heads": 4, "kv_heads": 4, "head_dim": 6, "attention_bias": False, "variant": "qwen2",
    }  # fmt: skip
    assert [finding.where for finding in source.findings] == ["vocab"]


def test_a_checkpoint_of_something_else_is_all_wrong_and_raises_nothing() -> None:
    solution = solve(spec(), mlp())
    assert solution.table is not None
    assert {code for code, _ in errors(solution, mlp())} == {"missing-tensor", "unexpected-tensor"}
    assert solve(MLP, {}).params["hidden_layers"] == []


def test_variants_are_recognised_by_their_names() -> None:
    tensors = llama()
    for i in range(2):
        tensors[f"model.layers.{i}.self_attn.q_norm.weight"] = info(6)
        tensors[f"model.layers.{i}.self_attn.k_norm.weight"] = info(6)
    solution = solve(spec(), tensors)
    assert solution.params["variant"] == "qwen3"
    assert (solution.params["heads"], solution.params["kv_heads"]) == (4, 2)
    assert solution.products == {}


def test_thousands_of_rules_of_one_skeleton_meet_the_names_that_begin_and_end_as_they_do() -> None:
    """Each name was held against each of them: 4,000,000 times here."""
    numbers = range(2_000)
    rows = "\n".join(f'"layers.{{i}}.experts.{number}.w" = "2 3"' for number in numbers)
    spec = parse_text(f'spec = 1\nname = "x"\n[repeat]\ni = "1"\n[tensors]\n"" = "2"\n{rows}\n')
    found = {f"layers.0.experts.{number}.w": TensorInfo.of(DType.F32, (2, 3)) for number in numbers}
    patterns = compile_patterns(spec)
    tried: list[str] = []

    class Counted:
        def __init__(self, expression: re.Pattern[str]) -> None:
            self.expression = expression

        def fullmatch(self, text: str) -> re.Match[str] | None:
            tried.append(text)
            return self.expression.fullmatch(text)

    counted = [replace(pattern, expression=Counted(pattern.expression)) for pattern in patterns]  # type: ignore[arg-type]
    matches = match_names(counted, {"": TensorInfo.of(DType.F32, (2,)), **found})
    assert [[name for name, _, _ in match.found] for match in matches] == [[""], *([name] for name in found)]
    assert len(tried) <= 2 * len(matches)


STAGES = """
spec = 1
name = "stages"

[params]
prefix  = { type = "str", choices = ["", "a.", "b.", "c.", "d."], default = "" }
stack   = { type = "str", choices = ["layers.", "stages.", "blocks."], default = "layers." }
head    = { type = "str", choices = ["none", "one", "two", "three", "four"], default = "none" }
scale   = { type = "bool", default = false }
bias    = { type = "bool", default = false }
gate    = { type = "bool", default = false }
depths  = "ints"
width   = "int"

[repeat]
stage = "len(depths)"
block = "depths[stage]"

[tensors]
"{prefix}{stack}{stage}.{block}.w"     = "width width"
"{prefix}{stack}{stage}.{block}.b"     = { shape = "width", when = "bias" }
"{prefix}{stack}{stage}.{block}.scale" = { shape = "width", when = "scale" }
"{prefix}{stack}{stage}.{block}.gate"  = { shape = "width", when = "gate" }
"{prefix}head.{head}"           = { shape = "width", when = "head != 'none'" }
"""


def staged(depths: list[int], prefix: str = "layers.", last: str = "w") -> dict[str, TensorInfo]:
    """Stages of so many blocks, each block with a matrix, and a vector if `last` names one."""
    rows = {f"{prefix}{s}.{b}.w": info(4, 4) for s, depth in enumerate(depths) for b in range(depth)}
    return rows | {name.removesuffix("w") + last: info(4) for name in rows if last != "w"}


@pytest.mark.parametrize("depths", [[3, 3, 3, 1], [6, 1, 1], [1], [1, 3, 3, 4, 4, 5, 1]])
def test_a_stage_of_one_block_is_no_less_there_than_one_of_many(depths: list[int]) -> None:
    tensors = staged(depths)
    solution = solve(parse_text(STAGES), tensors)
    assert (solution.params["depths"], errors(solution, tensors)) == (depths, [])


def test_a_block_that_lost_its_tensor_is_missed_in_a_stage_of_any_depth() -> None:
    tensors = staged([3, 1, 4], last="b")
    del tensors["layers.1.0.b"]
    assert errors(solve(parse_text(STAGES), tensors), tensors) == [("missing-tensor", "layers.1.0.b")]


@pytest.mark.parametrize("prefix", ["a.", "d."])
def test_a_spelling_that_is_not_preferred_hides_nothing_of_a_spec_with_many_switches(prefix: str) -> None:
    tensors = staged([2, 1], f"{prefix}blocks.", last="gate") | {f"{prefix}head.four": info(4)}
    solution = solve(parse_text(STAGES), tensors)
    found = {name: solution.params[name] for name in ("prefix", "head", "gate", "bias")}
    assert found == {"prefix": prefix, "head": "four", "gate": True, "bias": False}
    assert errors(solution, tensors) == []


def test_the_users_word_on_a_tie_is_not_outvoted_by_an_absent_head() -> None:
    tensors = {name: value for name, value in llama().items() if name != "lm_head.weight"}
    solution = solve(spec(), tensors, [from_settings(spec(), ["tie_word_embeddings=false"])])
    assert solution.params["tie_word_embeddings"] is False
    assert errors(solution, tensors) == [("missing-tensor", "lm_head.weight")]
