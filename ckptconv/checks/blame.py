"""Why a checkpoint does not fit: the few causes behind many symptoms.

`explain` takes what a strict comparison found and says the same in fewer words. It never changes the verdict: errors
are replaced by errors that explain them, and what it cannot explain stays as it was. Causes come before symptoms.

Hints are Python that mends a ``state_dict``, to be pasted in the order of the findings: each speaks of the names that
there are once the hints before it were followed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import islice
from math import prod
from typing import TYPE_CHECKING

from ckptconv.checks.parametrized import computed_weights
from ckptconv.core.dtypes import DType
from ckptconv.core.edit import Step
from ckptconv.core.report import Finding
from ckptconv.core.tensor import TensorInfo, in_memory
from ckptconv.core.text import listed, shape_text
from ckptconv.edits.match import numbered_blocks, numbers_in, pair_renames, substitutions
from ckptconv.edits.parts import find_parts
from ckptconv.edits.patterns import bracketed, edits
from ckptconv.edits.python import drops, python, renames, single
from ckptconv.edits.stacked import find_stacked, stack_edits

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set

    from ckptconv.core.edit import Edit
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.match import Shape

    Found = Mapping[str, tuple[int, ...]]
    Fits = Callable[[Shape, tuple[int, ...]], bool]
    _Stacks = Mapping[str, Counter[int]]

ORDER = (
    "architecture", "quantized", "dialect", "param-conflict", "param-missing", "constraint", "prefixed", "layer-count",
    "parametrized", "renamed", "fused", "apart", "swapped", "transposed",
    "not-a-tensor", "shape-mismatch", "missing-tensor", "unexpected-tensor", "non-finite", "dtype-mismatch",
    "tie-broken", "all-zero", "negative-variance", "assumed",
)  # fmt: skip
"""Causes before symptoms, errors before warnings."""

LAYOUTS = ((3, 2, 0, 1), (4, 3, 0, 1, 2), (2, 1, 0))
"""From the convolution kernels of other frameworks, [height, width, in, out], to torch's [out, in, height, width]."""

MOST_LISTED = 4
"""Parts of a tensor that are listed."""

CANDIDATES = 20
"""Tensors of one shape among which the other half of a swap is looked for."""


def explain(findings: Iterable[Finding], expected: Mapping[str, Shape], found: Found, fits: Fits) -> list[Finding]:
    """The findings, with those that share a cause replaced by it; causes first.

    expected: shapes by name, of the architecture. found: of the checkpoint. fits(expected, found): whether one loads.
    Costs O(tensors) but for the comparison of names without a partner.
    """
    case = _Case(list(findings), expected, found, fits)
    for step in (_layer_counts, _parametrized, _renamed, _joined, _swapped, _transposed):
        step(case)
    hinted = [finding if finding.hint else _hinted(finding, found, expected) for finding in case.findings]
    return causes_first([*case.causes, *hinted])


def causes_first(findings: Iterable[Finding]) -> list[Finding]:
    """Sorted by `ORDER`, errors before all else."""
    rank = {code: i for i, code in enumerate(ORDER)}
    severities = ("error", "warning", "info")
    return sorted(findings, key=lambda found: (severities.index(found.severity), rank.get(found.code, len(ORDER))))


@dataclass(slots=True)
class _Case:
    """What is still to be explained, and the causes found so far."""

    findings: list[Finding]
    expected: Mapping[str, Shape]
    found: Found
    fits: Fits
    causes: list[Finding] = field(default_factory=list)
    names: Collection[str] = ()

    def __post_init__(self) -> None:
        self.names = self.found

    def named(self, code: str) -> list[str]:
        """The tensors that findings of a code are about, those that have a shape here."""
        shapes = self.found if code == "unexpected-tensor" else self.expected
        return [finding.where for finding in self.findings if finding.code == code and finding.where in shapes]

    def explained(self, code: str, names: Collection[str]) -> None:
        self.findings = [f for f in self.findings if f.code != code or f.where not in names]


def _layer_counts(case: _Case) -> None:
    """A whole layer too few or too many in a numbered stack, outermost stacks first."""
    missing, unexpected = set(case.named("missing-tensor")), set(case.named("unexpected-tensor"))
    lost, extra = numbered_blocks(missing), numbered_blocks(unexpected)
    if not lost and not extra:
        return
    both = numbered_blocks(name for name in case.expected if name in case.found)
    excused = numbered_blocks(name for name in case.expected if name not in case.found and name not in missing)
    wanted, there = _sum(both, lost, excused), _sum(both, extra)
    gone, more = _whole_layers(lost, wanted, there), _whole_layers(extra, there, wanted)
    changed = {stack for stack, _ in gone} ^ {stack for stack, _ in more}  # one that lost and won layers is renumbered
    whole = {stack for stack in changed if wanted.get(stack, {}).keys() & there.get(stack, {}).keys()}
    for layers, names, code in ((gone, missing, "missing-tensor"), (more, unexpected, "unexpected-tensor")):
        stacks = _by_stack({(stack, number) for stack, number in layers if stack in whole}, names)
        for stack in sorted(stacks, key=lambda stack: (len(stack), stack)):
            counts = len(wanted[stack]), len(there[stack])
            case.causes.append(_layer_count(case, stack, sorted(stacks[stack]), counts))
        case.explained(code, {name for members in stacks.values() for _, name in members})


def _whole_layers(some: _Stacks, all_of_theirs: _Stacks, others: _Stacks) -> set[tuple[str, int]]:
    """The layers of which all tensors are among `some`, and none among the others'."""
    return {
        (stack, number)
        for stack, counts in some.items()
        for number, count in counts.items()
        if count == all_of_theirs[stack][number] and number not in others.get(stack, ())
    }


def _by_stack(layers: Set[tuple[str, int]], names: Iterable[str]) -> dict[str, list[tuple[int, str]]]:
    """The tensors of these layers by their stacks, each with its layer's number."""
    stacks: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        at = next((place for place in numbers_in(name) if place in layers), None)
        if at is not None:
            stacks.setdefault(at[0], []).append((at[1], name))
    return stacks


def _sum(*counted: _Stacks) -> dict[str, Counter[int]]:
    total: dict[str, Counter[int]] = {}
    for stacks in counted:
        for stack, counts in stacks.items():
            total.setdefault(stack, Counter()).update(counts)
    return total


def _layer_count(case: _Case, stack: str, members: Sequence[tuple[int, str]], layers: tuple[int, int]) -> Finding:
    numbers = sorted({number for number, _ in members})
    shown = ", ".join(f"{stack}{n}" for n in numbers[:3]) + (f" … {stack}{numbers[-1]}" if len(numbers) > 3 else "")
    gone = members[0][1] not in case.found
    wanted, there = layers
    problem = f"{'missing' if gone else 'too many'} {shown} ({len(members)} tensors)"
    message = f"{stack.rstrip('.') or 'the stack'} has {there} layers, expected {wanted}: {problem}"
    hint = None if gone else python(drops(name for _, name in members), case.names)
    return Finding("layer-count", "error", f"{stack}{numbers[0]}", message, str(wanted), str(there), hint)


def _parametrized(case: _Case) -> None:
    """A weight that is missing, and the tensors there of which the network would compute it."""
    there = set(case.named("unexpected-tensor"))
    found = {name: case.found[name] for name in there}
    made = computed_weights(
        case.named("missing-tensor"), found, lambda name, shape: case.fits(case.expected[name], shape)
    )
    for one in made:
        message = f"{one.name} is {one.how}: it is to be computed of {listed([*one.parts])}"
        case.causes.append(Finding("parametrized", "error", one.name, message, one.name, one.parts[0], one.hint))
    case.explained("missing-tensor", {one.name for one in made})
    case.explained("unexpected-tensor", {part for one in made for part in one.parts})


def _renamed(case: _Case) -> None:
    """A name that is missing and one that is unexpected, of the same shape and alike: said as one substitution.

    Those whose shapes are each other's transposes come second: other frameworks keep matrices so.
    """
    missing = {name: case.expected[name] for name in case.named("missing-tensor")}
    unexpected = {name: case.found[name] for name in case.named("unexpected-tensor")}
    if not missing or not unexpected:
        return

    def turned(wanted: Shape, shape: tuple[int, ...]) -> bool:
        return _axes(wanted, shape, case.fits) is not None

    pairs = pair_renames(missing, unexpected, case.fits)
    known = {a for a, _ in pairs}, {b for _, b in pairs}
    rest = {a: s for a, s in unexpected.items() if a not in known[0]}
    turns = pair_renames({b: s for b, s in missing.items() if b not in known[1]}, rest, turned)
    for change in substitutions([*pairs, *turns]):
        a, b = change.pairs[0]
        message = f"{a} is likely {b}"
        if len(change.pairs) > 1:
            old, new = change.found or "nothing", change.expected or "nothing"
            message = f"{len(change.pairs)} names have {old!r} for {new!r}: {message}"
        hint = python(renames(change.pairs), case.names)
        case.causes.append(Finding("renamed", "error", a, message, b, a, hint))
    for a, b in turns:
        case.findings.append(_mismatch(b, missing[b], unexpected[a]))
    case.found = {**case.found, **{b: unexpected[a] for a, b in turns}}
    case.explained("missing-tensor", {b for _, b in (*pairs, *turns)})
    case.explained("unexpected-tensor", {a for a, _ in (*pairs, *turns)})


def _mismatch(name: str, wanted: Shape, shape: tuple[int, ...]) -> Finding:
    texts = shape_text(wanted), shape_text(shape)
    message = f"{name}: expected shape {texts[0]}, found {texts[1]}"
    return Finding("shape-mismatch", "error", name, message, *texts)


def _joined(case: _Case) -> None:
    """Several tensors that are one there, q, k and v or all experts of a layer, or the other way round: by sizes."""
    there = case.named("unexpected-tensor")
    missing = {n: _header(s) for n in case.named("missing-tensor") if None not in (s := case.expected[n]) and there}
    unexpected = {name: _header(case.found[name]) for name in there if missing}
    for code, wholes, parts in (("fused", unexpected, missing), ("apart", missing, unexpected)):
        found = _joins(wholes, parts, is_fused=code == "fused") if wholes and len(parts) > 1 else []
        case.causes += [_joined_cause(code, edit) for edit in found]
        used = {name for edit in found for step in edit.steps for name in (*step.sources, *step.targets)}
        for side, word in ((missing, "missing-tensor"), (unexpected, "unexpected-tensor")):
            case.explained(word, used & side.keys())
            for name in used & side.keys():
                del side[name]


def _joins(wholes: Mapping[str, LazyTensor], parts: Mapping[str, LazyTensor], *, is_fused: bool) -> list[Edit]:
    """The edits that mend it: what is fused is taken apart, what is apart is joined."""
    stacks = find_stacked(wholes, parts, None, ())
    done = {one.whole for one in stacks} | {part for one in stacks for part in one.names}
    rest, left = ({n: t for n, t in side.items() if n not in done} for side in (wholes, parts))
    steps: dict[tuple[int, tuple[int, ...]], list[Step]] = {}
    for one in find_parts(rest, left, None):
        sizes = tuple(parts[part].info.shape[one.axis] for part in one.parts)
        step = Step((one.whole,), one.parts) if is_fused else Step(one.parts, (one.whole,))
        steps.setdefault((one.axis, sizes), []).append(step)
    found = stack_edits([(one.names, one.whole) for one in stacks], reverse=is_fused)
    for (axis, sizes), group in steps.items():
        found += edits("split" if is_fused else "concat", group, {"axis": axis, "sizes": list(sizes)})
    return found


def _joined_cause(code: str, edit: Edit) -> Finding:
    step = edit.steps[0]
    (whole,), parts = (step.sources, step.targets) if code == "fused" else (step.targets, step.sources)
    listed = bracketed(parts) if len(parts) <= MOST_LISTED else f"{parts[0]} … {parts[-1]}"
    more = f"; {len(edit.steps) - 1:,} more like it" if len(edit.steps) > 1 else ""
    if code == "fused":
        return Finding(code, "error", whole, f"{whole} is likely {listed} in one{more}", listed, whole, python(edit))
    message = f"{listed} is likely {whole}, in {len(parts)} parts{more}"
    return Finding(code, "error", parts[0], message, whole, listed, python(edit))


def _header(shape: Shape) -> LazyTensor:
    """A tensor of that shape of which nothing is read."""
    return in_memory(TensorInfo.of(DType.F32, tuple(size or 0 for size in shape)), b"")


def _swapped(case: _Case) -> None:
    """Two tensors that each have the shape of the other; of several such, those whose names have most in common."""
    names = [name for name in case.named("shape-mismatch") if name in case.found]
    waiting: dict[tuple[Shape, Shape], dict[str, None]] = {}
    for name in names:
        waiting.setdefault((case.expected[name], case.found[name]), {})[name] = None
    done: set[str] = set()
    for a in names:
        wanted, shape = case.expected[a], case.found[a]
        partners = waiting.get((shape, wanted))
        if a in done or not partners or (shape[::-1] == wanted and len(names) > 2):
            continue  # many matrices, each as its transpose should be, are transposed
        b = max(islice(partners, CANDIDATES), key=lambda name: _shared(a, name))
        for name in (a, b):
            del waiting[case.expected[name], case.found[name]][name]
        done |= {a, b}
        message, texts = f"{a} and {b} have each other's shapes", (shape_text(wanted), shape_text(shape))
        case.causes.append(Finding("swapped", "error", a, message, *texts, python(renames([(a, b), (b, a)]))))
    case.explained("shape-mismatch", done)


def _shared(a: str, b: str) -> int:
    """How many components two names share, place by place."""
    return sum(x == y for x, y in zip(a.split("."), b.split("."), strict=False))


def _transposed(case: _Case) -> None:
    """A matrix with its two sizes exchanged, a kernel with its dimensions in another framework's order."""
    for i, finding in enumerate(case.findings):
        name = finding.where
        if finding.code != "shape-mismatch" or name not in case.found or name not in case.expected:
            continue
        axes = _axes(case.expected[name], case.found[name], case.fits)
        if axes is not None:
            message = f"{name} is transposed: expected {finding.expected}, found {finding.found}"
            hint = python(single("transpose", name, axes=list(axes)))
            case.findings[i] = replace(finding, code="transposed", message=message, hint=hint)


def _axes(wanted: Shape, shape: tuple[int, ...], fits: Fits) -> tuple[int, ...] | None:
    """The order of dimensions in which a shape would fit; None where it fits as it is, or in no order known."""
    if len(shape) != len(wanted) or len(shape) < 2 or fits(wanted, shape):
        return None
    for axes in (tuple(range(len(shape)))[::-1] if len(shape) == 2 else (), *LAYOUTS):
        if len(axes) == len(shape) and fits(wanted, tuple(shape[axis] for axis in axes)):
            return axes
    return None


def _hinted(finding: Finding, found: Found, expected: Mapping[str, Shape]) -> Finding:
    """The finding with what would mend it, where that is known."""
    name = finding.where
    match finding.code:
        case "unexpected-tensor":
            hint = python(single("drop", name))
        case "missing-tensor" if name.endswith("num_batches_tracked"):
            hint = f"state_dict[{name!r}] = torch.tensor(0)"
        case "shape-mismatch" if name in found and name in expected:
            hint = _reshape(name, expected[name], found[name])
        case "dtype-mismatch" if finding.expected is not None:
            hint = _cast(name, finding.expected)
        case "tie-broken" if finding.expected is not None:
            hint = python(single("tie", finding.expected.removeprefix("tied to "), name))
        case _:
            return finding
    return replace(finding, hint=hint)


def _reshape(name: str, wanted: Shape, shape: tuple[int, ...]) -> str | None:
    """For shapes that differ in dimensions of size 1 alone: those of a scalar, a bias, a 1 × 1 convolution."""
    sizes = [size for size in wanted if size is not None]
    if len(sizes) < len(wanted) or prod(sizes) != prod(shape):
        return None
    if [size for size in sizes if size != 1] != [size for size in shape if size != 1]:
        return None
    return python(single("reshape", name, shape=list(sizes)))


def _cast(name: str, wanted: str) -> str | None:
    from ckptconv.core.arrays import TORCH_NAMES

    first = wanted.removeprefix("one of ").split(" or ")[0].split(", ")[0]
    dtype = next((torch for dtype, torch in TORCH_NAMES.items() if dtype.name == first), None)
    return None if dtype is None else python(single("cast", name, dtype=dtype))
