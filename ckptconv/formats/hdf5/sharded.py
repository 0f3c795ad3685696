"""Keras' weights in several files: an index, and HDF5 files that each hold some of the groups.

    NAME.weights.json            {"metadata": {"total_size": BYTES}, "weight_map": {"/GROUP": FILE or [FILE, …], …}}
    NAME_00000.weights.h5 …      GROUP/0, GROUP/1, …: a layer's variables, in any of the files that the index names

All that a file holds is read, as from a single one: what the index does not list is reported.

Refused: what `ckptconv.formats.sets.shards` refuses, an array in two files, and a group that none of its files has.

Source: keras/src/saving/saving_lib.py (`ShardedH5IOStore`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.core.report import Finding
from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError, first_of, located
from ckptconv.formats.hdf5.read import checkpoint_of
from ckptconv.formats.hdf5.structures.superblock import Hdf5File
from ckptconv.formats.hdf5.tree import Tree, walk
from ckptconv.formats.sets.shards import Index, check_total, open_shards
from ckptconv.io.folder import Folder
from ckptconv.io.limits import MAX_FILES, MAX_INDEX_BYTES, MAX_TENSORS

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.io.source import Source

NAME = "keras-sharded"
INDEX_SUFFIX = ".weights.json"

MARKS = (b'"weight_map"', b".weights.h5")
"""What such an index mentions, and no other."""


def claims(source: Source | Folder) -> bool:
    """Whether this is such an index, or a folder with one of them."""
    if isinstance(source, Folder):
        return _index_in(source) is not None
    if source.size > MAX_INDEX_BYTES:
        return source.path.name.endswith(INDEX_SUFFIX)
    text = bytes(source.read_at(0, source.size))
    return text.lstrip()[:1] == b"{" and all(mark in text for mark in MARKS)


def _index_in(folder: Folder) -> str | None:
    """The name of the only index in a folder."""
    names = [name for name in folder.names if name.endswith(INDEX_SUFFIX)]
    return names[0] if len(names) == 1 else None


def read(source: Source | Folder) -> Checkpoint:
    """Open the set. Reads the index, and of each file what `ckptconv.formats.hdf5.read` reads of a single one.

    Raises CorruptFileError if index and files contradict each other, and what that reader raises.
    """
    if isinstance(source, Folder):
        source = source.open(_index_in(source) or "")
    folder = Folder.around(source)
    with located(source.path):
        groups, index = _read_index(source)
    trees = {}
    for file, shard in open_shards(folder, index).items():
        with located(shard.path):
            trees[file] = walk(Hdf5File(shard))
    with located(source.path):
        joined = _joined(trees)
        joined.findings += _cross_check(groups, trees)
        joined.findings += check_total(index, [sum(tensor.info.nbytes for tensor in joined.tensors.values())])
    return checkpoint_of(joined, {}, NAME, folder)


def _read_index(source: Source) -> tuple[dict[str, list[str]], Index]:
    """The files of each group, and an index of the files alone. Raises CorruptFileError, LimitError."""
    try:
        document = strict_json.loads(source.read_all(MAX_INDEX_BYTES))
    except ValueError as error:
        raise _bad(str(error)) from error
    weight_map = document.get("weight_map") if isinstance(document, dict) else None
    metadata = document.get("metadata") if isinstance(document, dict) else None
    if not isinstance(weight_map, dict) or not isinstance(metadata, dict) or len(weight_map) > MAX_TENSORS:
        raise _bad("it has no weight_map and metadata")
    groups: dict[str, list[str]] = {}
    for group, files in weight_map.items():
        listed = files if isinstance(files, list) else [files]
        if not all(isinstance(file, str) for file in listed):
            raise _bad(f"it says that {group!r} is in something that is no file")
        groups[group.strip("/")] = [str(file) for file in listed]
    names = sorted({file for files in groups.values() for file in files})
    if not names or len(names) > MAX_FILES:
        raise _bad(f"it names {len(names):,} files")
    return groups, Index(source.path.name, dict(zip(names, names, strict=True)), metadata)


def _joined(trees: dict[str, Tree]) -> Tree:
    """What all files hold. Raises CorruptFileError if two of them have the same array."""
    joined = Tree()
    for file, tree in trees.items():
        if twice := joined.tensors.keys() & tree.tensors.keys():
            raise CorruptFileError(f"{min(twice)!r} is in two files, one of them {file!r}", hint=COPY_ALL_AGAIN)
        for name, tensor in tree.tensors.items():  # a place in one file says nothing of the same place in another
            joined.tensors[name] = replace(tensor, alias=(file, tensor.alias))
        joined.values |= tree.values
        joined.attributes |= tree.attributes
        joined.findings += tree.findings
    return joined


def _cross_check(groups: dict[str, list[str]], trees: dict[str, Tree]) -> list[Finding]:
    """A finding for each array that the index does not list. Raises CorruptFileError for what it lists in vain."""
    held = {file: {_group_of(name) for name in (*tree.tensors, *tree.values)} for file, tree in trees.items()}
    missing = [
        f"{group!r} should be in {file!r}"
        for group, files in groups.items()
        for file in files
        if group not in held[file] and group not in trees[file].attributes
    ]
    if missing:
        raise CorruptFileError(
            "the index lists arrays that are not where it says", hint=COPY_ALL_AGAIN, details=first_of(missing)
        )
    return [
        Finding("unlisted-tensor", "warning", name, f"{name!r} is in {file!r}, and the index does not list it")
        for file, tree in trees.items()
        for name in tree.tensors
        if file not in groups.get(_group_of(name), ())
    ]


def _group_of(name: str) -> str:
    """The path of the group that an array is in."""
    return name.rpartition("/")[0]


def _bad(what: str) -> CorruptFileError:
    return CorruptFileError(f"the index is invalid: {what}", hint=COPY_ALL_AGAIN)
