"""Entries of a file for llama.cpp, whatever is in it: what a person says outranks the rest, and each is of the type
with which llama.cpp asks for it.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.errors import UnsupportedError
from ckptconv.formats.gguf.filetype import FILE_TYPE_KEY, FILE_TYPES, most
from ckptconv.formats.gguf.said import as_asked

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.gguf.hub.documents import Documents
    from ckptconv.formats.gguf.values import Typed

UNSAID = "without it, the files beside the weights say it"

_COMPUTED = (DType.F16, DType.BF16, DType.F32)


def settled(
    entries: Mapping[str, Typed], said: Mapping[str, MetaNode], types: Mapping[str, str] | None = None
) -> dict[str, Typed]:
    """The entries with what is `said` of them, and of those in `types` that are not among them. Raises EditError."""
    kinds = {**(types or {}), **{key: kind for key, (kind, _) in entries.items()}}
    own = {key: (kinds[key], as_asked(key, kinds[key], value, UNSAID)) for key, value in said.items() if key in kinds}
    return {key: (kind, _rounded(kind, value)) for key, (kind, value) in {**entries, **own}.items()}


def _rounded(kind: str, value: MetaNode) -> MetaNode:
    """The value as a float32 has it, so that the entry says all of it."""
    if kind == "float32[]" and isinstance(value, list):
        return [*array("f", value)]
    return array("f", [value])[0] if kind == "float32" and isinstance(value, float) else value


def folder_name(documents: Documents) -> str:
    """The folder's; a name on disk may be no UTF-8."""
    return documents.folder.path.resolve().name.encode("utf-8", "replace").decode("utf-8")


def file_type(tensors: Iterable[LazyTensor]) -> dict[str, Typed]:
    """What the file says of its tensors' types."""
    kind = most(tensors)
    number = FILE_TYPES.get(kind.name) if kind is not None else None
    return {} if number is None else {FILE_TYPE_KEY: ("uint32", number)}


def check_types(dialect: str, tensors: Mapping[str, LazyTensor]) -> None:
    """Raise UnsupportedError for numbers that llama.cpp does not compute with."""
    for name, tensor in tensors.items():
        dtype = tensor.info.dtype
        if dtype.block == 1 and dtype not in _COMPUTED:
            raise UnsupportedError(
                f"--translate {dialect}: llama.cpp does not compute with {dtype}, which {name!r} would be",
                hint=f"--dtype {', '.join(map(str, _COMPUTED))}, or blocks as Q8_0",
            )
