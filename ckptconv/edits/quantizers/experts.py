"""Splits experts that are stacked in one tensor, for models whose quantized releases have them split.

    ….experts.gate_up_proj [E, 2 · I, H]    ….experts.N.gate_proj.weight and ….experts.N.up_proj.weight [I, H]
    ….experts.down_proj [E, H, I]           ….experts.N.down_proj.weight [H, I]

These are the mixtures of experts of Qwen 3.5 and 3.6, plain and in FP8; transformers loads both forms, and writes the
second. Experts of other models (Llama 4, gpt-oss, Qwen 3 VL) have another layout, or only one set of names.

Sources: transformers 5.24, conversion_mapping.py; ml-explore/mlx-lm, pull request 1224 (the names of the FP8 release).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.core.edit import Kind
    from ckptconv.core.tensor import TensorInfo

APART = ("qwen3_5_moe", "qwen3_5_moe_text")
"""The model_type of these models."""

GATE_UP, DOWN = ".experts.gate_up_proj", ".experts.down_proj"

MOST = 4096
"""The most experts of a layer; models have some hundreds."""


def apart(infos: Mapping[str, TensorInfo], kind: object, wanted: Callable[[list[str]], bool]) -> list[Edit]:
    """The edits that split the experts, if the names that they get are wanted. kind: the model_type."""
    if kind not in APART:
        return []
    stacks = [name.removesuffix(GATE_UP) for name in infos if name.endswith(GATE_UP)]
    counts = {stack: _count_experts(infos, stack) for stack in stacks}
    found = {stack: count for stack, count in counts.items() if count and wanted(_names(stack, count))}
    if not found:
        return []
    unstacked, split = [], []
    for stack, count in found.items():
        experts = [f"{stack}.experts.{number}" for number in range(count)]
        for source, name in ((stack + GATE_UP, "gate_up_proj"), (stack + DOWN, "down_proj")):
            unstacked.append(Step((source,), tuple(f"{expert}.{name}.weight" for expert in experts)))
        for expert in experts:
            halves = f"{expert}.gate_proj.weight", f"{expert}.up_proj.weight"
            split.append(Step((f"{expert}.gate_up_proj.weight",), halves))
    return [_edit("unstack", unstacked), _edit("split", split)]


def _edit(kind: Kind, steps: list[Step]) -> Edit:
    return Edit(kind, steps[0].sources, steps[0].targets, {"axis": 0}, tuple(steps))


def _names(stack: str, count: int) -> list[str]:
    parts = ("gate_proj", "up_proj", "down_proj")
    return [f"{stack}.experts.{number}.{part}.weight" for number in range(count) for part in parts]


def _count_experts(infos: Mapping[str, TensorInfo], stack: str) -> int:
    """How many experts there are; 0 if shapes do not fit, or a name is taken."""
    one, other = infos[stack + GATE_UP], infos.get(stack + DOWN)
    if other is None or len(one.shape) != 3 or len(other.shape) != 3 or not 0 < one.shape[0] <= MOST:
        return 0
    count, rows, columns = one.shape
    fits = other.shape == (count, columns, rows // 2) and rows % 2 == 0
    return count if fits and not any(name.startswith(f"{stack}.experts.0.") for name in infos) else 0
