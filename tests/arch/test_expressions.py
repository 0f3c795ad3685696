"""Expressions: what they mean, what they refuse, and that every refusal names the column."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptconv.arch.evaluate import Budget, formula
from ckptconv.arch.expressions import split_range, split_shape
from ckptconv.arch.operations import EvaluationError, UnknownList
from ckptconv.arch.polynomial import Polynomial, UndeterminedError, atom
from ckptconv.arch.tree import unparse
from ckptconv.errors import CorruptFileError, LimitError


class Names:
    """A scope of fixed values; others are unknown integers."""

    def __init__(self, **values: Any) -> None:
        self.values = values
        self.budget = Budget()

    def lookup(self, name: str) -> Any:
        return self.values.get(name, atom(name))


def value(text: str, **names: object) -> object:
    return formula(text)(Names(**names))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 + 2*3", 7), ("(1 + 2)*3", 9), ("7 // 2", 3), ("-7 // 2", -4), ("-7 % 3", 2), ("2 - 3 - 4", -5),
        ("[1, *[2, 3], 4]", [1, 2, 3, 4]), ("[1, 2, 3][-1]", 3), ("[1, 2, 3][1:]", [2, 3]), ("[1, 2, 3][:-1]", [1, 2]),
        ("len([1, 2])", 2), ("sum([1, 2, 3])", 6), ("min(3, 2)", 2), ("max([3, 9, 2])", 9),
        ("1 < 2 and 2 <= 2", True), ("1 == 2 or not true", False), ("'a' == 'a'", True), ("true == 1", False),
        ("2 in [1, 2]", True), ("'x' in ['a']", False), ("1 if false else 2 if true else 3", 2), ("[1] == [1]", True),
        ("\"a\" != 'b'", True), ("false and 1 == 1", False), ("5 >= 6", False), ("--3", 3), ("[[1, 2], [3]][0][1]", 2),
    ],
)  # fmt: skip
def test_a_value(text: str, expected: object) -> None:
    assert value(text) == expected
    assert type(value(text)) is type(expected)


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 9), st.sampled_from(["+", "-", "*", "//", "%"]))
def test_arithmetic_is_pythons(a: int, b: int, c: int, operator: str) -> None:
    text = f"(a + b) {operator} c - a*b"
    assert value(text, a=a, b=b, c=c) == eval(text, {}, {"a": a, "b": b, "c": c})
    assert unparse(formula(unparse(formula(text).node)).node) == unparse(formula(text).node)


@pytest.mark.parametrize(
    ("text", "column", "problem"),
    [
        ("9**9**9", 2, "no power operator"), ("a b", 3, "unexpected"), ("(1", 3, "expected ')'"), ("1 +", 4, "the end"),
        ("a if b", 7, "expected 'else'"), ("foo(1)", 1, "no function"), ("a $ b", 3, "unexpected '$'"),
        ("", 1, "the end"),
        ("__import__('os')", 1, "no function"), ("a.b()", 1, "no function"), ("1.5", 1, "unexpected"),
        ("a = 1", 3, "'='"),
        ("[1, 2", 6, "expected ','"), ("'a", 1, "unexpected"),
        ("lambda: 0", 7, "unexpected"), ("if", 1, "expected a value"),
    ],
)  # fmt: skip
def test_a_mistake_names_its_column(text: str, column: int, problem: str) -> None:
    with pytest.raises(CorruptFileError) as caught:
        formula(text)
    assert f"column {column}: " in str(caught.value)
    assert problem in str(caught.value)


@pytest.mark.parametrize("text", ["(" * 31 + "1" + ")" * 31, "+".join("1" * 400), "x" * 2000, "9" * 30])
def test_a_bound_is_a_limit_error(text: str) -> None:
    with pytest.raises(LimitError):
        formula(text)


def test_a_result_stays_within_64_bits() -> None:
    with pytest.raises(LimitError):
        value("9223372036854775807 + 1")


@pytest.mark.parametrize(
    "text", ["1 // 0", "1 % 0", "[1][1]", "[1][-2]", "1 + true", "'a' + 'b'", "1['a']", "len(1)", "min()"]
)
def test_what_has_no_value_says_so(text: str) -> None:
    with pytest.raises(EvaluationError):
        value(text)


def test_unknowns_become_polynomials() -> None:
    product = value("2*heads*head_dim + 1")
    assert isinstance(product, Polynomial)
    assert dict(product) == {(("head_dim", -1), ("heads", -1)): 2, (): 1}
    assert value("x + 1 - x") == 1
    assert value("(4*x) // 2 - x - x") == 0
    assert value("len(widths)", widths=UnknownList("widths")) == atom("widths", -2)
    assert value("widths[3]", widths=UnknownList("widths")) == atom("widths", 3)


@pytest.mark.parametrize("text", ["x // 2", "x % 2", "1 // x", "x < 3", "1 if x == 2 else 3", "[1, 2][x]", "min(x, 1)"])
def test_what_depends_on_an_unknown_is_undetermined(text: str) -> None:
    with pytest.raises(UndeterminedError):
        value(text)


def test_a_known_side_decides() -> None:
    assert value("x == 1 or true") is True
    assert value("x == 1 and false") is False


def test_a_shape_is_split_at_blanks_between_dimensions() -> None:
    assert split_shape("widths[i+1] widths[i]") == ("widths[i+1]", "widths[i]")
    assert split_shape("2 * hidden  (a if b else c)\t3") == ("2 * hidden", "(a if b else c)", "3")
    assert split_shape("[a, *b][i] len( c )") == ("[a, *b][i]", "len( c )")
    assert split_shape("  ") == ()


def test_a_range_is_split_at_colons_outside_brackets() -> None:
    assert split_range("1:n") == ("1", "n")
    assert split_range("0 : 2*n : 2") == ("0", "2*n", "2")
    assert split_range("len(a[1:])") == ("len(a[1:])",)
