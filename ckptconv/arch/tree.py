"""The syntax tree of an expression.

Nodes are plain data. `column` is where a node starts in its text, counted from 1, for messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@dataclass(frozen=True, slots=True)
class Literal:
    """An integer, boolean or string."""

    value: int | str
    column: int


@dataclass(frozen=True, slots=True)
class Name:
    """A param, a let or a loop variable."""

    name: str
    column: int


@dataclass(frozen=True, slots=True)
class ListDisplay:
    """``[a, *b]``: for each item, whether it is spread, and the item."""

    items: tuple[tuple[bool, Node], ...]
    column: int


@dataclass(frozen=True, slots=True)
class Index:
    """``target[index]``; negative indices count from the end."""

    target: Node
    index: Node
    column: int


@dataclass(frozen=True, slots=True)
class Slice:
    """``target[start:stop]``, clamped as in Python."""

    target: Node
    start: Node | None
    stop: Node | None
    column: int


@dataclass(frozen=True, slots=True)
class Call:
    """One of `FUNCTIONS`."""

    function: str
    arguments: tuple[Node, ...]
    column: int


@dataclass(frozen=True, slots=True)
class Unary:
    """``-x`` or ``not x``."""

    operator: str
    operand: Node
    column: int


@dataclass(frozen=True, slots=True)
class Binary:
    """Arithmetic, comparison, ``in``, ``and`` or ``or``."""

    operator: str
    left: Node
    right: Node
    column: int


@dataclass(frozen=True, slots=True)
class Choice:
    """``then if test else otherwise``."""

    then: Node
    test: Node
    otherwise: Node
    column: int


Node = Literal | Name | ListDisplay | Index | Slice | Call | Unary | Binary | Choice


@dataclass(frozen=True, slots=True)
class Expression:
    """A parsed expression with its text, for messages."""

    text: str
    node: Node

    @property
    def names(self) -> frozenset[str]:
        """The names of all params, lets and loop variables in it."""
        return frozenset(node.name for node in nodes(self.node) if isinstance(node, Name))


def nodes(node: Node) -> Iterator[Node]:
    """`node` and all nodes below it."""
    yield node
    for child in _children(node):
        yield from nodes(child)


def _children(node: Node) -> tuple[Node, ...]:
    match node:
        case ListDisplay():
            return tuple(item for _, item in node.items)
        case Index():
            return node.target, node.index
        case Slice():
            return tuple(child for child in (node.target, node.start, node.stop) if child is not None)
        case Call():
            return node.arguments
        case Unary():
            return (node.operand,)
        case Binary():
            return node.left, node.right
        case Choice():
            return node.then, node.test, node.otherwise
        case _:
            return ()


def renamed(node: Node, rename: Callable[[str], str]) -> Node:
    """The tree with every `Name` renamed, for mounting one spec inside another."""

    def again(child: Node) -> Node:
        return renamed(child, rename)

    match node:
        case Name():
            return Name(rename(node.name), node.column)
        case ListDisplay():
            return ListDisplay(tuple((spread, again(item)) for spread, item in node.items), node.column)
        case Index():
            return Index(again(node.target), again(node.index), node.column)
        case Slice():
            start = None if node.start is None else again(node.start)
            stop = None if node.stop is None else again(node.stop)
            return Slice(again(node.target), start, stop, node.column)
        case Call():
            return Call(node.function, tuple(again(argument) for argument in node.arguments), node.column)
        case Unary():
            return Unary(node.operator, again(node.operand), node.column)
        case Binary():
            return Binary(node.operator, again(node.left), again(node.right), node.column)
        case Choice():
            return Choice(again(node.then), again(node.test), again(node.otherwise), node.column)
        case _:
            return node


def unparse(node: Node) -> str:
    """The text of a tree, with brackets around every operation inside another."""

    def inner(child: Node) -> str:
        text = unparse(child)
        return f"({text})" if isinstance(child, Binary | Choice | Unary) else text

    match node:
        case Literal(value=str() as text):
            return f"'{text}'" if "'" not in text else f'"{text}"'
        case Literal(value=value):
            return str(value).lower()
        case Name(name=name):
            return name
        case ListDisplay():
            return f"[{', '.join(('*' if spread else '') + inner(item) for spread, item in node.items)}]"
        case Index():
            return f"{inner(node.target)}[{unparse(node.index)}]"
        case Slice():
            start = "" if node.start is None else unparse(node.start)
            stop = "" if node.stop is None else unparse(node.stop)
            return f"{inner(node.target)}[{start}:{stop}]"
        case Call():
            return f"{node.function}({', '.join(unparse(argument) for argument in node.arguments)})"
        case Unary():
            return f"{node.operator}{' ' if node.operator == 'not' else ''}{inner(node.operand)}"
        case Binary():
            tight = node.operator in ("*", "//", "%")
            return f"{inner(node.left)}{node.operator if tight else f' {node.operator} '}{inner(node.right)}"
        case Choice():
            return f"{inner(node.then)} if {inner(node.test)} else {inner(node.otherwise)}"


def depth(node: Node) -> int:
    """The number of levels of the tree."""
    return 1 + max((depth(child) for child in _children(node)), default=0)
