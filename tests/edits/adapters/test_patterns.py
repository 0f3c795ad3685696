"""PEFT's patterns: the first that matches counts, as in PEFT, and none takes a time that the file chooses."""

from __future__ import annotations

import re

import pytest

from ckptconv.edits.adapters.config import Config
from ckptconv.edits.adapters.patterns import Patterns
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from tests.support.stopwatch import within


def pefts(said: dict[str, float], module: str) -> float | None:
    """What get_pattern_key of peft's utils/other.py finds."""
    return next((number for key, number in said.items() if re.match(rf"(.*\.)?({key})$", module)), None)


MODULES = ["q_proj", "layers.0.q_proj", "model.layers.10.self_attn.q_proj", "model.layers.1.mlp.up_proj", "xq_proj", ""]
SAID: list[dict[str, float]] = [
    {"q_proj": 1},
    {"q_proj": 1, "layers.0.q_proj": 2},
    {"layers.0.q_proj": 2, "q_proj": 1},
    {r".*q_proj": 1, "layers.0.q_proj": 2},
    {"layers.0.q_proj": 2, r"layers\..*": 1},
    {r"layers\.(0|1)\.(self_attn|mlp)\.\w+_proj": 1, "q_proj": 3},
    {r"(?:self_attn|mlp)?\.?[qu]p?_proj": 1},
    {r"layers\.\d{1,2}\..+?proj": 4},
    {"0": 0, "q_proj": 0},
]


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("module", MODULES)
def test_the_first_that_matches_counts(said: dict[str, float], module: str) -> None:
    assert Patterns(dict(said)).number(module, None) == pefts(said, module)


@pytest.mark.parametrize(
    "key",
    ["(a|aa)*b", "(a|a)" * 45 + "b", "(a?)" * 30 + "b", "(a|)" * 30 + "b", r"(\\*)*x", ".*.*.*b", r"(a)\1", "(?=a)a",
     "a)|(b", "(a{1,9}){1,9}b", "a" * 300 + "?"],
)  # fmt: skip
def test_expressions_that_may_take_long_are_refused(key: str) -> None:
    with pytest.raises(UnsupportedError, match="is not matched"):
        Patterns({key: 4}).number("a" * 60, None)


def test_what_all_modules_may_take_is_bounded() -> None:
    patterns = Patterns({r".*x.*b": 4})
    with pytest.raises(UnsupportedError, match="takes too long"):
        for number in range(1000):
            patterns.number("a." * 200 + str(number), None)


def test_names_of_many_words_and_very_many_patterns_take_no_time() -> None:
    long = "a." * 200_000 + "q"
    many = Patterns({f"layers.{number}.q": 1 for number in range(5_000)})

    def ask() -> None:
        assert Patterns({"q": 4}).number(long, None) == 4
        assert all(many.number(f"model.layers.{number}.k", None) is None for number in range(5_000))

    within(2, ask)


def test_words_that_no_module_is_called_are_refused() -> None:
    with pytest.raises(LimitError, match="has 5,000 characters"):
        Patterns({"a" * 5_000: 1}).number("a", None)


@pytest.mark.parametrize("rank", [0.5, -1, 0])
def test_a_pattern_that_is_no_rank_is_reported(rank: float) -> None:
    config = Config.of({"peft_type": "LOKR", "r": 4, "alpha": 4, "rank_pattern": {"q": rank}, "use_rslora": True})
    with pytest.raises(CorruptFileError, match="for the rank of 'q'"):
        config.scale("q", 0)


def test_an_alpha_of_zero_takes_the_change_away_and_a_missing_one_is_pefts_own() -> None:
    assert Config.of({"peft_type": "LORA", "r": 4, "lora_alpha": 0}).scale("q", 4) == 0
    assert Config.of({"peft_type": "LORA", "r": 4, "lora_alpha": 4, "alpha_pattern": {"q": 0}}).scale("q", 4) == 0
    assert Config.of({"peft_type": "LORA", "r": 4}).scale("q", 4) == 2  # 8 over 4
    with pytest.raises(CkptconvError, match="lora_alpha is not a number"):
        Config.of({"peft_type": "LORA", "lora_alpha": None})
