"""What a person says of a GGUF's metadata, as the types with which llama.cpp asks for it: another one it does not load.

An entry that the file has keeps its type, and ``general.…`` keys have those of the specification, ggml's docs/gguf.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.record import readable
from ckptconv.errors import EditError
from ckptconv.formats.gguf.filetype import ARCHITECTURE_KEY, FILE_TYPE_KEY, VERSION_KEY
from ckptconv.formats.gguf.layout import ALIGNMENT_KEY, is_alignment
from ckptconv.formats.gguf.values import F32_LIMIT, fits, natural

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode

SPECIFIED = {ARCHITECTURE_KEY: "string", FILE_TYPE_KEY: "uint32", VERSION_KEY: "uint32", ALIGNMENT_KEY: "uint32"}


def settled_for(checkpoint: Checkpoint, said: Mapping[str, MetaNode]) -> dict[str, MetaNode]:
    """What is `said` of a checkpoint that becomes a GGUF, or stays one. Raises EditError."""
    kinds: dict[object, str | None] = dict(SPECIFIED.items())
    if checkpoint.format.startswith("gguf"):
        types = checkpoint.notes.types
        kinds = {key: types.get(str(key)) or natural(value) for key, value in checkpoint.metadata.items()} | kinds
    hint = "leave it out, and what the file says stays"
    return {key: as_asked(key, kind, value, hint) if (kind := kinds.get(key)) else value for key, value in said.items()}


def as_asked(key: str, kind: str, value: MetaNode, hint: str) -> MetaNode:
    """What a person says, as this type. Raises EditError where it cannot be that."""
    if kind == "float32[]" and isinstance(value, list):
        value = [_float(one) for one in value]
    elif kind in ("float32", "float64"):
        value = _float(value)
    elif kind == "string" and type(value) in (int, float, bool):
        value = readable(value)
    if key == ALIGNMENT_KEY and not is_alignment(value):
        raise EditError(f"--meta {key}: {str(value)[:40]!r} is not a power of two, which an alignment is", hint=hint)
    if not fits(kind, value) and not fits(f"{kind}[]", value):  # one number for all layers, or one for each
        raise EditError(f"--meta {key}: {str(value)[:40]!r} is no {kind}, which llama.cpp takes there", hint=hint)
    return value


def _float(value: MetaNode) -> MetaNode:
    return float(value) if type(value) is int and abs(value) < F32_LIMIT else value
