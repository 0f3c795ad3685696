"""What the metadata of models, towers and adapters has in common: overrides by the user, dtypes, the file type."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.errors import UnsupportedError
from ckptconv.formats.gguf.filetype import FILE_TYPE_KEY, FILE_TYPES, most_common_dtype
from ckptconv.formats.gguf.overrides import coerce

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.gguf.hub.documents import Documents
    from ckptconv.formats.gguf.values import Typed

_HINT = "without it, the files beside the weights say it"

_COMPUTED = (DType.F16, DType.BF16, DType.F32)
"""The element types that llama.cpp computes with, besides quantized blocks."""


def apply_overrides(
    entries: Mapping[str, Typed], overrides: Mapping[str, MetaNode], more_types: Mapping[str, str] | None = None
) -> dict[str, Typed]:
    """The entries, with the user's values in place of theirs, as the same types.

    overrides:  the user's values; those of other keys are left out.
    more_types: types of keys that may also be set, although they are not among the entries.

    Raises EditError for a value that the type cannot hold.
    """
    types = {**(more_types or {}), **{key: name for key, (name, _) in entries.items()}}
    replaced: dict[str, Typed] = {
        key: (types[key], coerce(key, types[key], value, _HINT)) for key, value in overrides.items() if key in types
    }
    return {key: (name, _round(name, value)) for key, (name, value) in {**entries, **replaced}.items()}


def _round(name: str, value: MetaNode) -> MetaNode:
    """Rounds floats that are stored as float32, so that the entry stores the value exactly."""
    if name == "float32[]" and isinstance(value, list):
        return [*array("f", value)]
    return array("f", [value])[0] if name == "float32" and isinstance(value, float) else value


def folder_name(documents: Documents) -> str:
    """The folder's name, for ``general.name``; bytes that are not UTF-8 are replaced."""
    return documents.folder.path.resolve().name.encode("utf-8", "replace").decode("utf-8")


def file_type_entry(tensors: Iterable[LazyTensor]) -> dict[str, Typed]:
    """``general.file_type``; no entry if llama.cpp has no number for the tensors' dtype."""
    dtype = most_common_dtype(tensors)
    number = FILE_TYPES.get(dtype.name) if dtype is not None else None
    return {} if number is None else {FILE_TYPE_KEY: ("uint32", number)}


def check_dtypes(dialect: str, tensors: Mapping[str, LazyTensor]) -> None:
    """Raise UnsupportedError for an element type that llama.cpp does not compute with."""
    for name, tensor in tensors.items():
        dtype = tensor.info.dtype
        if dtype.block == 1 and dtype not in _COMPUTED:
            raise UnsupportedError(
                f"--translate {dialect}: llama.cpp does not compute with {dtype}, which {name!r} would be",
                hint=f"--dtype {', '.join(map(str, _COMPUTED))}, or blocks as Q8_0",
            )
