"""Shards of safetensors files without an index, as ExLlamaV2 writes them (``output-00001-of-00002.safetensors``).

Their headers say what is in them, and their names how many there are: a set of which no file is missing is whole. vLLM
and ExLlama load it so, transformers asks for an index. Of shards that are pickles nothing but the index says what they
hold before all of them are read, so that these are refused without.
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
    """The index that the shards would have, by the tensors that each holds, and a word on that there is none.

    Raises CorruptFileError where a tensor is in two of them.
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
