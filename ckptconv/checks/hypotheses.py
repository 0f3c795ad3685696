"""Tries several ways to bind the params, and takes the one that leaves the fewest faults.

Normally, tensors outvote what is stated about them, which is right if a statement is wrong. If tensors are wrong, it
makes one fault look like many: if a network lacks its last layer, its metadata and the layer after it seem wrong. So
other hypotheses are tried: that all statements are true, that the spec has each of its variants, that the names lack a
prefix. The one with the fewest causes wins; in a tie, the tensors do.
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

MAX_TENSORS = 4_000
"""With more tensors, only the hypothesis that all statements are true is tried."""

MAX_EXTRA_TURNS = 64
"""A stated param that gives a loop more turns than there are tensors, and this many more, is not believed."""

WHOLE_MODULE_CODES = ("missing-tensor", "unexpected-tensor")


def fewest_causes(
    spec: Spec,
    tensors: Mapping[str, TensorInfo],
    sources: Sequence[Source],
    attempt: Callable[[Sequence[Source], Mapping[str, str]], Verdict],
) -> Verdict:
    """The verdict with the sources as they are, or that of a hypothesis with fewer causes.

    attempt: computes the verdict for some sources, with tensors renamed.
    """
    best = attempt(sources, {})
    if not _is_doubtful(best):
        return best
    other: Verdict | None = None
    firm = [source for source in sources if source.firm]
    rest = [source for source in sources if not source.firm]
    for hypothesis, names in _hypotheses(spec, tensors, sources, best.findings):
        try:
            verdict = attempt([*firm, hypothesis, *rest], names)
        except CkptconvError:  # a stated value exceeds some limit
            continue
        if _cause_count(verdict) < _cause_count(best):
            best = verdict
        elif other is None and len(errors_among(verdict.findings)) == 1:
            other = verdict
    return best if other is None else _with_alternative(best, other)


def _cause_count(verdict: Verdict) -> int:
    """How many faults there are. Missing tensors of one module count as one, and so do unexpected ones."""
    return len(
        {
            (f.code, module_of(f.where) if f.code in WHOLE_MODULE_CODES else f.message)
            for f in errors_among(verdict.findings)
        }
    )


def _is_doubtful(verdict: Verdict) -> bool:
    errors = errors_among(verdict.findings)
    return len(errors) > 1 or any(finding.code == "param-conflict" for finding in errors)


def _with_alternative(best: Verdict, other: Verdict) -> Verdict:
    """If a statement and one tensor contradict each other, either may be wrong: name both in one finding."""
    errors, (alternative,) = errors_among(best.findings), errors_among(other.findings)
    if len(errors) != 1 or errors[0].code != "param-conflict" or alternative.code == "param-conflict":
        return best
    conflict = replace(errors[0], message=f"{errors[0].message}; or else: {alternative.message}")
    return replace(best, findings=[conflict if finding is errors[0] else finding for finding in best.findings])


def _hypotheses(
    spec: Spec, tensors: Mapping[str, TensorInfo], sources: Sequence[Source], findings: Sequence[Finding]
) -> Iterator[tuple[Source, Mapping[str, str]]]:
    """The hypotheses, each as a source to believe and renames of tensors: all statements with each variant; all
    statements; each contested statement; all statements with a prefix before the names.

    Params that the user has set are not varied.
    """
    stated: dict[str, tuple[str, ParamValue]] = {}
    settled = {name for source in sources if source.firm for name in source.values}
    for source in sources:
        if not source.firm:
            for name, value in source.values.items():
                if name not in settled and _is_bounded(spec, name, value, len(tensors) + MAX_EXTRA_TURNS):
                    stated.setdefault(name, (source.name, value))
    name = next((name for name, _ in stated.values()), "")
    values = {param: value for param, (_, value) in stated.items()}
    if (
        len(tensors) <= MAX_TENSORS
        and VARIANT in spec.params
        and not any(VARIANT in source.values for source in sources)
    ):
        for variant in spec.params[VARIANT].choices or ():
            yield Source(name, {**values, VARIANT: variant}, firm=True), {}
    if values:
        yield Source(name, values, firm=True), {}
    if len(tensors) > MAX_TENSORS:
        return
    contested = [finding.where for finding in findings if finding.code == "param-conflict" and finding.where in stated]
    if len(contested) > 1:
        for param in contested:
            yield Source(stated[param][0], {param: values[param]}, firm=True), {}
    for names in with_prefixes(spec, tensors):
        yield Source(name, values, firm=True), names


def _is_bounded(spec: Spec, name: str, value: ParamValue, most: int) -> bool:
    """Whether a stated value does not make the table larger than the number of tensors could justify."""
    if isinstance(value, list):
        return len(value) <= most
    if isinstance(value, bool) or not isinstance(value, int):
        return True
    return value <= most or name not in _names_in_loops(spec)


def _names_in_loops(spec: Spec) -> set[str]:
    """Every name that decides how often a loop runs, directly or through lets."""
    waiting = [name for loop in spec.loops.values() for formula in loop.formulas for name in formula.names]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += spec.lets[name].names if name in spec.lets else ()
    return seen
