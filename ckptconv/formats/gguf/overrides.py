"""Metadata that the user sets with ``--meta``, in the types that llama.cpp expects: it loads no others.

An entry that the file already has keeps its type. ``general.…`` keys have the types of the specification, ggml's
docs/gguf.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.record import readable
from ckptconv.errors import EditError
from ckptconv.formats.gguf.filetype import ARCHITECTURE_KEY, FILE_TYPE_KEY, VERSION_KEY
from ckptconv.formats.gguf.layout import ALIGNMENT_KEY, is_alignment
from ckptconv.formats.gguf.values import F32_LIMIT, default_type, fits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode

SPECIFIED = {ARCHITECTURE_KEY: "string", FILE_TYPE_KEY: "uint32", VERSION_KEY: "uint32", ALIGNMENT_KEY: "uint32"}


def coerce_overrides(checkpoint: Checkpoint, overrides: Mapping[str, MetaNode]) -> dict[str, MetaNode]:
    """Metadata for a checkpoint that becomes a GGUF, or stays one, in the types that it needs. Raises EditError."""
    types: dict[object, str | None] = dict(SPECIFIED.items())
    if checkpoint.format.startswith("gguf"):
        noted = checkpoint.notes.types
        types = {key: noted.get(str(key)) or default_type(value) for key, value in checkpoint.metadata.items()} | types
    hint = "leave it out, and what the file says stays"
    return {
        key: coerce(key, type_name, value, hint) if (type_name := types.get(key)) else value
        for key, value in overrides.items()
    }


def coerce(key: str, type_name: str, value: MetaNode, hint: str) -> MetaNode:
    """The user's value for a key, as this type. Raises EditError if it can't be."""
    if type_name == "float32[]" and isinstance(value, list):
        value = [_as_float(item) for item in value]
    elif type_name in ("float32", "float64"):
        value = _as_float(value)
    elif type_name == "string" and type(value) in (int, float, bool):
        value = readable(value)
    if key == ALIGNMENT_KEY and not is_alignment(value):
        raise EditError(f"--meta {key}: {str(value)[:40]!r} is not a power of two, as an alignment must be", hint=hint)
    if not fits(type_name, value) and not fits(f"{type_name}[]", value):  # one number for all layers, or one for each
        raise EditError(
            f"--meta {key}: {str(value)[:40]!r} is not a {type_name}, which llama.cpp expects there", hint=hint
        )
    return value


def _as_float(value: MetaNode) -> MetaNode:
    return float(value) if type(value) is int and abs(value) < F32_LIMIT else value
