"""Mounts one spec inside another: its tensors get a prefix, and its names an alias.

A param ``width`` of a spec that is mounted as ``text`` is the param ``text.width`` of the whole, unless `set` gives it
as an expression. Mounting happens when a spec is read, and the result is one flat spec.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn

from ckptconv.arch.rows import MAX_ROWS
from ckptconv.arch.spec import ConfigMap, Constraint, Loop, Param, Spec, TensorRule, Tie
from ckptconv.arch.template import Template
from ckptconv.arch.tree import Literal, Name
from ckptconv.errors import LimitError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.arch.evaluate import Formula


@dataclass(frozen=True, slots=True)
class Place:
    """Where and how a spec is mounted.

    prefix: what its tensors' names start with. when: the condition for it to be there.
    dots:   whether its names keep their dots; those of a moving average's copies do not.
    config: keys of the configuration; the first that holds a configuration states the params as it does for the spec
            alone.
    given:  values of its params: name → formula.
    """

    prefix: Template
    when: Formula | None = None
    dots: bool = True
    config: tuple[str, ...] = ()
    given: Mapping[str, Formula] = field(default_factory=dict)

    def part(self, part: str | Formula, rename: Callable[[str], str]) -> str | Formula:
        """A part of a name as it is there. A placeholder of a param that is set to a text is replaced by it."""
        if isinstance(part, str):
            return self.literal(part)
        if isinstance(part.node, Name) and part.node.name in self.given:
            value = self.given[part.node.name]
            if isinstance(value.node, Literal) and isinstance(value.node.value, str):
                return value.node.value
            return value
        return part.renamed(rename)

    def literal(self, part: str) -> str:
        """Literal text of a name as it is there."""
        return part if self.dots else part.replace(".", "")


def mounted(
    outer: Spec, alias: str, inner: Spec, place: Place, given: Mapping[str, Formula], fail: Callable[[str], NoReturn]
) -> Spec:
    """`outer` with all of `inner` in it.

    Calls `fail` with what is wrong; raises LimitError past the limits of a spec.
    """
    unknown = [name for name in given if name not in inner.params]
    if unknown:
        fail(f"{inner.name!r} has no param {unknown[0]!r}; it has {', '.join(inner.params) or 'none'}")

    place = replace(place, given=given)

    def rename(name: str) -> str:
        return f"{alias}.{name}"

    spec = replace(
        outer,
        params={
            **outer.params,
            **{rename(name): _param(param, rename, place) for name, param in inner.params.items() if name not in given},
        },
        lets={
            **outer.lets,
            **{rename(name): value for name, value in given.items()},
            **{rename(name): value.renamed(rename) for name, value in inner.lets.items()},
        },
        loops={**outer.loops, **{rename(name): _loop(loop, rename) for name, loop in inner.loops.items()}},
        rules=(*outer.rules, *(_rule(rule, rename, place, alias) for rule in inner.rules)),
        constraints=(
            *outer.constraints,
            *(_constraint(entry, rename, place.when, alias) for entry in inner.constraints),
        ),
        config=_config(outer.config, inner.config, rename, place.config, given),
    )
    if max(len(spec.rules), len(spec.params), len(spec.lets), len(spec.loops)) > MAX_ROWS:
        raise LimitError(f"more than {MAX_ROWS} entries once everything is mounted")
    return spec


def _config(
    outer: ConfigMap,
    inner: ConfigMap,
    rename: Callable[[str], str],
    parts: tuple[str, ...],
    given: Mapping[str, Formula],
) -> ConfigMap:
    """`outer` with the params of `inner`, read from a part of the configuration; `outer`'s own formulas go first."""
    if not parts:
        return outer
    inner_params = {
        rename(name): replace(param, parts=(parts, *param.parts), defaults=param.defaults or inner.defaults)
        for name, param in inner.params.items()
        if name not in given
    }
    return replace(outer, params={**inner_params, **outer.params})


def _param(param: Param, rename: Callable[[str], str], place: Place) -> Param:
    """The param under its new name. Required params of a part that may be absent become optional."""
    default = None if param.default is None else param.default.renamed(rename)
    optional = param.optional or (param.required and place.when is not None)
    return replace(param, name=rename(param.name), default=default, optional=optional, aliases=())


def _loop(loop: Loop, rename: Callable[[str], str]) -> Loop:
    start = None if loop.start is None else loop.start.renamed(rename)
    step = None if loop.step is None else loop.step.renamed(rename)
    return Loop(rename(loop.name), loop.stop.renamed(rename), start, step)


def _rule(rule: TensorRule, rename: Callable[[str], str], place: Place, alias: str) -> TensorRule:
    own = None if rule.when is None else rule.when.renamed(rename)
    tie = rule.tie
    if tie is not None:
        tie = Tie(_template(tie.to, rename, place), None if tie.when is None else tie.when.renamed(rename))
    return replace(
        rule,
        name=_template(rule.name, rename, place),
        shape=tuple(dimension.renamed(rename) for dimension in rule.shape),
        tie=tie,
        when=both(place.when, own),
        where=f"{rule.where}, mounted as {alias}",
    )


def _template(template: Template, rename: Callable[[str], str], place: Place) -> Template:
    parts = [place.part(part, rename) for part in template.parts]
    text = "".join(part if isinstance(part, str) else f"{{{part.text}}}" for part in parts)
    return Template(place.prefix.text + text, (*place.prefix.parts, *parts))


def _constraint(entry: Constraint, rename: Callable[[str], str], when: Formula | None, alias: str) -> Constraint:
    formula = entry.formula.renamed(rename)
    return Constraint(f"{alias}: {entry.name}", formula if when is None else when.negated().joined("or", formula))


def both(first: Formula | None, second: Formula | None) -> Formula | None:
    """The condition that both hold; None means no condition."""
    if first is None or second is None:
        return first or second
    return first.joined("and", second)
