"""TOML that would cost the standard parser gigabytes, or the scan before it minutes."""

from __future__ import annotations

import tomllib

import pytest

from ckptconv.core import strict_toml
from ckptconv.edits.rules import parse_rules
from ckptconv.errors import LimitError
from tests.support.stopwatch import at_most

KEY = ".".join("a" * 60_000)


def test_rules_with_a_key_of_thousands_of_parts_are_refused() -> None:
    with at_most(1), pytest.raises(LimitError, match="a key of more than 40 parts"):
        parse_rules(f"{KEY} = 1\n".encode())


@pytest.mark.parametrize("text", ['a = "' + '\\"' * 60_000, 'a = """' + '\\"' * 60_000, "a = '''" + "'\n" * 60_000])
def test_a_string_without_an_end_is_looked_at_once(text: str) -> None:
    with at_most(2), pytest.raises(tomllib.TOMLDecodeError):
        strict_toml.loads(text)


@pytest.mark.parametrize("quote", ['"', "'", '"""', "'''"])
def test_dots_in_strings_and_comments_are_no_parts_of_a_key(quote: str) -> None:
    dots = "." * 100
    assert strict_toml.loads(f"a = {quote}{dots}{quote} # {dots}\nb.c = 1.5\n") == {"a": dots, "b": {"c": 1.5}}
    with pytest.raises(LimitError):
        strict_toml.loads(f"a = {quote}x{quote}\n{KEY} = 1\n")
