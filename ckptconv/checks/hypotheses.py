"""Which binding of the params explains a checkpoint's faults best? The one that leaves fewest of them.

The tensors outvote what is stated about them, which is right where a statement is wrong. Where tensors are wrong it
makes one fault look like many: without its last layer a network's metadata, and the layer behind it, seem wrong. So
what is stated is believed for once, and each variant of the spec, and a prefix that the names may lack; fewer causes
win, and at a draw the tensors do.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.arch.bind import Source
from ckptconv.arch.spec import VARIANT
from ckptconv.checks.prefixes import with_prefixes
from ckptconv.core.names import module_of
from ckptconv.core.report import errors_among
from ckptconv.errors import CkptconvError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ckptconv.arch.spec import ParamValue, Spec
    from ckptconv.checks.verdict import Verdict
    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import TensorInfo

SMALL = 4_000
"""Tensors up to which all hypotheses are tried; past that, the one that believes all that is stated."""

MORE_LAYERS = 64
"""How many more turns than there are tensors a stated param may give a loop for it to be believed."""

WHOLE = ("missing-tensor", "unexpected-tensor")


def fewest_causes(
    spec: Spec,
    tensors: Mapping[str, TensorInfo],
    sources: Sequence[Source],
    attempt: Callable[[Sequence[Source], Mapping[str, str]], Verdict],
) -> Verdict:
    """The verdict of the sources as they are, or that of a hypothesis which leaves fewer errors.

    attempt: the verdict for some sources, with tensors renamed.
    """
    best = attempt(sources, {})
    if not _doubtful(best):
        return best
    other: Verdict | None = None
    firm = [source for source in sources if source.firm]
    rest = [source for source in sources if not source.firm]
    for hypothesis, names in _hypotheses(spec, tensors, sources, best.findings):
        try:
            verdict = attempt([*firm, hypothesis, *rest], names)
        except CkptconvError:  # what is stated is past some limit
            continue
        if _causes(verdict) < _causes(best):
            best = verdict
        elif other is None and len(errors_among(verdict.findings)) == 1:
            other = verdict
    return best if other is None else _both(best, other)


def _causes(verdict: Verdict) -> int:
    """How many things went wrong: a module whose tensors all are missing, or too many, is one."""
    return len({(f.code, module_of(f.where) if f.code in WHOLE else f.message) for f in errors_among(verdict.findings)})


def _doubtful(verdict: Verdict) -> bool:
    errors = errors_among(verdict.findings)
    return len(errors) > 1 or any(finding.code == "param-conflict" for finding in errors)


def _both(best: Verdict, other: Verdict) -> Verdict:
    """Where a statement and one tensor contradict each other, either may be wrong: both are named."""
    errors, (alternative,) = errors_among(best.findings), errors_among(other.findings)
    if len(errors) != 1 or errors[0].code != "param-conflict" or alternative.code == "param-conflict":
        return best
    conflict = replace(errors[0], message=f"{errors[0].message}; or else: {alternative.message}")
    return replace(best, findings=[conflict if finding is errors[0] else finding for finding in best.findings])


def _hypotheses(
    spec: Spec, tensors: Mapping[str, TensorInfo], sources: Sequence[Source], findings: Sequence[Finding]
) -> Iterator[tuple[Source, Mapping[str, str]]]:
    """Statements to believe: all with each variant, all, each contested one, all with a prefix on the names.

    What the user's own word settles is none of them.
    """
    stated: dict[str, tuple[str, ParamValue]] = {}
    settled = {name for source in sources if source.firm for name in source.values}
    for source in sources:
        if not source.firm:
            for name, value in source.values.items():
                if name not in settled and _bounded(spec, name, value, len(tensors) + MORE_LAYERS):
                    stated.setdefault(name, (source.name, value))
    name = next((name for name, _ in stated.values()), "")
    values = {param: value for param, (_, value) in stated.items()}
    if len(tensors) <= SMALL and VARIANT in spec.params and not any(VARIANT in source.values for source in sources):
        for variant in spec.params[VARIANT].choices or ():
            yield Source(name, {**values, VARIANT: variant}, firm=True), {}
    if values:
        yield Source(name, values, firm=True), {}
    if len(tensors) > SMALL:
        return
    contested = [finding.where for finding in findings if finding.code == "param-conflict" and finding.where in stated]
    if len(contested) > 1:
        for param in contested:
            yield Source(stated[param][0], {param: values[param]}, firm=True), {}
    for names in with_prefixes(spec, tensors):
        yield Source(name, values, firm=True), names


def _bounded(spec: Spec, name: str, value: ParamValue, most: int) -> bool:
    """Whether a stated value makes no more of a table than there could be tensors for."""
    if isinstance(value, list):
        return len(value) <= most
    if isinstance(value, bool) or not isinstance(value, int):
        return True
    return value <= most or name not in _counting(spec)


def _counting(spec: Spec) -> set[str]:
    """Every name that decides how often a loop runs, through lets."""
    waiting = [name for loop in spec.loops.values() for formula in loop.formulas for name in formula.names]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += spec.lets[name].names if name in spec.lets else ()
    return seen
