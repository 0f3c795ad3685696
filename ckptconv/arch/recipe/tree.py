"""A forward recipe: what a network computes from one input, as data.

    [forward]
    input = "batch in_channels height width"     dimensions; a name that is not a param stays free
    dtype = "I64"                                of the input, I64 or I32; left out, a float
    steps = [
        "conv2d conv1 stride=2 padding=3",       operation, module, attributes (expressions)
        "{activation}",                          an activation that a param of type str names
        ["for stage block",                      loops, the outermost first
            ["residual",                         what these steps give, plus what went in (or residual if CONDITION) …
                "conv2d layer{stage+1}.{block}.conv1 padding=1",
                ["shortcut if projected",        … after these
                    "conv2d layer{stage+1}.{block}.downsample.0"]]],
        ["product",                              # or sum, concat axis=…, attention heads=…: of what the branches give
            ["branch"],                          # an empty one gives what goes in
            ["branch", "adaptive_avg_pool2d size=1", "conv2d gate", "sigmoid"]],
        ["if pooled", "adaptive_avg_pool2d size=1"],
        "flatten",
        "unused mask",                           a tensor that the model has and does not compute with
        "linear fc",
    ]

Each step takes what the one before it gives, and each branch what the step before all of them gives. A module's tensors
are ``NAME.weight``, ``NAME.bias`` and so on, of which the table of tensors says whether they are there; a bias that is
not in the table is not added.
`catalog` lists the operations and their attributes, `joins` those that take several branches. A recipe that some models
of the architecture lack says which it is for: ``when = "CONDITION"``.
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
    """Steps that belong together: repeated, under a condition, around a residual addition; or branches that are joined.

    attributes: of a join.
    """

    kind: Literal["for", "if", "residual", "shortcut", "branch", "sum", "product", "concat", "attention"]
    steps: tuple[Step | Block, ...]
    loops: tuple[str, ...] = ()
    when: Formula | None = None
    attributes: Mapping[str, Formula | float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What the network computes from one input.

    input: its dimensions, each an expression or the name of a free one.
    dtype: the input's element type, I64 or I32; None for the type that is computed in.
    where: the spec's file and line, for messages.
    when:  a condition on the params; the recipe says nothing of models for which it is false.
    """

    input: tuple[Formula | str, ...]
    steps: tuple[Step | Block, ...]
    dtype: str | None = None
    where: str = ""
    when: Formula | None = None

    @property
    def formulas(self) -> Iterator[tuple[Formula, tuple[str, ...], str]]:
        """Every expression, with the loops around it and the text of its step."""
        if self.when is not None:
            yield self.when, (), "when"
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
        for value in step.attributes.values():
            if not isinstance(value, float):
                yield value, loops, f"{step.kind} {value.text}"
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
