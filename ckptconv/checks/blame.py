"""Finds the few causes behind the many symptoms of a checkpoint that does not fit.

`explain` takes the findings of a strict comparison, and replaces errors by errors that explain them. It never changes
the verdict; what it cannot explain stays as it is. Causes come before symptoms.

Hints are Python that repairs a ``state_dict``, to be pasted in the order of the findings: each uses the names that the
hints before it leave.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from math import prod
from typing import TYPE_CHECKING

from ckptconv.checks.case import Case
from ckptconv.checks.folded_norms import explain_folded_norms
from ckptconv.checks.layer_counts import explain_layer_counts
from ckptconv.core.dtypes import DType
from ckptconv.core.edit import Step
from ckptconv.core.report import Finding
from ckptconv.core.tensor import TensorInfo, in_memory
from ckptconv.core.text import listed, shape_text
from ckptconv.edits.match import pair_renames, substitutions
from ckptconv.edits.parametrized.find import find_parametrized
from ckptconv.edits.parts import find_parts
from ckptconv.edits.patterns import bracketed, edits_by_pattern
from ckptconv.edits.python import python, renames, single
from ckptconv.edits.stacked import find_stacked, stack_edits

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.checks.case import Fits, Found
    from ckptconv.core.edit import Edit
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.match import Shape

ORDER = (
    "architecture", "quantized", "dialect", "param-conflict", "param-missing", "constraint", "prefixed", "norms-folded",
    "layer-count",
    "parametrized", "renamed", "fused", "apart", "swapped", "transposed",
    "not-a-tensor", "shape-mismatch", "missing-tensor", "unexpected-tensor", "non-finite", "dtype-mismatch",
    "tie-broken", "all-zero", "negative-variance", "assumed",
)  # fmt: skip
"""Causes before symptoms, errors before warnings."""

LAYOUTS = ((3, 2, 0, 1), (4, 3, 0, 1, 2), (2, 1, 0))
"""Permutations of other frameworks' convolution kernels, such as [height, width, in, out], into torch's order,
[out, in, height, width].
"""

_REMOVAL = "convert --remove-parametrizations makes plain weights of those that are computed of several tensors"

MAX_LISTED = 4
"""The most parts of a tensor to list."""

MAX_SWAP_CANDIDATES = 20
"""The most tensors of one shape to consider as the other half of a swap."""


def explain(findings: Iterable[Finding], expected: Mapping[str, Shape], found: Found, fits: Fits) -> list[Finding]:
    """The findings, with a cause in place of those that it explains; causes first.

    expected: the architecture's shapes, by name.
    found:    the checkpoint's shapes, by name.
    fits:     fits(expected, found) says whether a tensor of that shape loads.

    Costs O(tensors), except for comparing names without a partner.
    """
    case = Case(list(findings), expected, found, fits)
    for step in (
        explain_folded_norms,
        explain_layer_counts,
        _explain_parametrized,
        _explain_renamed,
        _explain_joined,
        _explain_swapped,
        _explain_transposed,
    ):
        step(case)
    hinted = [finding if finding.hint else _with_hint(finding, found, expected) for finding in case.findings]
    return causes_first([*case.causes, *hinted])


def causes_first(findings: Iterable[Finding]) -> list[Finding]:
    """The findings sorted by severity, and within it by `ORDER`."""
    rank = {code: i for i, code in enumerate(ORDER)}
    severities = ("error", "warning", "info")
    return sorted(
        findings, key=lambda finding: (severities.index(finding.severity), rank.get(finding.code, len(ORDER)))
    )


def _explain_parametrized(case: Case) -> None:
    """Missing weights that the network computes from tensors that are unexpected."""
    unexpected = {name: case.found[name] for name in set(case.tensors_with("unexpected-tensor"))}
    weights = find_parametrized(
        case.tensors_with("missing-tensor"), unexpected, lambda name, shape: case.fits(case.expected[name], shape)
    )
    for weight in weights:
        message = f"{weight.name} is {weight.how}: it is to be computed of {listed([*weight.parts])}"
        case.causes.append(
            Finding("parametrized", "error", weight.name, message, weight.name, weight.parts[0], weight.hint)
        )
    if any(weight.scheme for weight in weights):
        case.causes.append(Finding("parametrizations", "info", "", _REMOVAL))
    case.remove("missing-tensor", {weight.name for weight in weights})
    case.remove("unexpected-tensor", {part for weight in weights for part in weight.parts})


def _explain_renamed(case: Case) -> None:
    """Missing and unexpected names with the same shape and similar names, as substitutions.

    Pairs that have each other's transposed shape are tried second, as other frameworks store matrices that way.
    """
    missing = {name: case.expected[name] for name in case.tensors_with("missing-tensor")}
    unexpected = {name: case.found[name] for name in case.tensors_with("unexpected-tensor")}
    if not missing or not unexpected:
        return

    def fits_transposed(wanted: Shape, shape: tuple[int, ...]) -> bool:
        return _fitting_axes(wanted, shape, case.fits) is not None

    pairs = pair_renames(missing, unexpected, case.fits)
    paired_old, paired_new = {a for a, _ in pairs}, {b for _, b in pairs}
    unexpected_left = {a: shape for a, shape in unexpected.items() if a not in paired_old}
    missing_left = {b: shape for b, shape in missing.items() if b not in paired_new}
    turns = pair_renames(missing_left, unexpected_left, fits_transposed)
    for change in substitutions([*pairs, *turns]):
        a, b = change.pairs[0]
        message = f"{a} is likely {b}"
        if len(change.pairs) > 1:
            old, new = change.found or "nothing", change.expected or "nothing"
            message = f"{len(change.pairs)} names have {old!r} for {new!r}: {message}"
        hint = python(renames(change.pairs), case.names)
        case.causes.append(Finding("renamed", "error", a, message, b, a, hint))
    for a, b in turns:
        case.findings.append(_shape_mismatch(b, missing[b], unexpected[a]))
    case.found = {**case.found, **{b: unexpected[a] for a, b in turns}}
    case.remove("missing-tensor", {b for _, b in (*pairs, *turns)})
    case.remove("unexpected-tensor", {a for a, _ in (*pairs, *turns)})


def _shape_mismatch(name: str, wanted: Shape, shape: tuple[int, ...]) -> Finding:
    texts = shape_text(wanted), shape_text(shape)
    message = f"{name}: expected shape {texts[0]}, found {texts[1]}"
    return Finding("shape-mismatch", "error", name, message, *texts)


def _explain_joined(case: Case) -> None:
    """Several expected tensors that are fused into one, such as q, k and v, or the experts of a layer; and the other
    way round. They are found by their sizes.
    """
    unexpected_names = case.tensors_with("unexpected-tensor")
    missing = {
        name: _header_only(shape)
        for name in case.tensors_with("missing-tensor")
        if None not in (shape := case.expected[name]) and unexpected_names
    }
    unexpected = {name: _header_only(case.found[name]) for name in unexpected_names if missing}
    for code, wholes, parts in (("fused", unexpected, missing), ("apart", missing, unexpected)):
        found = _joining_edits(wholes, parts, is_fused=code == "fused") if wholes and len(parts) > 1 else []
        case.causes += [_join_finding(code, edit) for edit in found]
        used = {name for edit in found for step in edit.steps for name in (*step.sources, *step.targets)}
        for side, word in ((missing, "missing-tensor"), (unexpected, "unexpected-tensor")):
            case.remove(word, used & side.keys())
            for name in used & side.keys():
                del side[name]


def _joining_edits(wholes: Mapping[str, LazyTensor], parts: Mapping[str, LazyTensor], *, is_fused: bool) -> list[Edit]:
    """The edits that repair the checkpoint: they split what is fused, or join what is apart."""
    stacks = find_stacked(wholes, parts, None, ())
    done = {stack.whole for stack in stacks} | {part for stack in stacks for part in stack.names}
    wholes_left, parts_left = ({n: t for n, t in side.items() if n not in done} for side in (wholes, parts))
    steps: dict[tuple[int, tuple[int, ...]], list[Step]] = {}
    for join in find_parts(wholes_left, parts_left, None):
        sizes = tuple(parts[part].info.shape[join.axis] for part in join.parts)
        step = Step((join.whole,), join.parts) if is_fused else Step(join.parts, (join.whole,))
        steps.setdefault((join.axis, sizes), []).append(step)
    repairs = stack_edits([(stack.names, stack.whole) for stack in stacks], reverse=is_fused)
    for (axis, sizes), group in steps.items():
        repairs += edits_by_pattern("split" if is_fused else "concat", group, {"axis": axis, "sizes": list(sizes)})
    return repairs


def _join_finding(code: str, edit: Edit) -> Finding:
    step = edit.steps[0]
    (whole,), parts = (step.sources, step.targets) if code == "fused" else (step.targets, step.sources)
    listed = bracketed(parts) if len(parts) <= MAX_LISTED else f"{parts[0]} … {parts[-1]}"
    more = f"; {len(edit.steps) - 1:,} more like it" if len(edit.steps) > 1 else ""
    if code == "fused":
        return Finding(code, "error", whole, f"{whole} is likely {listed} in one{more}", listed, whole, python(edit))
    message = f"{listed} is likely {whole}, in {len(parts)} parts{more}"
    return Finding(code, "error", parts[0], message, whole, listed, python(edit))


def _header_only(shape: Shape) -> LazyTensor:
    """A tensor with this shape and no data."""
    return in_memory(TensorInfo.of(DType.F32, tuple(size or 0 for size in shape)), b"")


def _explain_swapped(case: Case) -> None:
    """Two tensors with each other's shape; of several candidates, those whose names have most in common."""
    names = [name for name in case.tensors_with("shape-mismatch") if name in case.found]
    waiting: dict[tuple[Shape, Shape], dict[str, None]] = {}
    for name in names:
        waiting.setdefault((case.expected[name], case.found[name]), {})[name] = None
    done: set[str] = set()
    for a in names:
        wanted, shape = case.expected[a], case.found[a]
        partners = waiting.get((shape, wanted))
        if a in done or not partners or (shape[::-1] == wanted and len(names) > 2):
            continue  # many matrices with their transposed shape are transposed, not swapped
        b = max(islice(partners, MAX_SWAP_CANDIDATES), key=lambda name: _shared_components(a, name))
        for name in (a, b):
            del waiting[case.expected[name], case.found[name]][name]
        done |= {a, b}
        message, texts = f"{a} and {b} have each other's shapes", (shape_text(wanted), shape_text(shape))
        case.causes.append(Finding("swapped", "error", a, message, *texts, python(renames([(a, b), (b, a)]))))
    case.remove("shape-mismatch", done)


def _shared_components(a: str, b: str) -> int:
    """How many components two names share, position by position."""
    return sum(x == y for x, y in zip(a.split("."), b.split("."), strict=False))


def _explain_transposed(case: Case) -> None:
    """A matrix with its two sizes exchanged, or a kernel with its dimensions in another framework's order."""
    for i, finding in enumerate(case.findings):
        name = finding.where
        if finding.code != "shape-mismatch" or name not in case.found or name not in case.expected:
            continue
        axes = _fitting_axes(case.expected[name], case.found[name], case.fits)
        if axes is not None:
            message = f"{name} is transposed: expected {finding.expected}, found {finding.found}"
            hint = python(single("transpose", name, axes=list(axes)))
            case.findings[i] = replace(finding, code="transposed", message=message, hint=hint)


def _fitting_axes(wanted: Shape, shape: tuple[int, ...], fits: Fits) -> tuple[int, ...] | None:
    """The permutation of dimensions that makes a shape fit; None if it fits already, or if no known one does."""
    if len(shape) != len(wanted) or len(shape) < 2 or fits(wanted, shape):
        return None
    for axes in ((1, 0), *LAYOUTS):
        if len(axes) == len(shape) and fits(wanted, tuple(shape[axis] for axis in axes)):
            return axes
    return None


def _with_hint(finding: Finding, found: Found, expected: Mapping[str, Shape]) -> Finding:
    """The finding with a hint that repairs it, if one is known."""
    name = finding.where
    match finding.code:
        case "unexpected-tensor":
            hint = python(single("drop", name))
        case "missing-tensor" if name.endswith("num_batches_tracked"):
            hint = f"state_dict[{name!r}] = torch.tensor(0)"
        case "shape-mismatch" if name in found and name in expected:
            hint = _reshape_hint(name, expected[name], found[name])
        case "dtype-mismatch" if finding.expected is not None:
            hint = _cast_hint(name, finding.expected)
        case "tie-broken" if finding.expected is not None:
            hint = python(single("tie", finding.expected.removeprefix("tied to "), name))
        case _:
            return finding
    return replace(finding, hint=hint)


def _reshape_hint(name: str, wanted: Shape, shape: tuple[int, ...]) -> str | None:
    """The hint for shapes that differ only in dimensions of size 1, as for a scalar, a bias, a 1 × 1 convolution."""
    sizes = [size for size in wanted if size is not None]
    if len(sizes) < len(wanted) or prod(sizes) != prod(shape):
        return None
    if [size for size in sizes if size != 1] != [size for size in shape if size != 1]:
        return None
    return python(single("reshape", name, shape=list(sizes)))


def _cast_hint(name: str, wanted: str) -> str | None:
    from ckptconv.core.arrays import TORCH_NAMES

    first = wanted.removeprefix("one of ").split(" or ")[0].split(", ")[0]
    dtype = next((torch for dtype, torch in TORCH_NAMES.items() if dtype.name == first), None)
    return None if dtype is None else python(single("cast", name, dtype=dtype))
