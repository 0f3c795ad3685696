"""Integer polynomials over params whose values are not known yet.

The solver evaluates a shape such as ``heads*head_dim`` while some names are unknown. The result is a polynomial, whose
value is the tensor's dimension. An *atom* is one unknown integer:

    ("hidden", SCALAR)      an ``int`` param
    ("widths", 2)           element 2 of an ``ints`` param
    ("widths", LENGTH)      the length of an ``ints`` param

A *monomial* is a sorted tuple of atoms, with repetitions for powers; ``()`` is the constant term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Atom = tuple[str, int]
Monomial = tuple[Atom, ...]

SCALAR = -1
LENGTH = -2

MAX_TERMS = 64
"""The most terms of a polynomial: ``(a+b)*(c+d)*…`` doubles them with every factor. Honest shapes have three."""

MAX_DEGREE = 16


class UndeterminedError(Exception):
    """The value depends on something unknown. Never leaves `arch`."""


@dataclass(frozen=True, slots=True)
class Polynomial:
    """A sum of integer multiples of monomials, at least one of them not constant."""

    terms: Mapping[Monomial, int]

    def __iter__(self) -> Iterator[tuple[Monomial, int]]:
        return iter(self.terms.items())


def atom(name: str, part: int = SCALAR) -> Polynomial:
    """The polynomial that is a single unknown."""
    return Polynomial({((name, part),): 1})


def add(left: int | Polynomial, right: int | Polynomial, sign: int = 1) -> int | Polynomial:
    """``left + sign * right``."""
    terms = dict(_terms(left))
    for monomial, factor in _terms(right).items():
        terms[monomial] = terms.get(monomial, 0) + sign * factor
    return _simplified(terms)


def multiply(left: int | Polynomial, right: int | Polynomial) -> int | Polynomial:
    """``left * right``. Raises UndeterminedError past `MAX_TERMS` or `MAX_DEGREE`."""
    terms: dict[Monomial, int] = {}
    for a, x in _terms(left).items():
        for b, y in _terms(right).items():
            if len(a) + len(b) > MAX_DEGREE:
                raise UndeterminedError
            monomial = tuple(sorted(a + b))
            terms[monomial] = terms.get(monomial, 0) + x * y
    return _simplified(terms)


def divide(left: int | Polynomial, right: int | Polynomial) -> int | Polynomial:
    """``left // right`` if every term divides exactly. Raises UndeterminedError otherwise."""
    if isinstance(right, Polynomial) or right == 0:
        raise UndeterminedError
    terms = _terms(left)
    if any(factor % right for factor in terms.values()):
        raise UndeterminedError
    return _simplified({monomial: factor // right for monomial, factor in terms.items()})


def modulo(left: int | Polynomial, right: int | Polynomial) -> int:
    """``left % right`` if it does not depend on unknowns. Raises UndeterminedError otherwise."""
    if isinstance(right, Polynomial) or right == 0:
        raise UndeterminedError
    terms = dict(_terms(left))
    constant = terms.pop((), 0)
    if any(factor % right for factor in terms.values()):
        raise UndeterminedError
    return constant % right


def _simplified(terms: Mapping[Monomial, int]) -> int | Polynomial:
    """The terms without zeros; an int if only the constant is left."""
    kept = {monomial: factor for monomial, factor in terms.items() if factor}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    if len(kept) > MAX_TERMS:
        raise UndeterminedError
    return Polynomial(kept)


def _terms(value: int | Polynomial) -> Mapping[Monomial, int]:
    return value.terms if isinstance(value, Polynomial) else {(): value}
