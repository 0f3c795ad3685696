"""A forward recipe: what a sequential network computes, as data.

    [forward]
    input = "batch in_channels height width"     dimensions; a name that is not a param stays free
    dtype = "I64"                                of the input, I64 or I32; left out, a float
    steps = [
        "conv2d conv1 stride=2 padding=3",       operation, module, attributes (expressions)
        "{activation}",                          an activation that a param of type str names
        ["for stage block",                      loops, the outermost first
            ["residual",                         what these steps give, plus what went in …
                "conv2d layer{stage+1}.{block}.conv1 padding=1",
                ["shortcut if projected",        … after these
                    "conv2d layer{stage+1}.{block}.downsample.0"]]],
        ["if pooled", "adaptive_avg_pool2d size=1"],
        "flatten",
        "linear fc",
    ]

Each step takes what the one before it gives. A module's tensors are ``NAME.weight``, ``NAME.bias`` and so on, of
which the table of tensors says whether they are there; a bias that is not in the table is not added.
`catalog` lists the operations and their attributes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.arch.evaluate import Formula
    from ckptconv.arch.template import Template

MAX_DEPTH = 12
"""How deeply blocks may be nested."""

MAX_STEPS = 2_000
"""How many steps a recipe may be written with; loops make more of them."""


@dataclass(frozen=True, slots=True)
class Step:
    """One operation.

    text:       the step as it is written in the spec, for messages.
    operation:  its name, or a template with one placeholder if a param gives the name.
    module:     the prefix of its tensors' names; None if it has none.
    attributes: expressions, or plain floats.
    """

    text: str
    operation: Template
    module: Template | None = None
    attributes: Mapping[str, Formula | float] = field(default_factory=dict)

    @property
    def formulas(self) -> Iterator[Formula]:
        """Every expression in the step."""
        yield from self.operation.formulas
        if self.module is not None:
            yield from self.module.formulas
        yield from (value for value in self.attributes.values() if not isinstance(value, float))


@dataclass(frozen=True, slots=True)
class Block:
    """Steps that belong together: repeated, under a condition, around a residual addition."""

    kind: Literal["for", "if", "residual", "shortcut"]
    steps: tuple[Step | Block, ...]
    loops: tuple[str, ...] = ()
    when: Formula | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the network computes from one input.

    input: its dimensions, each an expression or the name of a free one.
    dtype: the input's element type, I64 or I32; None for the type that is computed in.
    where: the spec's file and line, for messages.
    """

    input: tuple[Formula | str, ...]
    steps: tuple[Step | Block, ...]
    dtype: str | None = None
    where: str = ""

    @property
    def formulas(self) -> Iterator[tuple[Formula, tuple[str, ...], str]]:
        """Every expression, with the loops around it and the text of its step."""
        for part in self.input:
            if not isinstance(part, str):
                yield part, (), "input"
        yield from _formulas(self.steps, ())


def _formulas(
    steps: tuple[Step | Block, ...], loops: tuple[str, ...]
) -> Iterator[tuple[Formula, tuple[str, ...], str]]:
    for step in steps:
        if isinstance(step, Step):
            for formula in step.formulas:
                yield formula, loops, step.text
            continue
        if step.when is not None:
            yield step.when, loops, f"{step.kind} {step.when.text}"
        yield from _formulas(step.steps, (*loops, *step.loops))


def all_loops(recipe: Recipe) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """The loops of every ``for``, each with the loops around it."""
    waiting: list[tuple[tuple[Step | Block, ...], tuple[str, ...]]] = [(recipe.steps, ())]
    while waiting:
        steps, around = waiting.pop()
        for step in steps:
            if isinstance(step, Block):
                if step.loops:
                    yield step.loops, around
                waiting.append((step.steps, (*around, *step.loops)))
