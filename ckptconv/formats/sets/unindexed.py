"""Safetensors shards without an index, as ExLlamaV2 writes them (``output-00001-of-00002.safetensors``).

Their headers say which tensors they hold, and their names how many there are: if no file is missing, the set is whole.
vLLM and ExLlama load such sets, transformers requires an index. Pickled shards are refused without an index: it alone
says what they hold before all of them are read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError
from ckptconv.formats.sets.shards import Index

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.io.folder import Folder


def index_of(folder: Folder, held: Mapping[str, Iterable[str]]) -> tuple[Index, Finding]:
    """The index that the shards would have, from the tensors in each (`held`), and a finding that there is none.

    Raises CorruptFileError if a tensor is in two of them.
    """
    places: dict[str, str] = {}
    for file, names in held.items():
        for name in names:
            if name in places:
                raise CorruptFileError(
                    f"{name!r} is in two shards, {places[name]!r} and {file!r}", path=folder.path,
                    hint=COPY_ALL_AGAIN,
                )  # fmt: skip
            places[name] = file
    message = f"the {len(held)} shards have no index: all that is in them is read, and nothing says whether that is all"
    return Index("", places, {}), Finding("no-index", "warning", "", message)
