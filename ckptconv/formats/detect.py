"""Which format a file or a folder is of, by its bytes and files; and what is said of one that no format knows.

Every format is asked whether it claims it, in the registry's order; names and suffixes decide nothing.
"""

from __future__ import annotations

import codecs
import os
import re
import shlex
from functools import reduce
from typing import TYPE_CHECKING

from ckptconv.core.text import cut, quoted
from ckptconv.errors import COPY_AGAIN, CkptconvError, PluginError, UnknownFormatError, UsageError
from ckptconv.formats import registry
from ckptconv.formats.lookalikes import AGENTS, FOLDERS, LOOKALIKES, NETWORKS, STARTS, SUFFIXES
from ckptconv.formats.outside import part_of
from ckptconv.io.folder import Folder
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ckptconv.formats.base import Format

PICKLES = ("joblib", "pickle", "torch-legacy")
"""Formats of files that are pickles from their first byte on."""

_OPENERS = frozenset(bytes([code]) for code in b"(cFGIJKLMNSTUVXBC)]}\x80\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x95\x96")
"""Opcodes that need nothing before them."""

_PROTO, _NEWEST = b"\x80", b"\x05"

MOST_NAMES = 4
"""Files of a folder that an error lists."""

SNAPSHOTS = "snapshots"
"""The folder with a model's files in the cache of Hugging Face's hub, beside `blobs` and `refs`."""

MOST_FOLDERS = 64
"""Folders in a folder that are looked into for what an error lists."""

_BESIDE_MODELS = re.compile(r"optim|sched|scaler|rng|random|args|config|meta|manifest|tokenizer|vocab|history")
_NUMBER = re.compile(r"\d{1,18}")

MOST_TEXT = 80
"""Characters of a text that an error shows."""


def detect(source: Source | Folder) -> Format:
    """The format that the file's bytes, or a folder's files, are of, whatever its name. Raises UnknownFormatError."""
    listing = source.path.parent / ".metadata"
    if source.path.suffix == ".distcp" and listing.is_file():  # which holds archives, one after the other
        hint = f"name the folder: {source.path.parent}"
        raise UnknownFormatError("this is one of the files of a torch.distributed.checkpoint's folder", hint=hint)
    one = claimed(source)
    if one is None:
        raise _unknown(source)
    refuse_pickles(one, source)
    return one


def refuse_pickles(one: Format, source: Source | Folder) -> None:
    """Raise CorruptFileError where a file of this format is pickles as well that would make calls."""
    if not isinstance(source, Source) or one.name in PICKLES:
        return
    start = bytes(source.read_at(0, min(2, source.size)))
    if start[:1] not in _OPENERS or (start[:1] == _PROTO and start[1:] > _NEWEST):
        return
    from ckptconv.formats.torch.containers.legacy import LegacyConstructors
    from ckptconv.formats.torch.containers.second import refuse_pickle

    refuse_pickle(source, LegacyConstructors)


def claimed(source: Source | Folder) -> Format | None:
    """The format that claims it; None where none does. Raises PluginError where none does and a plug-in failed."""
    failed: PluginError | None = None
    for one in registry.in_turn():
        try:
            if one.claims_file(source):
                return one
        except PluginError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return None


def _unknown_folder(folder: Folder) -> UnknownFormatError:
    """What is wrong with a folder that is not a checkpoint itself, with the files in it that look like some."""
    for file, what, hint in FOLDERS:
        if file in folder.names:
            parts = _parts(folder)
            return _of_parts(folder, what, parts) if parts else UnknownFormatError(f"this folder is {what}", hint=hint)
    for file, what in AGENTS.items():
        if file in folder.names and (networks := _networks(folder)):
            return _of_parts(folder, what, networks)
    suffixes = tuple(suffix for one in registry.all_formats() for suffix in one.suffixes)
    files = [name for name in folder.names if name.lower().endswith(suffixes)]
    if not folder.names and not folder.folders:
        return UnknownFormatError("this is a folder without a file in it", hint="check the path")
    if SNAPSHOTS in folder.folders and (parts := _parts(cached := folder.inside(SNAPSHOTS))):
        return _of_parts(cached, "the hub's cache of a model", parts)
    if parts := _parts(folder):
        return _of_parts(folder, "not a checkpoint itself", parts, files)
    some = files or [*folder.names, *(f"{name}/" for name in folder.folders)]
    message = f"this is a folder, and no checkpoint of several files; in it: {quoted(some, MOST_NAMES)}"
    if not files:
        return UnknownFormatError(message, hint=_look_at(folder.path))
    name = "name it:" if len(files) == 1 else "name one of them, such as"
    return UnknownFormatError(message, hint=f"{name} {folder.path / _likeliest(folder, files)}")


def _likeliest(folder: Folder, files: Sequence[str]) -> str:
    """The file of a folder that is the model's: none of those that trainers call by what else they keep, the largest;
    of several such the first that is called as the best, or the last by its number.
    """

    def rank(name: str) -> tuple[bool, bool, int, list[int]]:
        try:
            size = os.stat(folder.path / name).st_size
        except OSError:  # in an archive, or gone
            size = 0
        stem = name.lower()
        # A step more or less changes a file by some bytes.
        return not _BESIDE_MODELS.search(stem), "best" in stem, size.bit_length(), [*map(int, _NUMBER.findall(stem))]

    return max(files, key=rank)


def _look_at(path: Path) -> str:
    return f"{shlex.join(['ckptconv', 'inspect', str(path)])} says what of it would run"


def _parts(folder: Folder) -> list[str]:
    """The folders in it that hold checkpoints."""
    found = []
    for name in folder.folders[:MOST_FOLDERS]:
        try:
            if claimed(folder.inside(name)) is not None:
                found.append(name)
        except UsageError:  # it holds several
            found.append(name)
        except CkptconvError:  # damaged, or nothing that may be read
            continue
    return found


def _networks(folder: Folder) -> list[str]:
    """The files of networks in a folder of RLlib's, by their paths in it."""
    for home, file in NETWORKS:
        try:
            inner = reduce(lambda outer, name: outer.inside(name), filter(None, home.split("/")), folder)
            found = [f"{name}/{file}" for name in inner.folders[:MOST_FOLDERS] if file in inner.inside(name).names]
        except CkptconvError:  # it is not there
            continue
        if found or file in inner.names:
            return [f"{home}/{one}".lstrip("/") for one in found or [file]]
    return []


def _of_parts(folder: Folder, what: str, parts: Sequence[str], files: Sequence[str] = ()) -> UnknownFormatError:
    """Its folders with checkpoints come before its files, which are mostly what a trainer keeps beside them."""
    parts = sorted(parts, key=lambda name: name.startswith("optim"))  # accelerate's optimizer_0 is named last
    paths = [str(folder.path / name) for name in parts]
    hint = f"name {paths[0]}"
    if len(paths) > 1:
        line = shlex.join(["ckptconv", "inspect", *paths])
        hint = f"name one of them, such as {paths[0]}; {line} shows each"
    beside = f", and the files {quoted(files, MOST_NAMES)}" if files else ""
    return UnknownFormatError(f"this folder is {what}; in it: {', '.join(map(repr, parts))}{beside}", hint=hint)


def _text_of(start: bytes) -> str | None:
    """How a text begins, such as the answer that a server gave instead of the file; None of anything else."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(start).strip()  # its last character may be cut
    line = " ".join(text.split())
    if not line.isprintable() or not line or "\ufffd" in line:
        return None
    return cut(line, MOST_TEXT)


def _unknown(source: Source | Folder) -> UnknownFormatError:
    return _unknown_folder(source) if isinstance(source, Folder) else _unknown_file(source)


def _unknown_file(source: Source) -> UnknownFormatError:
    if source.size == 0:
        return UnknownFormatError("the file is empty", hint=COPY_AGAIN)
    near = min(512, source.size)
    start, end = bytes(source.read_at(0, near)), bytes(source.read_at(source.size - near, near))
    for offset, magic, what, hint in LOOKALIKES:
        if (start if offset >= 0 else end)[offset:].startswith(magic):
            return UnknownFormatError(f"this is {what}", hint=hint)
    for pattern, what, hint in STARTS:
        if pattern.match(start):
            return UnknownFormatError(f"this is {what}", hint=hint)
    if outside := part_of(source.path):
        return outside
    if (text := _text_of(start)) is not None:
        return UnknownFormatError(
            f"this is text, not weights: {text!r}",
            hint="if it came in place of a download, it says why; else name the file of the weights",
        )
    if said := SUFFIXES.get(source.path.suffix.lower()):
        message = f"no known format starts like this file; by its name it is {said[0]}"
        return UnknownFormatError(message, hint=said[1])
    hint = "check that the download is complete; 'ckptconv formats' lists what is read"
    if broken := registry.plugins()[1]:
        hint += f"; {broken[0].message}"
    return UnknownFormatError("no known format starts like this file", hint=hint)
