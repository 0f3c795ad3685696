"""What ``-O KEY=VALUE`` sets, of a format that declares a string, a number and a switch, as a plug-in may."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ckptconv.errors import UsageError
from ckptconv.formats.options import option_rows, parse_options


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    data_file: str = field(default="", metadata={"summary": "where the data goes"})
    level: int = 3
    packed: bool = False


def test_what_is_not_given_is_as_declared_and_names_have_either_sign() -> None:
    assert parse_options(Options, {}) == Options()
    given = {"data-file": "x=y.bin", "level": "-1", "packed": "true"}
    assert parse_options(Options, given) == Options(data_file="x=y.bin", level=-1, packed=True)
    assert parse_options(Options, {"data_file": "a"}) == Options(data_file="a")


@pytest.mark.parametrize(("text", "said"), [("Yes", True), ("TRUE", True), ("1", True), ("No", False), ("0", False)])
def test_a_switch_takes_the_usual_words(text: str, said: bool) -> None:
    assert parse_options(Options, {"packed": text}) == Options(packed=said)


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"packed": "maybe"}, "the option 'packed' is true or false, not 'maybe'", "-O packed=true"),
        ({"level": "high"}, "the option 'level' is a number, not 'high'", "-O level=3"),
        ({"data-fiel": "x"}, "there is no option 'data-fiel'", "did you mean 'data-file'?"),
        ({"zzz": "x"}, "there is no option 'zzz'", "known: data-file, level, packed"),
    ],
)
def test_others_are_refused(given: dict[str, str], message: str, hint: str | None) -> None:
    with pytest.raises(UsageError) as refused:
        parse_options(Options, given)
    assert (refused.value.message, refused.value.hint) == (message, hint)


def test_the_table_has_what_each_is() -> None:
    rows = [(row.name, row.type, row.default, row.summary) for row in option_rows(Options)]
    assert rows == [
        ("data-file", "str", "", "where the data goes"), ("level", "int", 3, ""), ("packed", "bool", False, ""),
    ]  # fmt: skip
