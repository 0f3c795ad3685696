"""Bytes among a checkpoint's metadata that are a file of their own, which whoever loads the one may load as well.

d3rlpy keeps torch.save's archive in a pickle, RLlib pickled the state of its workers, e3nn keeps TorchScript, wrappers
of Keras' models an HDF5 file. What starts as such a file is opened as one that is inspected by itself; what is none
after all is data.

Sources: d3rlpy/algos/qlearning/base.py (`save`); ray/rllib/algorithms/algorithm.py (`__getstate__`);
e3nn/util/codegen/_mixin.py (`__getstate__`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.api.inspecting.uses import PICKLE, UNFOLLOWED, Beside, OpaqueUse, joined, uses_of
from ckptconv.core.metadata import MetaNode, Opaque, spell_path, walk
from ckptconv.core.text import plural
from ckptconv.errors import CkptconvError, UnknownFormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.io.held import HeldSource

STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x89HDF")
"""Pickles of these protocols, zip archives (torch.save's, TorchScript, Keras'), HDF5."""

MOST = 10_000
"""Values that are looked into; honest files have one or two."""

DEEPEST = 8
"""Files in files in files."""

LOADER = "a library that unpickles the bytes in it"
"""Who would make a call, where nobody knows which it is."""


def look_within(checkpoint: Checkpoint, path: Path) -> Beside:
    """What the files in its metadata would run, each told by where it stands, and what their pickles name; `path` is
    the whole file's.
    """
    look = _Look(path)
    look.at(checkpoint.root, "", 1)
    return look.found


class _Look:
    """What was found, and how much was looked at: values, their bytes, and what these come to where archives of them
    are compressed.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, Beside()
        self.seen = self.packed = self.inflated = 0

    def at(self, root: MetaNode, above: str, depth: int) -> None:
        for where, data in _files_in(root, above):
            self.seen += 1
            if self.seen > MOST:
                return self._unfollowed(where, f"it holds more than {plural(MOST, 'file')} as bytes")
            if depth > DEEPEST:
                return self._unfollowed(where, f"it holds files in files, {DEEPEST} deep")
            self._open(where, data, depth)
        return None

    def _open(self, where: str, data: bytes | bytearray, depth: int) -> None:
        from ckptconv.formats.beside.files import is_cut_zip
        from ckptconv.formats.detect import detect
        from ckptconv.formats.torch.pickle.broken import names_something
        from ckptconv.io.held import HeldSource

        source = HeldSource(self.path, bytes(data))
        try:
            self._check_inflated(source)
            with detect(source).read(source) as inner:
                self.found.uses += [_within(where, use) for use in uses_of(inner)]
                self.found.globals += inner.notes.globals
                self.at(inner.root, where, depth + 1)
        except (UnknownFormatError, UsageError):
            return  # a document, a picture: nothing that runs
        except CkptconvError as error:
            if names_something(source) if data.startswith(b"\x80") else not is_cut_zip(source):
                self._unfollowed(where, error.message)

    def _check_inflated(self, source: HeldSource) -> None:
        """Raise LimitError where small archives become large ones, and what opening one raises."""
        from ckptconv.io.spool import check_parsed
        from ckptconv.io.zip import LOCAL_MAGIC, ZipArchive

        self.packed += source.size
        if bytes(source.read_at(0, len(LOCAL_MAGIC))) == LOCAL_MAGIC:
            entries = ZipArchive.of(source).entries.values()
            self.inflated += sum(entry.size for entry in entries if entry.method)
            check_parsed(self.inflated, self.packed)

    def _unfollowed(self, where: str, why: str) -> None:
        node = Opaque("pickle.loads", "called", (UNFOLLOWED + why,))
        self.found.uses.append(OpaqueUse(where, node, by=LOADER))


def _files_in(root: MetaNode, above: str) -> Iterator[tuple[str, bytes | bytearray]]:
    for path, node in walk(root):
        if isinstance(node, (bytes, bytearray)) and node.startswith(STARTS):
            yield joined(above, spell_path(path)), node


def _within(above: str, use: OpaqueUse) -> OpaqueUse:
    return replace(use, where=joined(above, use.where), by=LOADER if use.by == PICKLE else use.by)
