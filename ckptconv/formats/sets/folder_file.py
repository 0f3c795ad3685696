"""Choose the file that stands for a folder's checkpoint: the index of a sharded set, or a single file of weights.

A set is named by its index, or by a folder with one index; a folder with one file of weights stands for that file. If
there are several, the one that the hub's libraries load by default is chosen. An index may also list a single file
without a number, as mlx-lm writes it. Whether files are pickles or safetensors is decided by their bytes, or, if they
are empty or missing, by their names.

Refused: a folder with several sets, pickled shards without an index, and slices of several processes without a
description.

Source: transformers/modeling_utils.py (`_get_resolved_checkpoint_files`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ckptconv.core.report import Finding
from ckptconv.core.text import plural, quoted
from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError, UsageError
from ckptconv.formats.sets.copies import copies_in
from ckptconv.formats.sets.shard_names import (
    ADAPTERS,
    ALONE,
    BINARIES,
    INDEX,
    INDEX_SUFFIX,
    PICKLED_COPIES,
    RANK,
    SLICES,
    is_shard,
    whole_set,
)
from ckptconv.formats.sets.shards import read_index
from ckptconv.io.folder import Folder
from ckptconv.io.limits import MAX_INDEX_BYTES
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.formats.sets.shards import Index

_GRAPH = ".param"
"""A graph of ncnn's, or of pnnx's: the .bin of the same name belongs to it."""


def claims(source: Source | Folder, *, binaries: bool) -> bool:
    """Whether this is an index, or a folder with one. `binaries`: of pickled shards, otherwise of safetensors.

    Raises UsageError on a folder with several sets in it, CorruptFileError on shards without an index.
    """
    if isinstance(source, Source):
        if not _is_index(source):
            return False
        folder = source.beside or Folder(source.path.parent)
        return _is_pickled(folder, source.path.name, source) is binaries
    found = _preferred(_candidates(source))
    if len(found) > 1:
        _refuse_several(source, found)
    if not found and (shards := [name for name in source.names if is_shard(name) and not SLICES.fullmatch(name)]):
        if whole_set(source.names):
            return not binaries
        raise CorruptFileError(
            f"the folder has {plural(len(shards), 'shard')} and no index that says what is in them: "
            f"{quoted(shards, 6)}",
            path=source.path, hint="copy the .index.json file from where they came",
        )  # fmt: skip
    return bool(found) and _is_pickled(source, found[0]) is binaries


def _is_index(source: Source) -> bool:
    """Whether it is a JSON object that mentions a weight_map, other than Keras' (`hdf5.sharded`). Errors in it are left
    to the reader.
    """
    if source.size > MAX_INDEX_BYTES:
        return source.path.name.endswith(INDEX_SUFFIX)
    text = bytes(source.read_at(0, source.size))
    return text.lstrip()[:1] == b"{" and b'"weight_map"' in text and b".weights.h5" not in text


def _candidates(folder: Folder) -> list[str]:
    """The files in the folder that each stand for a whole checkpoint."""
    indexes = []
    for name in filter(INDEX.fullmatch, folder.names):
        with folder.open_unshared(name) as source:
            if _is_index(source):
                indexes.append(name)
    of_ncnn = {f"{name.removesuffix(_GRAPH)}.bin" for name in folder.names if name.endswith(_GRAPH)}
    not_shards = [name for name in folder.names if not is_shard(name) and name not in of_ncnn]
    whole = [*filter(ALONE.fullmatch, not_shards)]
    if whole:
        in_a_set = {file for name in indexes for file in _files_of(folder, name)}
        whole = [name for name in whole if name not in in_a_set]
    if indexes or whole:
        return indexes + whole
    if ADAPTERS in not_shards:
        return [ADAPTERS]
    return [name for name in not_shards if name.endswith(".safetensors")]


def _files_of(folder: Folder, name: str) -> list[str]:
    """The files that an index lists; mlx-lm writes an index for a single file too."""
    with folder.open_unshared(name) as source:
        try:
            return read_index(source).files
        except CkptconvError:  # the reader raises it again
            return []


def _preferred(found: list[str]) -> list[str]:
    """The file that the hub's libraries load by default: safetensors, if the others are pickles of the same weights."""
    for name in found:
        stem, _, rest = name.partition(".")
        pickled = f"{PICKLED_COPIES.get(stem)}."
        copies = [other for other in found if other.startswith(pickled) and ".safetensors" not in other]
        if rest in ("safetensors", "safetensors.index.json") and len(copies) == len(found) - 1:
            return [name]
    return found


def holds_one(folder: Folder) -> bool:
    """Whether a file in the folder stands for a whole checkpoint: an index, or a file with such a name."""
    return bool(_candidates(folder))


def _refuse_several(folder: Folder, found: Sequence[str]) -> NoReturn:
    loose = not any(INDEX.fullmatch(name) or ALONE.fullmatch(name) for name in found)
    what = "safetensors files, and nothing says which is meant" if loose else "checkpoints"
    if all(map(RANK.fullmatch, found)):
        raise UnsupportedError(
            f"the folder holds the slices of {len(found)} processes (TensorRT-LLM, vLLM's sharded_state), and nothing "
            "says how they were cut", path=folder.path,
            hint=f"name the folder of the whole model, or one of them, such as {folder.path / found[0]}",
        )  # fmt: skip
    raise UsageError(
        f"the folder holds {len(found)} {what}: {quoted(found, 6)}", path=folder.path,
        hint=f"name one of them, such as {folder.path / found[0]!s}",
    )  # fmt: skip


def _is_pickled(folder: Folder, name: str, source: Source | None = None) -> bool:
    """Whether a file of weights, or the first shard of an index, is a pickle: by its bytes, else by its name.

    source: the index, if it is open already.
    """
    if INDEX.fullmatch(name) or source is not None:
        try:
            files = read_index(source or folder.open(name)).files
        except CkptconvError:
            files = []
        if not files:
            return any(suffix in name for suffix in BINARIES)
        name = files[0]
    try:
        with folder.open_unshared(name) as first:
            start = bytes(first.read_at(0, min(9, first.size)))
    except CkptconvError:
        start = b""
    if start[4:] == b"\0\0\0\0{":  # a safetensors header: one in 32 has a length that begins like a pickle
        return False
    return start.startswith((b"PK", b"\x80")) or (not start and name.endswith(BINARIES))


def find(source: Source | Folder, *, binaries: bool) -> tuple[Folder, Index | None, Source]:
    """The folder of a set, its index, and the index's file; without an index, the only file of weights in a folder.

    Raises UsageError if the folder holds several of this kind, or none.
    """
    if isinstance(source, Source):
        return Folder.around(source), read_index(source), source
    found = [name for name in _candidates(source) if _is_pickled(source, name) is binaries]
    if len(found) > 1:
        _refuse_several(source, found)
    if not found:
        raise UsageError("the folder has no index of shards", path=source.path, hint="name a file in it")
    file = source.open(found[0])
    return source, read_index(file) if INDEX.fullmatch(found[0]) else None, file


def chosen_file_findings(folder: Folder, file: Source) -> list[Finding]:
    """A finding that says which file is read, if others could be, or if its name is not one that libraries expect."""
    name = file.path.name
    others = [candidate for candidate in _candidates(folder) if candidate != name]
    if others := [*others, *copies_in(folder.names)]:
        message = f"{name!r} is read, as the hub's libraries do, and no other copy: {quoted(others)}"
        return [Finding("file", "info", name, message)]
    if ALONE.fullmatch(name) or name == ADAPTERS or INDEX.fullmatch(name):
        return []
    return [Finding("file", "info", name, f"{name!r} is read, the one safetensors file of this folder")]
