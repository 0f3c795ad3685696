"""The expressions of architecture specs: their grammar, and a parser.

    expression  = choice
    choice      = or ["if" or "else" choice]
    or          = and {"or" and}              and = not {"and" not}         not = "not" not | comparison
    comparison  = sum [("==" | "!=" | "<" | "<=" | ">" | ">=" | "in") sum]
    sum         = product {("+" | "-") product}
    product     = unary {("*" | "//" | "%") unary}
    unary       = "-" unary | postfix
    postfix     = atom {"[" expression "]" | "[" [expression] ":" [expression] "]"}
    atom        = integer | string | "true" | "false" | name | function "(" arguments ")"
                | "(" expression ")" | "[" [["*"] expression {"," ["*"] expression}] "]"
    name        = letter {letter | digit | "_"} {"." name}            (a dot names a mounted spec's param)
    function    = "len" | "min" | "max" | "sum"

Values are integers, booleans, strings and lists. There is no power, no other call, no attribute and no assignment: an
expression from a stranger can only compute a small number. Nothing here uses `eval` or `ast`.

Refused: more than `MAX_LENGTH` characters or `MAX_TOKENS` tokens, nesting past `MAX_DEPTH`, integers outside 64 bits.
Every error names the expression and the column (from 1).
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NoReturn

from ckptconv.arch.tree import Binary, Call, Choice, Expression, Index, ListDisplay, Literal, Name, Node, Slice, Unary
from ckptconv.errors import CorruptFileError, LimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MAX_LENGTH = 1_000
"""The most characters; the longest expression in the library has under 200."""

MAX_TOKENS = 300
"""The most tokens: a chain ``a + a + …`` is a tree as deep as it is long, and trees are walked by recursion."""

MAX_DEPTH = 30
"""How deep brackets, conditions and signs may be nested; each takes 14 of Python's 1,000 frames."""

MAX_INTEGER = (1 << 63) - 1
"""Dimensions and element counts are 64-bit in every format."""

FUNCTIONS = ("len", "max", "min", "sum")
KEYWORDS = ("and", "else", "false", "if", "in", "not", "or", "true")
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z_0-9]*")


def is_name(text: str) -> bool:
    """Whether a spec may use this as a name of its own."""
    return IDENTIFIER.fullmatch(text) is not None and text not in KEYWORDS and text not in FUNCTIONS


_TOKEN = re.compile(
    r"""\s*(?:
        (?P<integer>[0-9]+(?![0-9A-Za-z_.])) |
        (?P<name>[A-Za-z_][A-Za-z_0-9]*(?:\.[A-Za-z_][A-Za-z_0-9]*)*) |
        (?P<string>'[^'\\\n]*'|"[^"\\\n]*") |
        (?P<sign>\*\*|//|==|!=|<=|>=|[-+*%<>()\[\],:]) |
        (?P<end>$)
    )""",
    re.VERBOSE,
)


def refuse(text: str, column: int, problem: str, error: type[CorruptFileError] = CorruptFileError) -> NoReturn:
    """Raise `error` about the expression `text` at `column` (from 1)."""
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    raise error(f"expression {shown!r}, column {column}: {problem}")


@lru_cache(maxsize=4096)
def parse(text: str) -> Expression:
    """The tree of `text`. Raises CorruptFileError, or LimitError past a limit, with the column."""
    if len(text) > MAX_LENGTH:
        refuse(text, MAX_LENGTH, f"longer than {MAX_LENGTH} characters", LimitError)
    parser = _Parser(text)
    node = parser.choice()
    parser.expect_end()
    return Expression(text, node)


def split_shape(text: str) -> tuple[str, ...]:
    """The dimensions of a shape: expressions separated by white space outside of brackets and strings.

    A blank next to an operator does not separate: ``"2 * hidden  hidden"`` has two dimensions. A dimension with ``if``,
    ``and``, ``or``, ``not`` or ``in`` needs parentheses.
    """
    if len(text) > MAX_LENGTH:
        refuse(text, MAX_LENGTH, f"longer than {MAX_LENGTH} characters", LimitError)
    starts: list[int] = []
    depth, open_side = 0, True
    for kind, value, start in _tokens(text):
        if kind == "end":
            break
        opening = value in ("(", "[")
        operator = kind == "sign" and not opening and value not in (")", "]")
        spaced = start > 0 and text[start - 1].isspace()
        if depth == 0 and (not starts or (spaced and not open_side and not operator)):
            starts.append(start)
        depth += opening - (value in (")", "]"))
        open_side = operator or opening
    return tuple(text[start:stop].strip() for start, stop in pairwise([*starts, len(text)]))


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """(kind, text, start) of each token, including the end."""
    position = 0
    for _ in range(MAX_TOKENS):
        found = _TOKEN.match(text, position)
        if found is None or found.lastgroup is None:
            column = len(text) - len(text[position:].lstrip()) + 1
            refuse(text, column, f"unexpected {text[column - 1 : column]!r}")
        kind, value = found.lastgroup, found[found.lastgroup]
        yield kind, value, found.start(kind)
        if kind == "end":
            return
        position = found.end()
    refuse(text, position + 1, f"longer than {MAX_TOKENS} words and signs", LimitError)


class _Parser:
    """Recursive descent over the tokens of one expression."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(_tokens(text))
        self.position = 0
        self.depth = 0

    @property
    def value(self) -> str:
        """The token under the cursor; "" for a string or the end."""
        kind, value, _ = self.tokens[self.position]
        return value if kind in ("name", "sign") else ""

    @property
    def column(self) -> int:
        return self.tokens[self.position][2] + 1

    def fail(self, problem: str, column: int | None = None) -> NoReturn:
        refuse(self.text, column or self.column, problem)

    def accept(self, *values: str) -> str | None:
        if self.value in values:
            self.position += 1
            return self.tokens[self.position - 1][1]
        return None

    def expect(self, value: str) -> None:
        if not self.accept(value):
            self.fail(f"expected {value!r}, found {self.found()}")

    def found(self) -> str:
        kind, value, _ = self.tokens[self.position]
        return "the end" if kind == "end" else repr(value)

    def expect_end(self) -> None:
        if self.tokens[self.position][0] != "end":
            if self.value == "**":
                self.fail("there is no power operator")
            self.fail(f"unexpected {self.found()}")

    def nested(self, rule: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            refuse(self.text, self.column, f"nested deeper than {MAX_DEPTH}", LimitError)
        node = rule()
        self.depth -= 1
        return node

    def choice(self) -> Node:
        column = self.column
        then = self.either()
        if not self.accept("if"):
            return then
        test = self.either()
        self.expect("else")
        return Choice(then, test, self.nested(self.choice), column)

    def chain(self, rule: Callable[[], Node], *operators: str) -> Node:
        left = rule()
        while True:
            column = self.column
            operator = self.accept(*operators)
            if operator is None:
                return left
            left = Binary(operator, left, rule(), column)

    def either(self) -> Node:
        return self.chain(self.both, "or")

    def both(self) -> Node:
        return self.chain(self.negation, "and")

    def negation(self) -> Node:
        column = self.column
        if self.accept("not"):
            return Unary("not", self.nested(self.negation), column)
        return self.comparison()

    def comparison(self) -> Node:
        left, column = self.sum(), self.column
        operator = self.accept("==", "!=", "<", "<=", ">", ">=", "in")
        return left if operator is None else Binary(operator, left, self.sum(), column)

    def sum(self) -> Node:
        return self.chain(self.product, "+", "-")

    def product(self) -> Node:
        return self.chain(self.unary, "*", "//", "%")

    def unary(self) -> Node:
        column = self.column
        if self.accept("-"):
            return Unary("-", self.nested(self.unary), column)
        return self.postfix()

    def postfix(self) -> Node:
        node = self.atom()
        while True:
            column = self.column
            if not self.accept("["):
                return node
            node = self.subscript(node, column)

    def subscript(self, target: Node, column: int) -> Node:
        start = None if self.value == ":" else self.nested(self.choice)
        if start is not None and self.accept("]"):
            return Index(target, start, column)
        self.expect(":")
        stop = None if self.value == "]" else self.nested(self.choice)
        self.expect("]")
        return Slice(target, start, stop, column)

    def atom(self) -> Node:
        kind, value, start = self.tokens[self.position]
        column = start + 1
        if kind == "end" or (kind == "sign" and value not in ("(", "[")):
            if value == "**":
                self.fail("there is no power operator")
            self.fail(f"expected a value, found {self.found()}")
        self.position += 1
        match kind, value:
            case "integer", _:
                return Literal(self.integer(value, column), column)
            case "string", _:
                return Literal(value[1:-1], column)
            case "sign", "(":
                node = self.nested(self.choice)
                self.expect(")")
                return node
            case "sign", _:
                return self.list_display(column)
            case _:
                return self.named(value, column)

    def integer(self, digits: str, column: int) -> int:
        if len(digits) > 19 or int(digits) > MAX_INTEGER:
            refuse(self.text, column, "integer outside 64 bits", LimitError)
        return int(digits)

    def named(self, value: str, column: int) -> Node:
        if value in ("true", "false"):
            return Literal(value == "true", column)
        if value in KEYWORDS:
            self.fail(f"expected a value, found {value!r}", column)
        if not self.accept("("):
            return Name(value, column)
        if value not in FUNCTIONS:
            self.fail(f"no function {value!r}; there are {', '.join(FUNCTIONS)}", column)
        return Call(value, tuple(node for _, node in self.items(")", spread=False)), column)

    def list_display(self, column: int) -> Node:
        return ListDisplay(tuple(self.items("]", spread=True)), column)

    def items(self, closing: str, *, spread: bool) -> list[tuple[bool, Node]]:
        found: list[tuple[bool, Node]] = []
        while not self.accept(closing):
            if found:
                self.expect(",")
            starred = spread and self.accept("*") is not None
            found.append((starred, self.nested(self.choice)))
        return found


def split_range(text: str) -> tuple[str, ...]:
    """The parts of ``start:stop`` or ``start:stop:step``; a single part if there is no colon outside of brackets."""
    cuts, depth = [-1], 0
    for kind, value, start in _tokens(text):
        if kind == "sign":
            depth += (value in ("(", "[")) - (value in (")", "]"))
            if value == ":" and depth == 0:
                cuts.append(start)
    return tuple(text[start + 1 : stop].strip() for start, stop in pairwise([*cuts, len(text)]))
