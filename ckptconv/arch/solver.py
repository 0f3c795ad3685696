"""Finds the params of a checkpoint from its tensors' names and shapes, and compares them with what is stated elsewhere.

`solve` reads no tensor's values and needs no framework. It takes about 5 µs for each tensor.
"""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.arch.bind import conflict
from ckptconv.arch.check import check
from ckptconv.arch.equations import TENSORS, Solved, Solving
from ckptconv.arch.evaluate import Allowance
from ckptconv.arch.match import compile_patterns, match_names
from ckptconv.arch.operations import EvaluationError
from ckptconv.arch.polynomial import SCALAR
from ckptconv.arch.scope import Scope
from ckptconv.arch.switches import Ranking
from ckptconv.arch.table import Table, expand, render
from ckptconv.arch.tree import Name
from ckptconv.core.report import errors_among
from ckptconv.core.text import plural
from ckptconv.errors import StepsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from ckptconv.arch.bind import Source
    from ckptconv.arch.evaluate import Budget
    from ckptconv.arch.polynomial import Atom, Monomial
    from ckptconv.arch.scope import Bindings
    from ckptconv.arch.spec import ParamValue, Spec
    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import TensorInfo


@dataclass(frozen=True, slots=True)
class Solution:
    """A spec's params for one checkpoint.

    params:   every param that is completely known.
    origins:  param → where its value is from: "tensors", a source's name, or "default".
    open:     params that nothing determines.
    products: products of open params that the tensors do determine: ``{"heads*head_dim": 4096}``.
    findings: `param-conflict` errors: a source states one value, the tensors (or a stronger source) another.
    table:    the expanded table for these params; None if it cannot be made, and then `problem` says why.
    """

    spec: Spec
    params: dict[str, ParamValue]
    origins: dict[str, str]
    open: tuple[str, ...] = ()
    products: dict[str, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    table: Table | None = None
    problem: UsageError | None = None


def solve(
    spec: Spec,
    tensors: Mapping[str, TensorInfo],
    sources: Sequence[Source] = (),
    *,
    aliases: Mapping[str, Hashable] | None = None,
    allowance: Allowance | None = None,
) -> Solution:
    """Bind the params of `spec` for a checkpoint.

    sources: what is stated elsewhere, the strongest first. The tensors outvote them, except for the user's own word.
    aliases: name → storage, equal for names that share one.
    allowance: the steps that it may take together with other solutions; each of its parts is limited anyway.

    Raises LimitError for a spec that cannot be evaluated within limits, for example one with far more layers than any
    model has. A checkpoint that does not fit raises nothing: `check` says what does not fit, against `Solution.table`.
    """
    try:
        return _solve(spec, tensors, sources, aliases, allowance or Allowance(sys.maxsize))
    except StepsError as error:
        many = plural(len(tensors), "tensor")
        raise StepsError(
            f"{spec.name} takes too many steps to work out for these {many}, as for far more layers than any model has",
            hint="--arch OTHER.pth compares it with another checkpoint; a spec of your own may do with fewer loops",
        ) from error


def _solve(
    spec: Spec,
    tensors: Mapping[str, TensorInfo],
    sources: Sequence[Source],
    aliases: Mapping[str, Hashable] | None,
    allowance: Allowance,
) -> Solution:
    matches = match_names(compile_patterns(spec), tensors)
    candidates = Ranking(spec, matches, sources, allowance.budget()).best()
    solutions = []
    for assignment in candidates or [{}]:
        solved = Solving(spec, matches, assignment, sources, allowance.budget()).run()
        _tie_params(spec, solved, tensors, sources, aliases, allowance.budget())
        solutions.append(_solution(spec, solved, sources, allowance.budget()))
    if len(solutions) == 1:
        return solutions[0]
    return min(solutions, key=lambda solution: errors(solution, tensors))


def errors(solution: Solution, tensors: Mapping[str, TensorInfo]) -> int:
    """How many tensors and params do not fit; more than there are tensors if the spec has no table for them."""
    if solution.table is None:
        return len(tensors) + 1
    return len(solution.findings) + len(errors_among(check(solution.table, tensors)))


def _solution(spec: Spec, solved: Solved, sources: Sequence[Source], budget: Budget) -> Solution:
    bindings = solved.bindings
    whole = {name: bindings.whole(spec, name) for name in spec.params}
    table, problem = None, None
    try:
        table = expand(spec, bindings, budget)
    except UsageError as error:
        problem = error
    return Solution(
        spec,
        params={name: value for name, value in whole.items() if value is not None},
        origins={
            name: solved.origins[name] for name, value in whole.items() if name in solved.origins and value is not None
        },
        open=tuple(name for name, value in whole.items() if value is None and not spec.params[name].optional),
        products={_monomial_text(key): value for key, value in bindings.products.items() if _open(bindings, key)},
        findings=tuple(_conflicts(spec, solved, sources)),
        table=table,
        problem=problem,
    )


def _open(bindings: Bindings, monomial: Monomial) -> bool:
    return not all(bindings.knows(key) for key in monomial)


def _monomial_text(monomial: Monomial) -> str:
    return "*".join(_atom_text(key) for key in monomial)


def _atom_text(key: Atom) -> str:
    name, part = key
    if part >= 0:
        return f"{name}[{part}]"
    return name if part == SCALAR else f"len({name})"


def _bound_value(bindings: Bindings, monomial: Monomial) -> int | None:
    if len(monomial) > 1:
        return bindings.products.get(monomial)
    name, part = monomial[0]
    if part >= 0:
        return bindings.elements.get(monomial[0])
    value = bindings.values.get(name) if part == SCALAR else bindings.lengths.get(name)
    return value if isinstance(value, int) else None


def _conflicts(spec: Spec, solved: Solved, sources: Sequence[Source]) -> list[Finding]:
    found: list[Finding] = []
    rejected = set(solved.rejected)
    for source in sources:
        found += source.findings
        for name, value in source.values.items():
            bound = solved.bindings.whole(spec, name)
            if (name, source.name) in rejected:
                problem = f"the tensors say {_products_text(solved.bindings, name)}"
            elif _agrees(solved.bindings, name, value, bound):
                continue
            else:
                problem = _bound_text(solved, name, bound)
            found.append(conflict(name, source.name, str(value), problem))
    return found


def _agrees(bindings: Bindings, name: str, value: ParamValue, bound: ParamValue | None) -> bool:
    """Whether a stated value is the bound one; or for an open param, contradicts nothing that is known of it."""
    if bound is not None:
        return bound == value and isinstance(bound, bool) == isinstance(value, bool)
    if not isinstance(value, list):
        return True
    if bindings.lengths.get(name, len(value)) != len(value):
        return False
    keys = [(name, position) for position in range(len(value))]
    return all(bindings.elements.get(key, item) == item for key, item in zip(keys, value, strict=True))


def _products_text(bindings: Bindings, name: str) -> str:
    return ", ".join(
        f"{_monomial_text(monomial)} = {value}"
        for monomial, value in bindings.products.items()
        if any(key[0] == name for key in monomial)
    )


def _bound_text(solved: Solved, name: str, bound: ParamValue | None) -> str:
    """What outvoted a stated value: ``the tensors say 256 (model.norm.weight)``."""
    origin = solved.origins.get(name, TENSORS)
    shown = "otherwise" if bound is None else str(bound)
    if origin != TENSORS:
        return f"{origin} says {shown}"
    witnesses: list[str] = []
    for monomial, ballot in solved.ballots.items():
        if len(monomial) == 1 and monomial[0][0] == name:
            witnesses += ballot.witnesses.get(_bound_value(solved.bindings, monomial) or 0, [])
    names = list(dict.fromkeys(witnesses))[:3]
    return f"the tensors say {shown} ({', '.join(names)})" if names else f"the tensors say {shown}"


def _tie_params(
    spec: Spec,
    solved: Solved,
    tensors: Mapping[str, TensorInfo],
    sources: Sequence[Source],
    aliases: Mapping[str, Hashable] | None,
    budget: Budget,
) -> None:
    """Bind bools that say only whether tensors are tied: if one of the names is absent, they are.

    A name that is there, with a storage of its own, decides only if nothing states the param: copies of a tied tensor
    load just as well.
    """
    scope = Scope(spec, solved.bindings, budget)
    strong: dict[str, bool] = {}
    weak: dict[str, Counter[bool]] = {}
    for rule in spec.rules:
        if rule.tie is None or rule.tie.when is None or not isinstance(rule.tie.when.node, Name) or rule.loops:
            continue
        param = rule.tie.when.node.name
        if any(source.firm and param in source.values for source in sources):
            continue
        try:
            if scope.truth(rule.when) is not True:
                continue
            names = render(rule.name, scope), render(rule.tie.to, scope)
        except (EvaluationError, UsageError):
            continue
        if (names[0] in tensors) != (names[1] in tensors):
            strong[param] = True
        elif names[0] in tensors:
            storages = [None if aliases is None else aliases.get(name) for name in names]
            if storages[0] is not None and storages[0] == storages[1]:
                strong.setdefault(param, True)
            else:
                weak.setdefault(param, Counter())[False] += 1
    for param in {*strong, *weak}:
        stated = any(param in source.values for source in sources)
        if param in strong:
            solved.bindings.values[param], solved.origins[param] = True, TENSORS
        elif not stated:
            solved.bindings.values[param], solved.origins[param] = False, TENSORS
