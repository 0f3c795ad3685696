"""Explains missing and unexpected tensors by whole layers too few or too many in a numbered stack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.edits.match import numbered_blocks, numbers_in
from ckptconv.edits.python import drops, python

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence, Set

    from ckptconv.checks.case import Case

_Stacks = Mapping[str, Counter[int]]
"""For each stack of numbered layers, the number of tensors in each layer."""


def explain_layer_counts(case: Case) -> None:
    """Whole layers too few or too many in a numbered stack; outermost stacks first."""
    missing, unexpected = set(case.tensors_with("missing-tensor")), set(case.tensors_with("unexpected-tensor"))
    missing_blocks, unexpected_blocks = numbered_blocks(missing), numbered_blocks(unexpected)
    if not missing_blocks and not unexpected_blocks:
        return
    common = numbered_blocks(name for name in case.expected if name in case.found)
    excused = numbered_blocks(name for name in case.expected if name not in case.found and name not in missing)
    expected, found = _sum(common, missing_blocks, excused), _sum(common, unexpected_blocks)
    missing_layers = _whole_layers(missing_blocks, expected, found)
    extra_layers = _whole_layers(unexpected_blocks, found, expected)
    # a stack with missing layers and extra ones is renumbered, which is not a matter of their count
    changed = {stack for stack, _ in missing_layers} ^ {stack for stack, _ in extra_layers}
    stacks = {stack for stack in changed if expected.get(stack, {}).keys() & found.get(stack, {}).keys()}
    for layers, names, code in (
        (missing_layers, missing, "missing-tensor"),
        (extra_layers, unexpected, "unexpected-tensor"),
    ):
        by_stack = _by_stack({(stack, number) for stack, number in layers if stack in stacks}, names)
        for stack in sorted(by_stack, key=lambda stack: (len(stack), stack)):
            counts = len(expected[stack]), len(found[stack])
            case.causes.append(_layer_count_finding(case, stack, sorted(by_stack[stack]), counts))
        case.remove(code, {name for members in by_stack.values() for _, name in members})


def _whole_layers(blocks: _Stacks, own_side: _Stacks, other_side: _Stacks) -> set[tuple[str, int]]:
    """The layers all of whose tensors on their own side are among `blocks`, and that the other side lacks."""
    return {
        (stack, number)
        for stack, counts in blocks.items()
        for number, count in counts.items()
        if count == own_side[stack][number] and number not in other_side.get(stack, ())
    }


def _by_stack(layers: Set[tuple[str, int]], names: Iterable[str]) -> dict[str, list[tuple[int, str]]]:
    """The tensors of these layers by stack, each with its layer's number."""
    stacks: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        layer = next((place for place in numbers_in(name) if place in layers), None)
        if layer is not None:
            stack, number = layer
            stacks.setdefault(stack, []).append((number, name))
    return stacks


def _sum(*counted: _Stacks) -> dict[str, Counter[int]]:
    total: dict[str, Counter[int]] = {}
    for stacks in counted:
        for stack, counts in stacks.items():
            total.setdefault(stack, Counter()).update(counts)
    return total


def _layer_count_finding(
    case: Case, stack: str, members: Sequence[tuple[int, str]], layers: tuple[int, int]
) -> Finding:
    numbers = sorted({number for number, _ in members})
    shown = ", ".join(f"{stack}{n}" for n in numbers[:3]) + (f" … {stack}{numbers[-1]}" if len(numbers) > 3 else "")
    is_missing = members[0][1] not in case.found
    expected, found = layers
    problem = f"{'missing' if is_missing else 'too many'} {shown} ({len(members)} tensors)"
    message = f"{stack.rstrip('.') or 'the stack'} has {found} layers, expected {expected}: {problem}"
    hint = None if is_missing else python(drops(name for _, name in members), case.names)
    return Finding("layer-count", "error", f"{stack}{numbers[0]}", message, str(expected), str(found), hint)
