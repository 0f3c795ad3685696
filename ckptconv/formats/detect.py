"""Which format a file or folder is in, and the error for one that is in none.

Formats are asked in the registry's order whether they claim it, by the bytes of a file or the files of a folder. Names
and suffixes decide nothing.
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
from ckptconv.formats.lookalikes import AGENTS, FOLDERS, LOOKALIKES, NETWORKS, STARTS, SUFFIXES, Lookalike
from ckptconv.formats.part_files import part_file_error
from ckptconv.io.folder import Folder
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.formats.base import Format

PICKLES = ("joblib", "pickle", "torch-legacy")
"""Formats whose files begin with a pickle."""

_FIRST_OPCODES = frozenset(
    bytes([code]) for code in b"(cFGIJKLMNSTUVXBC)]}\x80\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x95\x96"
)
"""Opcodes that a pickle can begin with: they need nothing on the stack."""

_PROTO, _NEWEST_PROTOCOL = b"\x80", b"\x05"

MAX_NAMES = 4
"""File names of a folder that an error lists."""

_DCP, _DCP_LISTING = ".distcp", ".metadata"
"""The files of torch.distributed.checkpoint's folders, and the one that says where in them the tensors are."""

_COPY_WITH_LISTING = (
    "copy the folder as a whole, since * leaves hidden files out; if it never had one, saving was cut short, and "
    "an earlier checkpoint is the last whole one"
)

SNAPSHOTS = "snapshots"
"""The folder with a model's files in the Hugging Face hub's cache, beside `blobs` and `refs`."""

MAX_FOLDERS = 64
"""Subfolders that are searched for checkpoints to list in an error."""

_AUXILIARY = re.compile(r"optim|sched|scaler|rng|random|args|config|meta|manifest|tokenizer|vocab|history")
"""In the names of files that trainers save beside the model's."""

_NUMBER = re.compile(r"\d{1,18}")

MAX_TEXT = 80
"""Characters of a text file that an error quotes."""


def detect(source: Source | Folder) -> Format:
    """The format of a file by its bytes, or of a folder by its files. Raises UnknownFormatError."""
    listing = source.path.parent / _DCP_LISTING
    if source.path.suffix == _DCP and listing.is_file():  # a .distcp holds torch archives, one after the other
        hint = f"name the folder: {source.path.parent}"
        raise UnknownFormatError("this is one of the files of a torch.distributed.checkpoint's folder", hint=hint)
    kind = find_format(source)
    if kind is None:
        raise _unknown_folder(source) if isinstance(source, Folder) else _unknown_file(source)
    refuse_disguised_pickle(kind, source)
    return kind


def refuse_disguised_pickle(kind: Format, source: Source | Folder) -> None:
    """Raise CorruptFileError if a file in another format is at the same time a pickle that would make calls."""
    if not isinstance(source, Source) or kind.name in PICKLES:
        return
    start = bytes(source.read_at(0, min(2, source.size)))
    if start[:1] not in _FIRST_OPCODES or (start[:1] == _PROTO and start[1:] > _NEWEST_PROTOCOL):
        return
    from ckptconv.formats.torch.containers.legacy import LegacyConstructors
    from ckptconv.formats.torch.containers.polyglot import refuse_pickle

    refuse_pickle(source, LegacyConstructors)


def find_format(source: Source | Folder) -> Format | None:
    """The first format that claims `source`, or None. Raises PluginError if none does and a plug-in failed."""
    failed: PluginError | None = None
    for kind in registry.iter_formats():
        try:
            if kind.claims_file(source):
                return kind
        except PluginError as error:
            failed = failed or error
    if failed is not None:
        raise failed
    return None


def _unknown_folder(folder: Folder) -> UnknownFormatError:
    """The error for a folder that is not a checkpoint; it lists the files and subfolders that look like some."""
    if any(name.endswith(_DCP) for name in folder.names) and _DCP_LISTING not in folder.names:
        return UnknownFormatError(
            f"this folder is one of torch.distributed.checkpoint's without its hidden file {_DCP_LISTING}",
            hint=_COPY_WITH_LISTING,
        )
    for file, what, hint in FOLDERS:
        if file in folder.names:
            if inner := _checkpoint_folders(folder):
                return _name_a_part(folder, what, inner)
            return UnknownFormatError(f"this folder is {what}", hint=hint)
    for file, what in AGENTS.items():
        if file in folder.names and (networks := _rllib_networks(folder)):
            return _name_a_part(folder, what, networks)
    if not folder.names and not folder.folders:
        return UnknownFormatError("this is a folder without a file in it", hint="check the path")
    if SNAPSHOTS in folder.folders:
        snapshots = folder.inside(SNAPSHOTS)
        if inner := _checkpoint_folders(snapshots):
            return _name_a_part(snapshots, "the hub's cache of a model", inner)
    suffixes = tuple(suffix for kind in registry.all_formats() for suffix in kind.suffixes)
    files = [name for name in folder.names if name.lower().endswith(suffixes)]
    if inner := _checkpoint_folders(folder):
        return _name_a_part(folder, "not a checkpoint itself", inner, files)
    listed = files or [*folder.names, *(f"{name}/" for name in folder.folders)]
    message = f"this folder is not a checkpoint itself; in it: {quoted(listed, MAX_NAMES)}"
    if not files:
        line = shlex.join(["ckptconv", "inspect", str(folder.path)])
        return UnknownFormatError(message, hint=f"{line} says what of it would run")
    name = "name it:" if len(files) == 1 else "name one of them, such as"
    return UnknownFormatError(message, hint=f"{name} {folder.path / _likeliest_model(folder, files)}")


def _likeliest_model(folder: Folder, files: Sequence[str]) -> str:
    """The file that most likely is the model: not one that trainers keep beside it, then one named "best", then the
    largest, then the one with the highest numbers in its name.
    """

    def rank(name: str) -> tuple[bool, bool, int, list[int]]:
        try:
            size = os.stat(folder.path / name).st_size
        except OSError:  # in an archive, or gone
            size = 0
        stem = name.lower()
        numbers = [*map(int, _NUMBER.findall(stem))]
        # Sizes count by their bit length: checkpoints of different steps differ by a few bytes.
        return not _AUXILIARY.search(stem), "best" in stem, size.bit_length(), numbers

    return max(files, key=rank)


def _checkpoint_folders(folder: Folder) -> list[str]:
    """The subfolders that hold checkpoints."""
    found = []
    for name in folder.folders[:MAX_FOLDERS]:
        try:
            if find_format(folder.inside(name)) is not None:
                found.append(name)
        except UsageError:  # it holds several
            found.append(name)
        except CkptconvError:  # damaged, or not allowed to be read
            continue
    return found


def _rllib_networks(folder: Folder) -> list[str]:
    """The files of networks in one of RLlib's folders, by their paths in it."""
    for home, file in NETWORKS:
        try:
            inner = reduce(lambda outer, name: outer.inside(name), filter(None, home.split("/")), folder)
            found = [f"{name}/{file}" for name in inner.folders[:MAX_FOLDERS] if file in inner.inside(name).names]
        except CkptconvError:  # there is no such folder
            continue
        if found or file in inner.names:
            return [f"{home}/{path}".lstrip("/") for path in found or [file]]
    return []


def _name_a_part(folder: Folder, what: str, inner: Sequence[str], files: Sequence[str] = ()) -> UnknownFormatError:
    """The error that lists the checkpoints inside a folder. Those in subfolders come before files: in a trainer's
    folder files are mostly not the model.
    """
    inner = sorted(inner, key=lambda name: name.startswith("optim"))  # accelerate's optimizer_0 comes last
    paths = [str(folder.path / name) for name in inner]
    hint = f"name {paths[0]}"
    if len(paths) > 1:
        line = shlex.join(["ckptconv", "inspect", *paths])
        hint = f"name one of them, such as {paths[0]}; {line} shows each"
    beside = f", and the files {quoted(files, MAX_NAMES)}" if files else ""
    return UnknownFormatError(f"this folder is {what}; in it: {', '.join(map(repr, inner))}{beside}", hint=hint)


def _unknown_file(source: Source) -> UnknownFormatError:
    """The error for a file that no format claims, with the best guess at what it is."""
    if source.size == 0:
        return UnknownFormatError("the file is empty", hint=COPY_AGAIN)
    window = min(512, source.size)
    start = bytes(source.read_at(0, window))
    end = bytes(source.read_at(source.size - window, window))
    if known := _lookalike(start, end):
        return UnknownFormatError(f"this is {known.what}", hint=known.hint)
    if error := part_file_error(source.path):
        return error
    if (text := _text_start(start)) is not None:
        return UnknownFormatError(
            f"this is text, not weights: {text!r}",
            hint="if it came in place of a download, it says why; else name the file of the weights",
        )
    if known := SUFFIXES.get(source.path.suffix.lower()):
        message = f"no known format starts like this file; by its name it is {known.what}"
        return UnknownFormatError(message, hint=known.hint)
    hint = "check that the download is complete; 'ckptconv formats' lists what is read"
    if broken := registry.plugins()[1]:
        hint += f"; {broken[0].message}"
    return UnknownFormatError("no known format starts like this file", hint=hint)


def _lookalike(start: bytes, end: bytes) -> Lookalike | None:
    for offset, magic, what, hint in LOOKALIKES:
        if (start if offset >= 0 else end)[offset:].startswith(magic):
            return Lookalike(what, hint)
    for pattern, what, hint in STARTS:
        if pattern.match(start):
            return Lookalike(what, hint)
    return None


def _text_start(start: bytes) -> str | None:
    """The first line or so of a text, such as a server's error page; None if the file is not text."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(start).strip()  # its last character may be cut
    line = " ".join(text.split())
    if not line.isprintable() or not line or "\ufffd" in line:
        return None
    return cut(line, MAX_TEXT)
