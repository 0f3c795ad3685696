"""What is known about a spec's params, and the scope in which its expressions are evaluated."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.arch.operations import EvaluationError, UnknownList, Value
from ckptconv.arch.polynomial import LENGTH, SCALAR, Atom, Monomial, Polynomial, UndeterminedError, atom
from ckptconv.errors import LimitError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.arch.evaluate import Budget, Formula
    from ckptconv.arch.spec import ParamValue, Spec

MAX_ELEMENTS = 100_000
"""The most items of an ``ints`` param, or of any list."""


@dataclass(slots=True)
class Bindings:
    """The values of params that are known so far.

    values:   whole params: integers, booleans, strings, floats, lists of strings.
    lengths:  of ``ints`` params.
    elements: of ``ints`` params: (name, position) → value.
    products: values of products whose factors are not known, such as heads*head_dim.
    """

    values: dict[str, ParamValue] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    elements: dict[Atom, int] = field(default_factory=dict)
    products: dict[Monomial, int] = field(default_factory=dict)

    @classmethod
    def of(cls, spec: Spec, params: Mapping[str, ParamValue]) -> Bindings:
        """Bindings of whole params."""
        result = cls()
        for name, value in params.items():
            result.set(spec, name, value)
        return result

    def set(self, spec: Spec, name: str, value: ParamValue) -> None:
        """Bind a whole param. Raises LimitError for a list past `MAX_ELEMENTS`."""
        if spec.params[name].type != "ints" or not isinstance(value, list):
            self.values[name] = value
            return
        self.set_length(name, len(value))
        for position, item in enumerate(value):
            assert isinstance(item, int)
            self.elements[name, position] = item

    def set_length(self, name: str, length: int) -> None:
        """Bind the length of an ``ints`` param. Raises LimitError past `MAX_ELEMENTS`."""
        if length > MAX_ELEMENTS:
            raise LimitError(f"param {name!r} would have {length} items, more than {MAX_ELEMENTS}")
        self.lengths[name] = length

    def set_atom(self, key: Atom, value: int) -> None:
        """Bind one unknown integer: a param, a length, or an element."""
        name, part = key
        if part == SCALAR:
            self.values[name] = value
        elif part == LENGTH:
            self.set_length(name, value)
        else:
            self.elements[key] = value

    def knows(self, key: Atom) -> bool:
        """Whether an unknown integer has got a value."""
        name, part = key
        if part == SCALAR:
            return name in self.values
        return name in self.lengths if part == LENGTH else key in self.elements

    def whole(self, spec: Spec, name: str) -> ParamValue | None:
        """A param's value; None if it is unknown, also in part."""
        if spec.params[name].type != "ints":
            return self.values.get(name)
        if name not in self.lengths:
            return None
        keys = [(name, position) for position in range(self.lengths[name])]
        return [self.elements[key] for key in keys] if all(key in self.elements for key in keys) else None

    def total(self, polynomial: Polynomial) -> int | None:
        """The polynomial's value by the known products; None if one is missing."""
        value = 0
        for monomial, factor in polynomial:
            if monomial and monomial not in self.products:
                return None
            value += factor * (self.products[monomial] if monomial else 1)
        return value


class Scope:
    """The params, lets and loop variables of one spec, for evaluating its expressions.

    Whoever runs a loop sets `loops`. Call `changed()` after changing the bindings.
    """

    def __init__(self, spec: Spec, bindings: Bindings, budget: Budget) -> None:
        self.spec, self.bindings, self.budget = spec, bindings, budget
        self.loops: dict[str, int | str] = {}
        self._memo: dict[str, Value] = {}
        self._turns: dict[tuple[object, ...], Value] = {}

    def changed(self) -> None:
        """Forget what was computed from the bindings."""
        self._memo.clear()
        self._turns.clear()

    def lookup(self, name: str) -> Value:
        """The value of a loop variable, let or param; if it is unknown, a polynomial or an open list."""
        if name in self.loops:
            return self.loops[name]
        if name in self._memo:
            return self._memo[name]
        if name in self.spec.varying:
            return self._varying_let(name)
        if name in self.spec.lets:
            value = self._memo[name] = self.spec.lets[name](self)
            return value
        if name not in self.spec.params:
            raise UndeterminedError
        value = self._memo[name] = self._param(name)
        return value

    def _varying_let(self, name: str) -> Value:
        """The value of a let that depends on loops; kept, because many tensors of one turn ask for it."""
        turn = name, *[self.loops.get(loop) for loop in self.spec.varying[name]]
        if turn not in self._turns:
            self._turns[turn] = self.spec.lets[name](self)
        return self._turns[turn]

    def _param(self, name: str) -> Value:
        kind, bindings = self.spec.params[name].type, self.bindings
        if kind == "ints":
            if name not in bindings.lengths:
                return UnknownList(name)
            self.budget.spend(bindings.lengths[name] // 4)
            elements = bindings.elements
            return [
                elements[key] if (key := (name, position)) in elements else atom(name, position)
                for position in range(bindings.lengths[name])
            ]
        if name not in bindings.values:
            if kind == "int":
                return atom(name)
            raise UndeterminedError
        value = bindings.values[name]
        if isinstance(value, float):
            raise EvaluationError(f"{name!r} is a float: expressions compute with integers")
        return list(value) if isinstance(value, list) else value

    def integer(self, formula: Formula) -> int | None:
        """The formula's value if it is known to be an integer, also through known products; None if it is unknown."""
        try:
            value = formula(self)
        except UndeterminedError:
            return None
        if isinstance(value, Polynomial):
            return self.bindings.total(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise EvaluationError(f"{formula.text!r} is not an integer")

    def truth(self, formula: Formula | None) -> bool | None:
        """Whether a condition holds; None if that is unknown. No condition always holds."""
        if formula is None:
            return True
        try:
            value = formula(self)
        except UndeterminedError:
            return None
        if not isinstance(value, bool):
            raise EvaluationError(f"{formula.text!r} is neither true nor false")
        return value
