"""Makes the edits (of kind dequantize) that turn a checkpoint's quantized weights into plain ones.

The checkpoint itself knows the parts of torch's and TensorFlow Lite's own quantized tensors, which are affine, and
those of weights that a graph computes or that torchao's classes hold (`QuantizedWeight`), several of which may share a
scale or a zero point. All others are found by their names, types and shapes (`find`).

A configuration (`config.Settings`) has to agree with what is found. Scales of activations are dropped with the weight.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.composite import Quantized
from ckptconv.core.edit import Edit, Step
from ckptconv.core.names import module_of, numbered
from ckptconv.core.notes import UNREAD
from ckptconv.edits.dialects.keras_quantized import SCHEME as KERAS
from ckptconv.edits.quantized import comfy, eager
from ckptconv.edits.quantized.config import HINT
from ckptconv.edits.quantized.find import Group, find_groups, group_of
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.core.composite import Composite
    from ckptconv.core.notes import Notes, QuantizedWeight
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import TensorInfo
    from ckptconv.edits.quantized.config import Settings

    Infos = Mapping[str, TensorInfo]

ACTIVATIONS = (
    "input_scale", "input_scale_ub", "input_zero_point", "input_global_scale", "activation_scale", "output_scale",
    "output_zero_point", "q_scale", "k_scale", "v_scale", "prob_output_scale", "k_zero_point", "v_zero_point",
    "scale_input",
)  # fmt: skip
"""How a module's inputs, outputs and caches were to be quantized, which does not concern its weight."""

SMOOTHED = ("pre_quant_scale", "_smooth_scale")
"""Factors for the inputs, by which the weights were divided: without them, plain weights would not be the model's."""


def dequantize_edits(infos: Infos, settings: Settings, composites: Mapping[str, Composite], notes: Notes) -> list[Edit]:
    """The edits that make plain tensors of all quantized ones, and drop what was meant for activations.

    Raises EditError if nothing is quantized, a part is missing, or the configuration states another scheme.
    """
    if smoothed := [name for name in infos if name.endswith(SMOOTHED)]:
        raise EditError(
            f"--dequantize: {smoothed[0]!r} is a scale of the inputs that the weight was divided by",
            hint="the plain weight alone would not compute the same",
        )
    by_key: dict[str, list[Group]] = {}
    noted = [weight for weight in notes.quantized if weight.values in infos]
    from_graph = [_graph_group(infos, weight) for weight in noted]
    renames = _renames(infos, noted)
    shared = _unshare(from_graph, infos)
    packed = eager.plain_names(infos)
    for group in (*_affine_groups(composites, packed), *from_graph):
        by_key.setdefault(group.key, []).append(group)
    known = {part for same in by_key.values() for group in same for part in group.parts.values()} | set(notes.between)
    for group in find_groups({name: info for name, info in infos.items() if name not in known}, settings):
        settings.check(group.scheme, group.target)
        by_key.setdefault(group.key, []).append(group)
    found = [group for same in by_key.values() for group in same]
    renames += tuple(Step((name,), (new,)) for name, new in packed.items() if name not in composites)
    if not found and not renames:
        method = f", though the configuration says {settings.method!r}" if settings.method else ""
        raise EditError(
            f"--dequantize finds no quantized weight{method}",
            hint="ckptconv inspect --list shows the tensors; GGUF's blocks are unpacked by --dtype alone",
        )
    edits = [*shared, *(_edit(same) for same in by_key.values())]
    if renames:
        edits.append(Edit("rename", renames[0].sources, renames[0].targets, {}, renames))
    parts = {name for group in found for name in group.parts.values()}
    between = [name for name in notes.between if name in infos]
    left_out = (
        *between,
        *eager.for_outputs(infos, composites),
        *eager.twice_there(infos),
        *_activation_scales(infos, found),
        *comfy.markers(infos),
    )
    if dropped := list(dict.fromkeys(name for name in left_out if name not in parts)):
        edits.append(Edit("drop", (dropped[0],), (), {}, tuple(Step((name,), ()) for name in dropped)))
    return edits


def _graph_group(infos: Infos, weight: QuantizedWeight) -> Group:
    """A weight that a graph computes, or that its class holds; called as its values if another tensor has its name.

    Raises UnsupportedError for one that is not read.
    """
    if weight.scheme == UNREAD:
        raise UnsupportedError(f"{weight.name!r} is {weight.called}, {weight.details.get('why')}", hint=HINT)
    parts = dict(weight.parts)
    is_free = weight.name not in infos.keys() - parts.values() and weight.scheme != KERAS
    return group_of(
        infos, weight.scheme, weight.name if is_free else weight.values, parts, len(parts), **weight.details
    )


def _renames(infos: Infos, noted: list[QuantizedWeight]) -> tuple[Step, ...]:
    """Renames of Keras' weights, which other numbers than their values have once they are plain: where a bias has the
    number, it gets that of the values.
    """
    weights = [weight for weight in noted if weight.scheme == KERAS and weight.name != weight.values]
    used = {part for weight in noted for part in weight.parts.values()}
    pairs = [(weight.values, weight.name) for weight in weights]
    pairs += [(weight.name, weight.values) for weight in weights if weight.name in infos.keys() - used]
    return tuple(Step((old,), (new,)) for old, new in pairs)


def _unshare(groups: list[Group], infos: Infos) -> list[Edit]:
    """Give parts that several groups share further names, and return the edit that makes these."""
    seen: set[str] = set()
    known: set[str] = set(infos)
    ties: list[Step] = []
    for group in groups:
        for role, name in group.parts.items():
            if name in seen:
                free = numbered(f"{group.target}.{role}", known)
                ties.append(Step((name,), (free,)))
                known.add(free)
                group.parts[role] = name = free
            seen.add(name)
    return [Edit("tie", ties[0].sources, ties[0].targets, {}, tuple(ties))] if ties else []


def _edit(groups: list[Group]) -> Edit:
    """The edit that dequantizes groups of the same key."""
    first = groups[0]
    details: dict[str, Json] = {"scheme": first.scheme, "parts": list(first.parts), **first.details}
    steps = tuple(Step(tuple(group.parts.values()), (group.target,)) for group in groups)
    return Edit("dequantize", steps[0].sources, steps[0].targets, details, steps)


def _activation_scales(infos: Infos, found: list[Group]) -> Iterator[str]:
    """Scales of the inputs and outputs of quantized modules, and of the attention modules that these are in."""
    modules = {module_of(group.target) for group in found}
    near = modules | {module.rpartition(".")[0] for module in modules}
    for name in infos:
        module, _, last = name.rpartition(".")
        if last in ACTIVATIONS and module in near:
            yield name
    for group in found:
        yield from (name for name in (f"{group.target}_activation_scale", f"{group.target}_scale_ub") if name in infos)


def _affine_groups(composites: Mapping[str, Composite], packed: Mapping[str, str]) -> Iterator[Group]:
    """Torch's and TensorFlow Lite's own quantized tensors. packed: plain names of those that have others."""
    for name, composite in composites.items():
        if not isinstance(composite, Quantized):
            continue
        if composite.dtype.bits < 8:
            raise EditError(
                f"--dequantize: {name!r} is {composite.summary}, of which several share a byte: that is not unpacked",
                hint=f"--drop '{name}' leaves it out",
            )
        details: dict[str, Json] = {} if composite.axis is None else {"axis": composite.axis}
        yield Group("affine", packed.get(name, name), dict(composite.parts), details)
