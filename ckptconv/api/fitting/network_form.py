"""A checkpoint as a network has its tensors: another framework's names translated, quantized weights plain.

Architectures describe tensors that way, so `validate` and `verify` begin with this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.api.editing.dialects import has_mlx_lm_layout
from ckptconv.api.editing.originals import as_dequantized, as_floats, as_translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.api.request import Request
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.report import Finding


@dataclass(frozen=True, slots=True)
class NetworkForm:
    """The checkpoint in that form, and findings about how it got there.

    dequantized: its weights are no longer quantized, whatever a configuration says.
    """

    checkpoint: Checkpoint
    findings: Sequence[Finding] = ()
    dequantized: bool = False


def in_network_form(request: Request, opened: Checkpoint, *, headers: bool = False) -> NetworkForm:
    """Dequantize and translate names and layouts, unless ``--arch`` describes the tensors as they are stored.

    headers: no tensor will be read, so that nothing is needed to unpack ggml's blocks.
    """
    plain, dequantized = as_dequantized(opened, request.path)
    converted, translated = as_translated(plain, request.path)
    if dequantized and not translated and has_mlx_lm_layout(opened):  # no architecture has what that leaves
        return NetworkForm(opened)
    findings = [*dequantized, *translated]
    if not findings or _describes_stored_tensors(request, opened, converted):
        return NetworkForm(opened)
    return NetworkForm(as_floats(converted, headers=headers), findings, bool(dequantized))


def _describes_stored_tensors(request: Request, opened: Checkpoint, converted: Checkpoint) -> bool:
    """Whether the architecture is that of the stored tensors: it is another file of the same kind, a spec that was made
    from one, or Python code that builds the same modules.
    """
    from ckptconv.api.fitting.resolve import table_for
    from ckptconv.arch.huggingface import is_config
    from ckptconv.arch.load import library_names

    if request.arch is None or request.arch in library_names() or is_config(request.arch):
        return False

    def names_in_common(checkpoint: Checkpoint) -> int:
        table = table_for(request, checkpoint)
        return 0 if table is None else len(table.tensors.keys() & checkpoint.keys())

    return names_in_common(opened) > names_in_common(converted)
