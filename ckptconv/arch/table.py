"""Expands a spec with bound params to a table: every tensor's name, and what is expected of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn, cast

from ckptconv.arch.evaluate import Budget
from ckptconv.arch.operations import EvaluationError, known_integer
from ckptconv.arch.polynomial import UndeterminedError
from ckptconv.arch.scope import Bindings, Scope
from ckptconv.arch.spec import Spec
from ckptconv.core.report import Finding
from ckptconv.errors import LimitError, UsageError
from ckptconv.io.limits import MAX_TENSORS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

    from ckptconv.arch.evaluate import Formula
    from ckptconv.arch.spec import Loop, ParamValue, TensorRule
    from ckptconv.arch.template import Template

COUNTING = 32
"""Budget spent for counting one turn of an outer loop, so that even loops without tensors end within a second."""

Shape = tuple[int | None, ...]
"""A shape; dimensions that the params leave open are None."""

_TOO_LARGE = "a param may be too large: see --set, and the metadata; else do not trust the spec"


@dataclass(frozen=True, slots=True)
class Expected:
    """What a spec says about one tensor.

    optional: it may be absent.
    tied_to:  the tensor that it shares its storage with. loose: it may do so, but need not.
    dtypes:   names of the element types that fit; None for any.
    """

    shape: Shape
    optional: bool = False
    tied_to: str | None = None
    loose: bool = False
    dtypes: frozenset[str] | None = None
    rule: TensorRule | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Table:
    """The expected tensors by name, in the spec's order, and findings about the params themselves.

    clashes: whether two rules ask for the same name with these params.
    """

    spec: Spec
    params: Mapping[str, ParamValue]
    tensors: dict[str, Expected]
    findings: tuple[Finding, ...] = ()
    clashes: bool = False

    def __repr__(self) -> str:
        return f"<Table {self.spec.name}: {len(self.tensors)} tensors>"


def state_table(state: Mapping[str, torch.Tensor], name: str, params: Mapping[str, ParamValue]) -> Table:
    """The table of a state_dict: shapes, and which names share a tensor."""
    kept: dict[int, str] = {}
    first = {key: kept.setdefault(id(tensor), key) for key, tensor in state.items()}
    tensors = {
        key: Expected(tuple(tensor.shape), tied_to=None if first[key] == key else first[key])
        for key, tensor in state.items()
    }
    return Table(Spec(name=name), dict(params), tensors)


def expand(spec: Spec, params: Mapping[str, ParamValue] | Bindings, budget: Budget | None = None) -> Table:
    """The table of `spec` for these params. Takes memory O(tensors).

    Dimensions that the params leave open are None. Params that break a constraint, or for which an expression has no
    value, become findings. Raises UsageError if a param is missing that decides which tensors there are, LimitError for
    more than `MAX_TENSORS` tensors (before making them).
    """
    bindings = params if isinstance(params, Bindings) else Bindings.of(spec, _with_defaults(spec, params))
    return _Expansion(spec, bindings, budget or Budget()).table()


def _with_defaults(spec: Spec, params: Mapping[str, ParamValue]) -> dict[str, ParamValue]:
    """`params`, and the defaults of missing ones. Raises UsageError for a name that the spec does not have."""
    unknown = [name for name in params if name not in spec.params]
    if unknown:
        raise spec.lacks(unknown[0])
    bound = dict(params)
    bound.update(
        {name: param.literal for name, param in spec.params.items() if name not in bound and param.literal is not None}
    )
    for name, param in spec.params.items():
        if name not in bound and param.default is not None:
            value = default_value(spec, name, Scope(spec, Bindings.of(spec, bound), Budget()))
            if value is not None:
                bound[name] = value
    return bound


def default_value(spec: Spec, name: str, scope: Scope) -> ParamValue | None:
    """A param's default in `scope`; None if it has none, or its expression has no value there."""
    param = spec.params[name]
    if param.default is None:
        return param.literal
    try:
        value = param.default(scope)
        if param.type == "ints" and isinstance(value, list):
            return [known_integer(item) for item in value]
        if param.type == "bool" and isinstance(value, bool):
            return value
        return known_integer(value) if param.type == "int" else None
    except (UndeterminedError, EvaluationError):
        return None


class _Expansion:
    def __init__(self, spec: Spec, bindings: Bindings, budget: Budget) -> None:
        self.spec, self.bindings = spec, bindings
        self.scope = Scope(spec, bindings, budget)
        self.tensors: dict[str, Expected] = {}
        self.findings: list[Finding] = []
        self.clashes = False
        self.made = 0

    def table(self) -> Table:
        self.check_constraints()
        for rule in self.spec.rules:
            try:
                self.expand_rule(rule)
            except EvaluationError as error:
                self.problem(rule.name.text, f"{rule.where}: {error}")
            self.scope.loops.clear()
        whole = ((name, self.bindings.whole(self.spec, name)) for name in self.spec.params)
        params = {name: value for name, value in whole if value is not None}
        return Table(self.spec, params, self.tensors, tuple(self.findings), self.clashes)

    def problem(self, where: str, message: str) -> None:
        self.findings.append(Finding("constraint", "error", where, message))

    def check_constraints(self) -> None:
        for entry in self.spec.constraints:
            try:
                holds = self.scope.truth(entry.formula)
            except EvaluationError as error:
                self.problem(entry.name, f"{entry.name}: {error}")
                continue
            if holds is False:
                values = self.values_text(entry.formula)
                self.findings.append(
                    Finding("constraint", "error", entry.name, f"{entry.name}: {values}", entry.formula.text, values)
                )

    def values_text(self, formula: Formula) -> str:
        """The values of a formula's params: ``hidden = 30, heads = 4``."""
        names = sorted(formula.names & set(self.spec.params))
        return ", ".join(f"{name} = {self.bindings.whole(self.spec, name)}" for name in names)

    def expand_rule(self, rule: TensorRule) -> None:
        """Add the rule's tensors. What does not depend on its loops is computed once."""
        varying = set(rule.loops) | self.spec.varying.keys()
        when_varies = rule.when is not None and bool(rule.when.names & varying)
        if not when_varies and not self.holds(rule):
            return
        formulas = (*rule.shape, *_tie_conditions(rule))
        expected_varies = when_varies or any(formula.names & varying for formula in formulas)
        expected: Expected | None = None
        for _ in walk(self.spec, rule.loops, self.scope, self.count):
            if when_varies and not self.holds(rule):
                continue
            if expected is None or expected_varies:
                expected = self.expected(rule)
            self.add(rule, expected)

    def add(self, rule: TensorRule, expected: Expected) -> None:
        name = self.name(rule.name)
        if rule.tie is not None and expected.tied_to is not None:
            expected = replace(expected, tied_to=self.name(rule.tie.to))
        if name in self.tensors:
            self.clashes = True
            self.problem(name, f"{rule.where}: a second entry for {name!r}")
        self.tensors[name] = expected

    def count(self, more: int) -> None:
        """Count tensors that will be made. Raises LimitError for too many."""
        self.made += more
        if self.made > MAX_TENSORS:
            raise LimitError(f"the spec asks for more than {MAX_TENSORS:,} tensors", hint=_TOO_LARGE)

    def holds(self, rule: TensorRule) -> bool:
        holds = self.scope.truth(rule.when)
        if holds is None:
            assert rule.when is not None
            self.missing([rule.when])
        return bool(holds)

    def missing(self, formulas: Sequence[Formula]) -> NoReturn:
        raise missing_params(self.spec, self.bindings, formulas)

    def expected(self, rule: TensorRule) -> Expected:
        shape = tuple(self.dimension(formula) for formula in rule.shape)
        tied, loose = None, False
        if rule.tie is not None and self.scope.truth(rule.tie.when) is not False:
            tied = rule.tie.to.text
            loose = rule.optional or self.scope.truth(rule.tie.when) is None
        return Expected(shape, rule.optional, tied, loose, rule.dtypes, rule)

    def dimension(self, formula: Formula) -> int | None:
        value = self.scope.integer(formula)
        if value is not None and value < 0:
            raise EvaluationError(f"dimension {formula.text!r} is {value}")
        return value

    def name(self, template: Template) -> str:
        try:
            return render(template, self.scope)
        except UndeterminedError:
            self.missing(template.formulas)


def _tie_conditions(rule: TensorRule) -> tuple[Formula, ...]:
    return () if rule.tie is None or rule.tie.when is None else (rule.tie.when,)


def missing_params(spec: Spec, bindings: Bindings, formulas: Sequence[Formula]) -> UsageError:
    """The error that names the params that `formulas` need and that have no value."""
    behind = spec.names_behind(formulas)
    names = [name for name in spec.params if name in behind and bindings.whole(spec, name) is None]
    hint = " ".join(f"--set {name}=…" for name in names)
    return UsageError(f"{spec.name!r} needs a value for {', '.join(names) or 'its params'}", hint=hint or None)


def render(template: Template, scope: Scope) -> str:
    """The name that a template gives in `scope`. Raises UndeterminedError or EvaluationError."""
    result: list[str] = []
    for part in template.parts:
        if isinstance(part, str):
            result.append(part)
            continue
        value = part(scope)
        result.append(value if isinstance(value, str) else str(known_integer(value)))
    return "".join(result)


def walk(spec: Spec, loops: Sequence[str], scope: Scope, count: Callable[[int], None] | None = None) -> Iterator[None]:
    """Set `scope.loops` to each combination in turn. `count` is told beforehand how many there will be.

    Raises UsageError where a bound is unknown, LimitError before the first of more than `MAX_TENSORS`.
    """
    total = combinations(spec, loops, scope)
    if total > MAX_TENSORS:
        raise LimitError(f"the spec asks for more than {MAX_TENSORS:,} tensors", hint=_TOO_LARGE)
    if count is not None:
        count(total)
    yield from _walk(spec, loops, scope)


def _walk(spec: Spec, loops: Sequence[str], scope: Scope) -> Iterator[None]:
    if not loops:
        yield
        return
    name, *inner = loops
    values = loop_values(spec, spec.loops[name], scope)
    scope.budget.spend(len(values) // 4)
    for value in values:
        scope.loops[name] = value
        if inner:
            yield from _walk(spec, inner, scope)
        else:
            yield
    scope.loops.pop(name, None)


def combinations(spec: Spec, loops: Sequence[str], scope: Scope) -> int:
    """How many combinations the loops have; counting stops past `MAX_TENSORS`.

    A loop is run for this only if the bounds of others depend on it.
    """
    if not loops:
        return 1
    name, *inner = loops
    values = loop_values(spec, spec.loops[name], scope)
    needed = {name} | spec.varying.keys()
    if not any(bound.names & needed for other in inner for bound in spec.loops[other].formulas):
        if not inner or not values:
            return len(values)
        scope.loops[name] = values[0]
        total = len(values) * combinations(spec, inner, scope)
        del scope.loops[name]
        return total
    total = 0
    for value in values:
        scope.budget.spend(COUNTING)
        scope.loops[name] = value
        total += combinations(spec, inner, scope)
        if total > MAX_TENSORS:
            break
    scope.loops.pop(name, None)
    return total


def loop_values(spec: Spec, loop: Loop, scope: Scope) -> range | list[int | str]:
    """The values of a loop variable. Raises UsageError where a bound is unknown."""
    try:
        start = 0 if loop.start is None else known_integer(loop.start(scope))
        step = 1 if loop.step is None else known_integer(loop.step(scope))
        stop = loop.stop(scope)
        if isinstance(stop, list) and loop.plain:
            return cast("list[int | str]", stop)
        bound = known_integer(stop)
    except UndeterminedError:
        raise missing_params(spec, scope.bindings, list(loop.formulas)) from None
    if step < 1:
        raise EvaluationError(f"the loop {loop.name!r} has a step of {step}")
    values = range(start, bound, step)
    if bound - start > MAX_TENSORS * step:
        raise LimitError(f"the loop {loop.name!r} runs more than {MAX_TENSORS:,} times", hint=_TOO_LARGE)
    return values
