"""Evaluates expressions of an architecture spec, within limits.

A `Formula` is an expression that was compiled once, to nested closures, because the same shape is evaluated for
thousands of tensors. Names are looked up in a `Scope`, which may say that one is unknown: the result is then a
polynomial (see `polynomial`), or `UndeterminedError` is raised if it cannot be one.

Limits: results stay within 64 bits, lists within `MAX_LIST` items, and each evaluation spends steps of the scope's
`Budget`, so that no spec computes for longer than about a second.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ckptconv.arch.expressions import parse
from ckptconv.arch.operations import (
    EvaluationError,
    UnknownList,
    Value,
    arithmetic,
    compare,
    contains,
    describe,
    known_integer,
    known_list,
    truth,
)
from ckptconv.arch.polynomial import LENGTH, Polynomial, UndeterminedError, atom
from ckptconv.arch.tree import (
    Binary,
    Call,
    Choice,
    Index,
    ListDisplay,
    Literal,
    Name,
    Node,
    Slice,
    Unary,
    nodes,
    renamed,
    unparse,
)
from ckptconv.errors import LimitError, StepsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAX_LIST = 100_000
"""The most items of a list: no model has anything near 100,000 layers."""

MAX_STEPS = 4_000_000
"""The most steps for one use of a spec: about a second of Python. The largest library table takes 300,000."""


@dataclass(slots=True)
class Budget:
    """The steps that are left, shared by everything that one request evaluates."""

    steps: int = MAX_STEPS

    def spend(self, steps: int) -> None:
        """Take `steps`. Raises StepsError if there are not enough left."""
        self.steps -= steps
        if self.steps < 0:
            raise StepsError("the spec takes too many steps to evaluate", hint="simplify its expressions or loops")


@dataclass(slots=True)
class Allowance:
    """The steps that several budgets share, which are used one after another."""

    steps: int
    _last: tuple[Budget, int] = field(default_factory=lambda: (Budget(0), 0))

    def budget(self) -> Budget:
        """A budget of `MAX_STEPS`, or of what is left."""
        given = min(MAX_STEPS, self.left())
        self._last = Budget(given), given
        return self._last[0]

    def left(self) -> int:
        """The steps that are left after what the last budget has spent so far."""
        budget, given = self._last
        self.steps -= given - max(budget.steps, 0)
        self._last = budget, max(budget.steps, 0)
        return self.steps


class Scope(Protocol):
    """Where names get their values."""

    budget: Budget

    def lookup(self, name: str) -> Value:
        """The value of `name`. Raises UndeterminedError if nothing is known about it."""
        ...


@dataclass(frozen=True, slots=True)
class Formula:
    """A compiled expression. cost: the steps that evaluating it takes."""

    text: str
    node: Node = field(repr=False)
    names: frozenset[str] = field(repr=False, compare=False)
    cost: int = field(repr=False, compare=False)
    run: Callable[[Scope], Value] = field(repr=False, compare=False)

    def __reduce__(self) -> tuple[Callable[[Node, str], Formula], tuple[Node, str]]:
        return _formula, (self.node, self.text)  # compiled again when unpickled: closures cannot be pickled

    def __call__(self, scope: Scope) -> Value:
        """The value in `scope`. Raises UndeterminedError, EvaluationError or LimitError."""
        scope.budget.spend(self.cost)
        return self.run(scope)

    def renamed(self, rename: Callable[[str], str]) -> Formula:
        """The same expression over other names."""
        return _formula(renamed(self.node, rename))

    def joined(self, operator: str, other: Formula) -> Formula:
        """``self and other``, ``self or other``."""
        return _formula(Binary(operator, self.node, other.node, 1))

    def measured(self) -> tuple[str, Formula] | None:
        """(x, y) of ``len(x) == y``; None for any other expression."""
        match self.node:
            case Binary("==", Call("len", (Name(name),)), length):
                return name, _formula(length)
        return None

    def negated(self) -> Formula:
        """``not self``."""
        return _formula(Unary("not", self.node, 1))


def formula(text: str) -> Formula:
    """Parse and compile `text`. Raises CorruptFileError or LimitError, with the column."""
    expression = parse(text)
    return _formula(expression.node, expression.text)


def _formula(node: Node, text: str | None = None) -> Formula:
    every = list(nodes(node))
    names = frozenset(item.name for item in every if isinstance(item, Name))
    return Formula(unparse(node) if text is None else text, node, names, len(every), _compile(node))


def _compile(node: Node) -> Callable[[Scope], Value]:
    match node:
        case Literal(value=value):
            return lambda scope: value
        case Name(name=name):
            return lambda scope: scope.lookup(name)
        case ListDisplay():
            return _compile_list(node)
        case Index():
            return _compile_index(node)
        case Slice():
            return _compile_slice(node)
        case Call():
            function, arguments = _FUNCTIONS[node.function], [_compile(argument) for argument in node.arguments]
            return lambda scope: function([argument(scope) for argument in arguments], scope)
        case Unary(operator="not"):
            operand = _compile(node.operand)
            return lambda scope: not truth(operand(scope))
        case Unary():
            operand = _compile(node.operand)
            return lambda scope: arithmetic("-", 0, operand(scope))
        case Choice():
            then, test, otherwise = _compile(node.then), _compile(node.test), _compile(node.otherwise)
            return lambda scope: then(scope) if truth(test(scope)) else otherwise(scope)
        case Binary():
            return _compile_binary(node)


def _compile_binary(node: Binary) -> Callable[[Scope], Value]:
    operator, left, right = node.operator, _compile(node.left), _compile(node.right)
    match operator:
        case "and" | "or":
            return lambda scope: _logic(operator, left, right, scope)
        case "+" | "-" | "*" | "//" | "%":
            return lambda scope: arithmetic(operator, left(scope), right(scope))
        case "in":
            return lambda scope: _contains(left(scope), known_list(right(scope)), scope)
        case _:
            return lambda scope: compare(operator, left(scope), right(scope))


def _compile_list(node: ListDisplay) -> Callable[[Scope], Value]:
    items = [(spread, _compile(item)) for spread, item in node.items]

    def run(scope: Scope) -> Value:
        result: list[Value] = []
        for spread, item in items:
            value = item(scope)
            if not spread:
                result.append(value)
                continue
            found = known_list(value)
            if len(result) + len(found) > MAX_LIST:
                raise LimitError(f"a list of more than {MAX_LIST} items")
            scope.budget.spend(len(found) // 8)
            result.extend(found)
        return result

    return run


def _compile_index(node: Index) -> Callable[[Scope], Value]:
    target, index = _compile(node.target), _compile(node.index)

    def run(scope: Scope) -> Value:
        items, position = target(scope), index(scope)
        if isinstance(position, Polynomial):
            raise UndeterminedError
        if not isinstance(position, int) or isinstance(position, bool):
            raise EvaluationError(f"an index must be an integer, not {describe(position)}")
        if isinstance(items, UnknownList):
            if position < 0 or position >= MAX_LIST:
                raise UndeterminedError
            return atom(items.name, position)
        items = known_list(items)
        if not -len(items) <= position < len(items):
            raise EvaluationError(f"index {position} is outside a list of {len(items)}")
        return items[position]

    return run


def _compile_slice(node: Slice) -> Callable[[Scope], Value]:
    target = _compile(node.target)
    start = None if node.start is None else _compile(node.start)
    stop = None if node.stop is None else _compile(node.stop)

    def run(scope: Scope) -> Value:
        items = known_list(target(scope))
        first = None if start is None else known_integer(start(scope))
        last = None if stop is None else known_integer(stop(scope))
        result = items[first:last]
        scope.budget.spend(len(result) // 8)
        return result

    return run


def _logic(operator: str, left: Callable[[Scope], Value], right: Callable[[Scope], Value], scope: Scope) -> bool:
    """``and`` and ``or`` of values that may be unknown: a known side may decide even if the other is unknown."""
    decides = operator == "or"
    try:
        if truth(left(scope)) is decides:
            return decides
    except UndeterminedError:
        if truth(right(scope)) is decides:
            return decides
        raise
    return truth(right(scope))


def _len(arguments: Sequence[Value], scope: Scope) -> Value:
    (value,) = _exactly_one("len", arguments)
    if isinstance(value, UnknownList):
        return atom(value.name, LENGTH)
    return len(known_list(value))


def _sum(arguments: Sequence[Value], scope: Scope) -> Value:
    (value,) = _exactly_one("sum", arguments)
    total: Value = 0
    items = known_list(value)
    scope.budget.spend(len(items))
    for item in items:
        total = arithmetic("+", total, item)
    return total


def _extreme(pick: Callable[[list[int]], int], arguments: Sequence[Value], scope: Scope) -> Value:
    values = known_list(arguments[0]) if len(arguments) == 1 else list(arguments)
    scope.budget.spend(len(values))
    if not values:
        raise EvaluationError("min and max need at least one value")
    return pick([known_integer(value) for value in values])


def _contains(item: Value, items: list[Value], scope: Scope) -> bool:
    scope.budget.spend(len(items))
    return contains(item, items)


def _exactly_one(name: str, arguments: Sequence[Value]) -> Sequence[Value]:
    if len(arguments) != 1:
        raise EvaluationError(f"{name} takes one list, not {len(arguments)} arguments")
    return arguments


_FUNCTIONS: dict[str, Callable[[Sequence[Value], Scope], Value]] = {
    "len": _len,
    "sum": _sum,
    "min": lambda arguments, scope: _extreme(min, arguments, scope),
    "max": lambda arguments, scope: _extreme(max, arguments, scope),
}
