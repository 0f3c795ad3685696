"""The values of expressions, and operations on them: integers, booleans, strings, lists, and unknown values."""

from __future__ import annotations

from ckptconv.arch import polynomial
from ckptconv.arch.expressions import MAX_INTEGER
from ckptconv.arch.polynomial import Polynomial, UndeterminedError
from ckptconv.errors import LimitError


class EvaluationError(Exception):
    """An expression has no value for these params (an index out of range). Never leaves `arch`."""


class UnknownList:
    """An ``ints`` param whose length is not known yet."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


Value = int | str | Polynomial | UnknownList | list["Value"]


def arithmetic(operator: str, left: Value, right: Value) -> Value:
    """``left operator right``. Raises EvaluationError, UndeterminedError, or LimitError outside 64 bits."""
    if type(left) is int and type(right) is int:
        return _bounded(_integer_arithmetic(operator, left, right))
    for value in (left, right):
        if isinstance(value, bool) or not isinstance(value, int | Polynomial):
            raise EvaluationError(f"{operator!r} needs integers, not {describe(value)}")
    assert isinstance(left, int | Polynomial) and isinstance(right, int | Polynomial)
    match operator:
        case "+" | "-":
            return polynomial.add(left, right, 1 if operator == "+" else -1)
        case "*":
            return polynomial.multiply(left, right)
        case "//":
            return polynomial.divide(left, right)
        case _:
            return polynomial.modulo(left, right)


def _integer_arithmetic(operator: str, left: int, right: int) -> int:
    match operator:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
    if right == 0:
        raise EvaluationError("division by zero")
    return left // right if operator == "//" else left % right


def _bounded(value: int) -> int:
    if not -MAX_INTEGER <= value <= MAX_INTEGER:
        raise LimitError("an expression leaves 64 bits")
    return value


def compare(operator: str, left: Value, right: Value) -> bool:
    """``left operator right``. Raises EvaluationError or UndeterminedError."""
    if isinstance(left, Polynomial) or isinstance(right, Polynomial):
        left, right = polynomial.add(_number(left), _number(right), -1), 0
        if isinstance(left, Polynomial):
            raise UndeterminedError
    if isinstance(left, UnknownList) or isinstance(right, UnknownList):
        raise UndeterminedError
    if operator in ("==", "!="):
        return (_plain(left) == _plain(right)) is (operator == "==")
    a, b = known_integer(left), known_integer(right)
    match operator:
        case "<":
            return a < b
        case "<=":
            return a <= b
        case ">":
            return a > b
        case _:
            return a >= b


def _plain(value: Value) -> object:
    """A value to compare with Python's equality, but so that true is not 1."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, Polynomial | UnknownList):
        raise UndeterminedError
    return (type(value), value)


def contains(item: Value, items: Value) -> bool:
    """``item in items``."""
    return _plain(item) in [_plain(other) for other in known_list(items)]


def _number(value: Value) -> int | Polynomial:
    if isinstance(value, Polynomial) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise EvaluationError(f"expected an integer, not {describe(value)}")


def known_integer(value: Value) -> int:
    """`value` if it is an integer. Raises UndeterminedError if it is unknown, EvaluationError for another type."""
    if type(value) is int:
        return value
    number = _number(value)
    if isinstance(number, Polynomial):
        raise UndeterminedError
    return number


def known_list(value: Value) -> list[Value]:
    """`value` if it is a list of known length. Raises as `known_integer`."""
    if isinstance(value, list):
        return value
    if isinstance(value, UnknownList):
        raise UndeterminedError
    raise EvaluationError(f"expected a list, not {describe(value)}")


def truth(value: Value) -> bool:
    """`value` if it is a boolean. Raises EvaluationError for another type."""
    if isinstance(value, bool):
        return value
    raise EvaluationError(f"expected true or false, not {describe(value)}")


def describe(value: Value) -> str:
    """A value's type, for messages."""
    match value:
        case bool():
            return "a boolean"
        case int() | Polynomial():
            return "an integer"
        case str():
            return "a string"
        case _:
            return "a list"
