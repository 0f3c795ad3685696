"""Reads a ``[forward]`` table; `tree` describes the notation."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NoReturn

from ckptconv.arch.expressions import IDENTIFIER
from ckptconv.arch.recipe.catalog import KINDS
from ckptconv.arch.recipe.joins import JOINS
from ckptconv.arch.recipe.tree import MAX_DEPTH, MAX_STEPS, Block, Recipe, Step
from ckptconv.errors import LimitError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.arch.evaluate import Formula
    from ckptconv.arch.rows import Rows, Toml
    from ckptconv.arch.template import Template

_ATTRIBUTE = re.compile(r"([a-z_]+)=(.+)", re.DOTALL)
_FLOAT = re.compile(r"[0-9]*\.[0-9]+(e-?[0-9]+)?|[0-9]+e-?[0-9]+")
_OPEN, _CLOSE = "([{", ")]}"

PATH = ("forward", "steps")
INTEGERS = ("I64", "I32")

BLOCKS = f"for LOOP, if CONDITION, residual, shortcut, each with or without if CONDITION, {', '.join(JOINS)}, branch"
"""The headings of blocks, for messages."""


class RecipeReader:
    """Reads the forward recipe of one spec."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.count = 0

    def fail(self, text: str, problem: str, hint: str | None = None) -> NoReturn:
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        self.rows.fail(PATH, f"{shown!r}: {problem}", hint)

    def recipe(self, value: Toml, known: Sequence[str]) -> Recipe:
        """Read the recipe. `known`: the names of params and lets; other names among the dimensions are free."""
        rows = self.rows
        row = rows.table(value, ("forward",), ("when", "input", "dtype", "steps"))
        for key in ("input", "steps"):
            if key not in row:
                rows.fail(("forward",), f"a recipe needs {key!r}")
        path = ("forward", "input")
        dimensions = rows.at(path, _words, rows.text(row["input"], path))
        if not dimensions:
            rows.fail(path, "an input has at least one dimension")
        parts = tuple(
            part if IDENTIFIER.fullmatch(part) and part not in known else rows.formula(part, path)
            for part in dimensions
        )
        dtype = None
        if "dtype" in row:
            dtype = rows.text(row["dtype"], ("forward", "dtype"))
            if dtype not in INTEGERS:
                rows.fail(
                    ("forward", "dtype"), f"no element type of an input: {dtype!r}",
                    "I64 or I32 for token numbers; left out, it is what the weights are",
                )  # fmt: skip
        when = rows.formula(rows.text(row["when"], ("forward", "when")), ("forward", "when")) if "when" in row else None
        return Recipe(parts, self.steps(row["steps"], 0), dtype, rows.place(PATH), when)

    def steps(self, value: Toml, depth: int, around: str = "") -> tuple[Step | Block, ...]:
        if not isinstance(value, list):
            self.rows.fail(PATH, "expected a list of steps")
        if depth > MAX_DEPTH:
            raise LimitError(f"{self.rows.place(PATH)}: blocks nested too deeply")
        return tuple(self.step(item) if isinstance(item, str) else self.block(item, depth, around) for item in value)

    def block(self, value: Toml, depth: int, around: str) -> Block:
        if not isinstance(value, list) or not value or not isinstance(value[0], str):
            self.rows.fail(PATH, f"expected a step, or a list that starts with one of {BLOCKS}")
        heading = value[0]
        word, _, rest = heading.strip().partition(" ")
        rest = rest.strip()
        steps = self.steps(value[1:], depth + 1, word)
        if word == "shortcut" and around != "residual":
            self.fail(heading, "a shortcut stands directly in a residual block", "shortcut if CONDITION")
        if word == "branch" and around not in JOINS:
            self.fail(heading, f"a branch stands directly in one of {', '.join(JOINS)}")
        if word in JOINS:
            return self.join(heading, word, rest, steps)
        if word == "for" and rest:
            return Block("for", steps, loops=tuple(rest.split()))
        if word == "if" and rest:
            return Block("if", steps, when=self.formula(rest))
        if word == "residual" and (not rest or rest.startswith("if ")):
            shortcuts = [step for step in steps if isinstance(step, Block) and step.kind == "shortcut"]
            if len(shortcuts) > 1:
                self.fail(heading, "two shortcuts in one residual block")
            return Block("residual", steps, when=self.formula(rest[3:]) if rest else None)
        if word in ("shortcut", "branch") and (not rest or rest.startswith("if ")):
            return Block(word, steps, when=self.formula(rest[3:]) if rest else None)  # type: ignore[arg-type]
        return self.fail(heading, "no such block", BLOCKS)

    def join(self, heading: str, word: str, rest: str, branches: tuple[Step | Block, ...]) -> Block:
        """A block of branches whose results are put together."""
        if any(not isinstance(each, Block) or each.kind != "branch" for each in branches):
            self.fail(heading, "takes branches, and nothing else", '["branch", STEP, …]')
        attributes = self.attributes(heading, self.rows.at(PATH, _words, rest))
        self.check_attributes(heading, word, attributes, JOINS[word].attributes)
        return Block(word, branches, attributes=attributes)  # type: ignore[arg-type]

    def step(self, text: str) -> Step:
        self.count += 1
        if self.count > MAX_STEPS:
            raise LimitError(f"{self.rows.place(PATH)}: more than {MAX_STEPS} steps")
        words = self.rows.at(PATH, _words, text)
        if not words:
            self.fail(text, "an empty step")
        operation, *rest = words
        if "{" not in operation and operation not in KINDS:
            self.fail(text, f"no operation {operation!r}", self.rows.nearest(operation, KINDS))
        module: Template | None = None
        if rest and not _ATTRIBUTE.fullmatch(rest[0]):
            module = self.rows.template(rest.pop(0), PATH)
        attributes = self.attributes(text, rest)
        self.check(text, operation, module, attributes)
        return Step(text, self.rows.template(operation, PATH), module, attributes)

    def attributes(self, text: str, words: Sequence[str]) -> dict[str, Formula | float]:
        attributes: dict[str, Formula | float] = {}
        for word in words:
            found = _ATTRIBUTE.fullmatch(word)
            if found is None:
                self.fail(text, f"expected an attribute such as stride=2, found {word!r}")
            key, value = found.groups()
            if key in attributes:
                self.fail(text, f"{key!r} is given twice")
            attributes[key] = float(value) if _FLOAT.fullmatch(value) else self.formula(value)
        return attributes

    def check(self, text: str, operation: str, module: Template | None, attributes: dict[str, Formula | float]) -> None:
        kind = KINDS.get(operation)
        if kind is None:
            if module is not None or attributes:
                self.fail(text, "an activation that a param names has no module and no attributes")
            return
        named = bool(kind.weights or kind.state)
        if named != (module is not None):
            self.fail(text, f"{operation} needs the name of its module" if named else f"{operation} has no tensors")
        self.check_attributes(text, operation, attributes, kind.attributes)

    def check_attributes(
        self, text: str, operation: str, given: Mapping[str, Formula | float], known: Mapping[str, object]
    ) -> None:
        for key in given:
            if key not in known:
                self.fail(text, f"{operation} has no attribute {key!r}", f"it has {', '.join(known) or 'none'}")

    def formula(self, value: str) -> Formula:
        return self.rows.formula(value, PATH)


def _words(text: str) -> list[str]:
    """`text` split at white space outside brackets, braces and quotes."""
    if len(text) > 1_000:
        raise LimitError("a step of more than 1000 characters")
    words, depth, quote, start = [], 0, "", 0
    for position, character in enumerate(f"{text} "):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in _OPEN:
            depth += 1
        elif character in _CLOSE:
            depth -= 1
        elif character.isspace() and depth <= 0:
            if start < position:
                words.append(text[start:position])
            start = position + 1
    if start < len(text):  # a bracket or a quote that nothing closes
        words.append(text[start:])
    return words
