"""An architecture spec: the names, shapes and relations of a family of models, as data.

This module has the parsed form. `parse` describes, and reads, the TOML that it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Literal

from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ckptconv.arch.evaluate import Formula
    from ckptconv.arch.recipe.tree import Recipe
    from ckptconv.arch.template import Template

ParamType = Literal["int", "ints", "str", "strs", "bool", "float"]

ParamValue = int | float | str | list[int] | list[str]
"""The value of a param; bools are ints here, as in Python."""

VARIANT = "variant"
"""The param that every spec with ``[variants]`` has: which of them a model is."""


@dataclass(frozen=True, slots=True)
class Param:
    """A named quantity of the architecture.

    default:  a formula over other params that gives its value if nothing else does; evaluated last.
    literal:  a plain default value.
    optional: it may stay without a value.
    choices:  the values that it may have, in order of preference; of a bool, its default comes first.
    aliases:  further metadata keys that state it.
    """

    name: str
    type: ParamType
    default: Formula | None = None
    literal: ParamValue | None = None
    optional: bool = False
    choices: tuple[int | str, ...] | None = None
    aliases: tuple[str, ...] = ()
    summary: str = ""

    @property
    def required(self) -> bool:
        """Whether a model cannot be described without it."""
        return self.default is None and self.literal is None and not self.optional


@dataclass(frozen=True, slots=True)
class Loop:
    """A loop variable: integers from `start` in steps of `step` to before `stop`, or the items of a list."""

    name: str
    stop: Formula
    start: Formula | None = None
    step: Formula | None = None

    @property
    def plain(self) -> bool:
        """Whether it simply counts from 0."""
        return self.start is None and self.step is None

    @property
    def formulas(self) -> Iterator[Formula]:
        """Its bounds."""
        yield from (bound for bound in (self.start, self.stop, self.step) if bound is not None)


@dataclass(frozen=True, slots=True)
class Tie:
    """A tensor shares its storage with another one, always or under a condition."""

    to: Template
    when: Formula | None = None


@dataclass(frozen=True, slots=True)
class TensorRule:
    """A family of tensors: one for each combination of its loop variables' values.

    loops:  the loop variables, outermost first.
    dtypes: names of the element types that fit; None for any.
    where:  the spec's file and line, for messages.
    """

    name: Template
    shape: tuple[Formula, ...]
    loops: tuple[str, ...] = ()
    optional: bool = False
    tie: Tie | None = None
    dtypes: frozenset[str] | None = None
    when: Formula | None = None
    where: str = ""

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def formulas(self) -> Iterator[Formula]:
        """All its formulas."""
        yield from self.name.formulas
        yield from self.shape
        if self.when is not None:
            yield self.when
        if self.tie is not None:
            yield from self.tie.to.formulas
            if self.tie.when is not None:
                yield self.tie.when


@dataclass(frozen=True, slots=True)
class Constraint:
    """A condition that the params must meet."""

    name: str
    formula: Formula


@dataclass(frozen=True, slots=True)
class ConfigParam:
    """How a configuration states one param.

    each:     formulas over the configuration's keys; the first one that has a value counts.
    loop:     a name that counts from 0 to below `stop`, if the param is a list: each turn gives an item, or a list of
              them.
    parts:    for a param of a mounted spec, where its configuration is inside the whole one: at each level, the first
              of some keys that holds a configuration. "." stands for the configuration itself.
    defaults: what keys that are absent there mean.
    """

    each: tuple[Formula, ...]
    loop: str = ""
    stop: Formula | None = None
    parts: tuple[tuple[str, ...], ...] = ()
    defaults: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ConfigMap:
    """How a ``config.json`` of a Hugging Face library states the params.

    model_types:   values of its ``model_type`` that mean this spec.
    architectures: values of its ``architectures``, or of diffusers' ``_class_name``, that mean this spec.
    defaults:      what absent keys mean: the class's own defaults.
    when:          conditions over its keys; where one is false, the class was made with an option that the spec lacks.
    """

    model_types: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    params: Mapping[str, ConfigParam] = field(default_factory=dict)
    defaults: Mapping[str, object] = field(default_factory=dict)
    when: tuple[Formula, ...] = ()


@dataclass(frozen=True, slots=True)
class Spec:
    """One architecture.

    varying:      lets that depend on loop variables: the let's name → those variables.
    yields_to:    specs that are the better answer if both fit a checkpoint's names equally well.
    mistaken_for: specs whose incomplete files have all of its names, so that names alone decide for neither.
    variants:     summaries of the variants, by name.
    forward:      what the network computes, if the spec says so.
    digest:       "sha256:…" of its content, without comments and layout.
    source:       the file or library name that it was read from, for messages.
    """

    name: str
    summary: str = ""
    params: Mapping[str, Param] = field(default_factory=dict)
    lets: Mapping[str, Formula] = field(default_factory=dict)
    varying: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    loops: Mapping[str, Loop] = field(default_factory=dict)
    rules: tuple[TensorRule, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
    config: ConfigMap = ConfigMap()
    yields_to: tuple[str, ...] = ()
    mistaken_for: tuple[str, ...] = ()
    forward: Recipe | None = None
    digest: str = ""
    source: str = ""

    def __repr__(self) -> str:
        return f"<Spec {self.name}: {', '.join(self.required)}>"

    @property
    def required(self) -> list[str]:
        """Names of the params that a model cannot be described without."""
        return [name for name, param in self.params.items() if param.required]

    def lacks(self, name: str) -> UsageError:
        """The error for a param that it does not have, with the most similar one as the hint."""
        near = get_close_matches(name, self.params, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(self.params) or 'none'}"
        return UsageError(f"{self.name!r} has no param {name!r}", hint=hint)

    def names_behind(self, formulas: Iterable[Formula]) -> set[str]:
        """All names that formulas use, directly or through lets and loops."""
        stack = [name for formula in formulas for name in formula.names]
        seen: set[str] = set()
        while stack:
            name = stack.pop()
            if name not in seen:
                seen.add(name)
                stack += self.lets[name].names if name in self.lets else ()
                if name in self.loops:
                    stack += (other for bound in self.loops[name].formulas for other in bound.names)
        return seen
