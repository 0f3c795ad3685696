"""Which file of a folder stands for its checkpoint: the index of a sharded set, or one file of weights.

A set is given as its index, or as a folder with one index; a folder with a single file of weights is taken for that
file. Where the hub's libraries would load one of several without being told, it is that one. The index may also be of
one file that has no number, as mlx-lm writes it. Bytes say whether files are pickles or safetensors, names where there
are none.

Refused: a folder with several sets in it, shards without an index, slices of several processes that nothing describes.

Source: transformers/modeling_utils.py (`_get_resolved_checkpoint_files`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from ckptconv.core.report import Finding
from ckptconv.core.text import plural, quoted
from ckptconv.errors import CkptconvError, CorruptFileError, UnsupportedError, UsageError
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


def claims(source: Source | Folder, *, binaries: bool) -> bool:
    """Whether this is an index, or a folder with one, of pickled shards or else of safetensors ones.

    Raises UsageError on a folder with several sets in it, CorruptFileError on shards without an index.
    """
    if isinstance(source, Source):
        if not _is_index(source):
            return False
        folder = source.beside or Folder(source.path.parent)
        return _is_pickled(folder, source.path.name, source) is binaries
    found = _usual(_candidates(source))
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
    """Whether it is a JSON object that speaks of a weight_map; what is wrong with it is said when it is read."""
    if source.size > MAX_INDEX_BYTES:
        return source.path.name.endswith(INDEX_SUFFIX)
    text = bytes(source.read_at(0, source.size))
    return text.lstrip()[:1] == b"{" and b'"weight_map"' in text


def _candidates(folder: Folder) -> list[str]:
    """The files in it that stand for a whole checkpoint."""
    found = []
    for name in filter(INDEX.fullmatch, folder.names):
        with folder.open_unshared(name) as source:
            if _is_index(source):
                found.append(name)
    whole = [name for name in folder.names if not is_shard(name)]
    alone = [*filter(ALONE.fullmatch, whole)]
    named = {file for name in found for file in _files_of(folder, name)} if alone else ()
    found += [name for name in alone if name not in named]
    return found or [name for name in whole if name == ADAPTERS] or [n for n in whole if n.endswith(".safetensors")]


def _files_of(folder: Folder, name: str) -> list[str]:
    """The files that an index names: mlx-lm writes one for a single file too."""
    with folder.open_unshared(name) as source:
        try:
            return read_index(source).files
        except CkptconvError:  # told by the reader
            return []


def _usual(found: list[str]) -> list[str]:
    """The one that the hub's libraries load where they are not told: safetensors, and no pickle of the same weights."""
    for name in found:
        stem, _, rest = name.partition(".")
        pickled = f"{PICKLED_COPIES.get(stem)}."
        copies = [other for other in found if other.startswith(pickled) and ".safetensors" not in other]
        if rest in ("safetensors", "safetensors.index.json") and len(copies) == len(found) - 1:
            return [name]
    return found


def holds_one(folder: Folder) -> bool:
    """Whether a file in it stands for a whole checkpoint: an index, or one called as whole files are."""
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
    """Whether a file of weights, or the first shard of an index, is torch's: by its bytes, else by its name."""
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
    if start[4:] == b"\0\0\0\0{":  # behind the length of a safetensors header, one in 32 of which begins like a pickle
        return False
    return start.startswith((b"PK", b"\x80")) or (not start and name.endswith(BINARIES))


def find(source: Source | Folder, *, binaries: bool) -> tuple[Folder, Index | None, Source]:
    """The folder of a set, its index, and that index's file; or a file of weights that is alone in its folder.

    Raises UsageError where the folder holds several of this kind, or none.
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


def chosen(folder: Folder, file: Source) -> list[Finding]:
    """Which file of a folder is read, where others could be, or its name is none by which every library takes it for
    the model.
    """
    name = file.path.name
    if others := [other for other in _candidates(folder) if other != name]:
        message = f"{name!r} is read, as the hub's libraries do, and no other copy: {quoted(others)}"
        return [Finding("file", "info", name, message)]
    if ALONE.fullmatch(name) or name == ADAPTERS or INDEX.fullmatch(name):
        return []
    return [Finding("file", "info", name, f"{name!r} is read, the one safetensors file of this folder")]
