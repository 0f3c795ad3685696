"""Single causes that explain every error: another architecture, another framework's names, quantized weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.report import Finding, errors_among
from ckptconv.core.tensor import infos_of
from ckptconv.edits.adapters.inside import NOT_MERGED, how_to_merge, is_inside
from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.api.fitting.resolve import Resolved
    from ckptconv.api.request import Request
    from ckptconv.arch.bind import Source
    from ckptconv.arch.spec import Spec
    from ckptconv.arch.table import Table
    from ckptconv.checks.verdict import Verdict
    from ckptconv.core.checkpoint import Checkpoint

UNRELATED_SHARE = 0.1
"""Architectures with a smaller share of names in common are unrelated."""


def overall_causes(request: Request, checkpoint: Checkpoint, chosen: Resolved, verdict: Verdict) -> list[Finding]:
    """The causes that explain all errors: another framework's names, quantized weights, another architecture.

    Raises UsageError if the network is built differently from the nearest by name.
    """
    quantized = [_quantization_cause(request, chosen, checkpoint)] if chosen.quantized else []
    if is_inside(checkpoint) and not is_inside(() if verdict.table is None else verdict.table.tensors):
        return [Finding("adapter-inside", "error", "", NOT_MERGED, hint=how_to_merge(checkpoint)), *quantized]
    if causes := foreign_name_causes(request, checkpoint, chosen.spec, verdict.table):
        return [*causes, *quantized]
    only_prefixed = all(finding.code == "prefixed" for finding in errors_among(verdict.findings))
    if request.arch is None and chosen.evidence == "names" and verdict.table is not None and not only_prefixed:
        from ckptconv.api.fitting.resolve import built_otherwise_error
        from ckptconv.checks.validate import built_otherwise

        if any(differences := built_otherwise(checkpoint, verdict.table, chosen.strays)):
            raise built_otherwise_error(chosen.name, differences).at(request.path)
    if chosen.spec is not None and chosen.evidence != "names":
        return [*_other_architecture_causes(request, checkpoint, chosen.spec, chosen.sources), *quantized]
    return quantized


def _other_architecture_causes(
    request: Request, checkpoint: Checkpoint, spec: Spec, sources: Sequence[Source]
) -> list[Finding]:
    """The cause if the names are those of another architecture in the library."""
    from ckptconv.arch.choose import choose, unwrapped
    from ckptconv.arch.rating import overlap
    from ckptconv.arch.solver import solve

    infos = infos_of(checkpoint)
    try:
        other = choose(infos)
    except UsageError:
        return []
    tensors = unwrapped(infos, other.wrapper)
    share = overlap(solve(spec, tensors, sources), tensors)
    if other.spec.name == spec.name or share >= UNRELATED_SHARE:
        return []
    message = f"the names of its tensors are those of {other.spec.name}, and not of {spec.name}"
    line = request.other_command("validate", "--arch", other.spec.name)
    return [Finding("architecture", "error", "", message, spec.name, other.spec.name, hint=line)]


def foreign_name_causes(
    request: Request, checkpoint: Checkpoint, spec: Spec | None = None, table: Table | None = None
) -> list[Finding]:
    """The cause if names and layouts are another framework's."""
    from ckptconv.api.editing.dialects import dialect_of
    from ckptconv.edits.dialects.by_names import dialect_by_names
    from ckptconv.edits.name_rule import MLX, TO_LDM
    from ckptconv.edits.translate import GIVES

    dialect = dialect_of(checkpoint)
    is_hugging_face_class = spec is not None and bool(spec.config.architectures)
    if is_hugging_face_class and dialect in ("", TO_LDM):
        dialect = dialect_by_names(checkpoint)
    if not dialect or (spec is None and dialect == TO_LDM):  # diffusers' own names: each model is checked by itself
        return []
    if dialect != MLX and table is not None and 2 * len(table.tensors.keys() & checkpoint.keys()) > len(checkpoint):
        return []  # the architecture has most of these names itself; mlx-lm is exempt, since it renames few
    message = f"names and layouts are not {GIVES[dialect]}, which --translate {dialect} makes of them"
    line = request.other_command("convert", "translated.pth", "--translate", dialect)
    return [Finding("dialect", "error", "", message, hint=line)]


def _quantization_cause(request: Request, chosen: Resolved, checkpoint: Checkpoint) -> Finding:
    """The cause if the weights are quantized: quantizers store other tensors under other names."""
    from ckptconv.api.editing.dialects import has_mlx_lm_layout
    from ckptconv.edits.name_rule import MLX
    from ckptconv.edits.quantized.config import METHODS

    method = chosen.quantized
    message = (
        f"the weights are quantized ({method!r}, says a file beside them); {chosen.name} describes them as they were"
    )
    more = ["--translate", MLX] if has_mlx_lm_layout(checkpoint) else []
    line = request.other_command("convert", "plain.safetensors", "--dequantize", *more)
    hint = line if method in METHODS else "validate what it was made from"
    return Finding("quantized", "error", "", message, None, method, hint=hint)
