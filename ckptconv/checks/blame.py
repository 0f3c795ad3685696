"""Why a checkpoint does not fit: the few causes behind many symptoms.

`explain` takes what a strict comparison found and says the same in fewer words. It never changes the verdict: errors
are replaced by errors that explain them, and what it cannot explain stays as it was. Causes come before symptoms.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.edits.match import find_prefix, numbered_blocks, pair_renames, substitutions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ckptconv.edits.match import Shape

    Found = Mapping[str, tuple[int, ...]]
    Fits = Callable[[Shape, tuple[int, ...]], bool]

ORDER = (
    "param-conflict", "constraint", "prefixed", "layer-count", "renamed", "swapped", "transposed", "not-a-tensor",
    "shape-mismatch", "missing-tensor", "unexpected-tensor", "non-finite", "dtype-mismatch", "tie-broken",
    "all-zero", "negative-variance", "assumed",
)  # fmt: skip
"""Causes before symptoms, errors before warnings."""


def explain(
    findings: Iterable[Finding],
    expected: Mapping[str, Shape],
    found: Found,
    fits: Fits,
) -> list[Finding]:
    """The findings, with those that share a cause replaced by it, and sorted by `ORDER`.

    expected: shapes by name, of the architecture. found: of the checkpoint. fits(expected, found): whether one loads.
    """
    left = list(findings)
    for step in (_prefixed, _layer_counts, _renamed, _swapped, _transposed):
        left = step(left, expected, found, fits)
    rank = {code: i for i, code in enumerate(ORDER)}
    return sorted(left, key=lambda finding: rank.get(finding.code, len(ORDER)))


def _names(findings: Iterable[Finding], code: str) -> list[str]:
    return [finding.where for finding in findings if finding.code == code]


def _without(findings: list[Finding], missing: set[str], unexpected: set[str]) -> list[Finding]:
    return [
        finding
        for finding in findings
        if not (finding.code == "missing-tensor" and finding.where in missing)
        and not (finding.code == "unexpected-tensor" and finding.where in unexpected)
    ]


def _shape_text(shape: Shape) -> str:
    return f"[{', '.join('?' if n is None else str(n) for n in shape)}]"


def _mismatch(name: str, as_found: str, wanted: Shape, shape: Shape) -> Finding:
    message = f"{as_found}: expected shape {_shape_text(wanted)} (as {name}), found {_shape_text(shape)}"
    return Finding("shape-mismatch", "error", as_found, message, _shape_text(wanted), _shape_text(shape))


def _prefixed(
    findings: list[Finding],
    expected: Mapping[str, Shape],
    found: Found,
    fits: Fits,
) -> list[Finding]:
    """``module.layer.weight`` for ``layer.weight``: one finding instead of two for each name."""
    missing, unexpected = _names(findings, "missing-tensor"), _names(findings, "unexpected-tensor")
    prefix = find_prefix(missing, unexpected)
    if prefix is None or (len(prefix.pairs) < 2 and len(missing) > 1):
        return findings
    count = len(prefix.pairs)
    if prefix.found:
        example = f"{{name.removeprefix({prefix.found!r}): tensor for name, tensor in state_dict.items()}}"
        message = f"{count} names start with {prefix.found!r}, which the architecture does not have"
    else:
        example = f"{{{prefix.expected!r} + name: tensor for name, tensor in state_dict.items()}}"
        message = f"{count} names lack the prefix {prefix.expected!r} of the architecture"
    cause = Finding(
        "prefixed", "error", prefix.pairs[0][0], message, prefix.expected or "no prefix", prefix.found or "no prefix",
        hint=example,
    )  # fmt: skip
    explained = _without(findings, {b for _, b in prefix.pairs}, {a for a, _ in prefix.pairs})
    wrong = [_mismatch(b, a, expected[b], found[a]) for a, b in prefix.pairs if not fits(expected[b], found[a])]
    return [cause, *explained, *wrong]


def _layer_counts(
    findings: list[Finding],
    expected: Mapping[str, Shape],
    found: Found,
    fits: Fits,
) -> list[Finding]:
    """A whole layer too few or too many in a numbered stack, outermost stacks first."""
    missing, unexpected = set(_names(findings, "missing-tensor")), set(_names(findings, "unexpected-tensor"))
    wanted, there = numbered_blocks(expected), numbered_blocks(found)
    lost, extra = numbered_blocks(missing), numbered_blocks(unexpected)
    for stack in sorted(lost.keys() | extra.keys(), key=len):
        gone = {
            n for n, count in lost.get(stack, {}).items() if count == wanted[stack][n] and n not in there.get(stack, {})
        }
        more = {
            n
            for n, count in extra.get(stack, {}).items()
            if count == there[stack][n] and n not in wanted.get(stack, {})
        }
        if not (gone or more) or not (wanted.get(stack, {}).keys() & there.get(stack, {}).keys()) or (gone and more):
            continue
        numbers = sorted(gone or more)
        names = {name for name in (missing if gone else unexpected) if _number_in(name, stack) in numbers}
        if not names:
            continue
        findings = _without(findings, names if gone else set(), set() if gone else names)
        missing, unexpected = missing - names, unexpected - names
        findings.append(_layer_count(stack, numbers, len(wanted[stack]), len(there[stack]), len(names), bool(gone)))
    return findings


def _number_in(name: str, stack: str) -> int | None:
    number = name[len(stack) :].partition(".")[0] if name.startswith(stack) else ""
    return int(number) if number.isdigit() else None


def _layer_count(stack: str, numbers: list[int], wanted: int, there: int, tensors: int, gone: bool) -> Finding:
    shown = ", ".join(f"{stack}{n}" for n in numbers[:3]) + (f" … {stack}{numbers[-1]}" if len(numbers) > 3 else "")
    verb = "missing" if gone else "too many"
    message = (
        f"{stack.rstrip('.') or 'the stack'} has {there} layers, expected {wanted}: {verb} {shown} ({tensors} tensors)"
    )
    return Finding("layer-count", "error", f"{stack}{numbers[0]}", message, str(wanted), str(there))


def _renamed(
    findings: list[Finding],
    expected: Mapping[str, Shape],
    found: Found,
    fits: Fits,
) -> list[Finding]:
    """A name that is missing and one that is unexpected, of the same shape and alike: said as one substitution."""
    missing = {name: expected[name] for name in _names(findings, "missing-tensor")}
    unexpected = {name: found[name] for name in _names(findings, "unexpected-tensor") if name in found}
    pairs = pair_renames(missing, unexpected, fits)
    causes = []
    for change in substitutions(pairs):
        a, b = change.pairs[0]
        message = f"{a} is likely {b}"
        hint = f"state_dict[{b!r}] = state_dict.pop({a!r})"
        if len(change.pairs) > 1:
            message = f"{len(change.pairs)} names have {change.found!r} for {change.expected!r}: {message}"
            replaced = f"name.replace({change.found!r}, {change.expected!r})"
            hint = f"{{{replaced}: tensor for name, tensor in state_dict.items()}}"
        if not change.found or not change.expected or "{}" in change.found + change.expected:
            hint = f"state_dict[{b!r}] = state_dict.pop({a!r})"
        causes.append(Finding("renamed", "error", a, message, b, a, hint=hint))
    return causes + _without(findings, {b for _, b in pairs}, {a for a, _ in pairs})


def _swapped(
    findings: list[Finding],
    expected: Mapping[str, Shape],
    found: Found,
    fits: Fits,
) -> list[Finding]:
    """Two tensors that each have the shape of the other."""
    wrong = {finding.where: finding for finding in findings if finding.code == "shape-mismatch"}
    names = [name for name in wrong if name in expected and name in found]
    by_shape: dict[Shape, list[str]] = {}
    for name in names:
        by_shape.setdefault(found[name], []).append(name)
    done: set[str] = set()
    causes = []
    for a in names:
        partners = [b for b in by_shape.get(expected[a], []) if b != a and found[a] == expected[b] and b not in done]
        if a in done or not partners or found[a][::-1] == expected[a]:
            continue
        b = partners[0]
        done |= {a, b}
        message = f"{a} and {b} have each other's shapes"
        hint = f"state_dict[{a!r}], state_dict[{b!r}] = state_dict[{b!r}], state_dict[{a!r}]"
        wanted, shape = _shape_text(expected[a]), _shape_text(found[a])
        causes.append(Finding("swapped", "error", a, message, wanted, shape, hint=hint))
    return causes + [f for f in findings if not (f.code == "shape-mismatch" and f.where in done)]


def _transposed(
    findings: list[Finding],
    expected: Mapping[str, Shape],
    found: Found,
    fits: Fits,
) -> list[Finding]:
    """A matrix with its two sizes exchanged."""
    explained = []
    for finding in findings:
        name = finding.where
        shape = found.get(name, ())
        if (
            finding.code == "shape-mismatch"
            and len(shape) == 2
            and name in expected
            and fits(expected[name], shape[::-1])
        ):
            message = f"{name} is transposed: expected {finding.expected}, found {finding.found}"
            hint = f"state_dict[{name!r}] = state_dict[{name!r}].T.contiguous()"
            finding = replace(finding, code="transposed", message=message, hint=hint)
        explained.append(finding)
    return explained
