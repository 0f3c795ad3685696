"""Inspects whole files stored as bytes in a checkpoint's metadata, which loading the checkpoint may load too.

d3rlpy keeps a torch.save archive in a pickle, RLlib the pickled state of its workers, e3nn TorchScript, and wrappers of
Keras models an HDF5 file. Bytes that start like such a file are opened as if the file were inspected by itself; if
they turn out not to be one, they are data.

Sources: d3rlpy/algos/qlearning/base.py (`save`); ray/rllib/algorithms/algorithm.py (`__getstate__`);
e3nn/util/codegen/_mixin.py (`__getstate__`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.api.inspecting.uses import PICKLE, UNFOLLOWED, OpaqueUse, OtherFiles, join_where, uses_of
from ckptconv.core.metadata import MetaNode, Opaque, spell_path, walk
from ckptconv.core.text import plural
from ckptconv.errors import CkptconvError, UnknownFormatError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.io.held import HeldSource

STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04", b"\x89HDF")
"""Pickles of protocols 2 to 5; zip archives (torch.save, TorchScript, Keras); HDF5."""

MAX_EMBEDDED = 10_000
"""Embedded files that are opened; honest checkpoints have one or two."""

MAX_NESTING = 8
"""How deep files may lie in other files."""

LOADER = "a library that unpickles the bytes in it"
"""Named as the caller where the library that loads the bytes is unknown."""


def inspect_embedded_files(checkpoint: Checkpoint, path: Path) -> OtherFiles:
    """What the files embedded in the metadata would run, by where they stand, and what their pickles name.

    path: of the checkpoint, for error messages.
    """
    inspector = _Inspector(path)
    inspector.inspect_tree(checkpoint.root, "", 1)
    return inspector.found


class _Inspector:
    """Collects what is found, and counts the files seen, their bytes, and the bytes that their archives inflate to."""

    def __init__(self, path: Path) -> None:
        self.path, self.found = path, OtherFiles()
        self.files_seen = self.bytes_seen = self.bytes_inflated = 0

    def inspect_tree(self, root: MetaNode, above: str, depth: int) -> None:
        for where, data in _embedded_files(root, above):
            self.files_seen += 1
            if self.files_seen > MAX_EMBEDDED:
                self._report_unfollowed(where, f"it holds more than {plural(MAX_EMBEDDED, 'file')} as bytes")
                return
            if depth > MAX_NESTING:
                self._report_unfollowed(where, f"it holds files in files, {MAX_NESTING} deep")
                return
            self._inspect_bytes(where, data, depth)

    def _inspect_bytes(self, where: str, data: bytes | bytearray, depth: int) -> None:
        from ckptconv.formats.beside.files import is_cut_zip
        from ckptconv.formats.detect import detect
        from ckptconv.formats.torch.pickle.broken import names_something
        from ckptconv.io.held import HeldSource

        source = HeldSource(self.path, bytes(data))
        try:
            self._check_inflated(source)
            with detect(source).read(source) as inner:
                self.found.uses += [_use_inside(where, use) for use in uses_of(inner)]
                self.found.globals += inner.notes.globals
                self.inspect_tree(inner.root, where, depth + 1)
        except (UnknownFormatError, UsageError):
            return  # a document or a picture, which runs nothing
        except CkptconvError as error:
            is_pickle = data.startswith(b"\x80")
            may_run = names_something(source) if is_pickle else not is_cut_zip(source)
            if may_run:
                self._report_unfollowed(where, error.message)

    def _check_inflated(self, source: HeldSource) -> None:
        """Raise LimitError if small archives inflate to too much, and what opening an archive raises."""
        from ckptconv.io.spool import check_parsed
        from ckptconv.io.zip import LOCAL_MAGIC, ZipArchive

        self.bytes_seen += source.size
        if bytes(source.read_at(0, len(LOCAL_MAGIC))) == LOCAL_MAGIC:
            entries = ZipArchive.of(source).entries.values()
            self.bytes_inflated += sum(entry.size for entry in entries if entry.method)
            check_parsed(self.bytes_inflated, self.bytes_seen)

    def _report_unfollowed(self, where: str, why: str) -> None:
        node = Opaque("pickle.loads", "called", (UNFOLLOWED + why,))
        self.found.uses.append(OpaqueUse(where, node, by=LOADER))


def _embedded_files(root: MetaNode, above: str) -> Iterator[tuple[str, bytes | bytearray]]:
    for path, node in walk(root):
        if isinstance(node, (bytes, bytearray)) and node.startswith(STARTS):
            yield join_where(above, spell_path(path)), node


def _use_inside(above: str, use: OpaqueUse) -> OpaqueUse:
    """The use as one of the whole checkpoint, whose loader decides what unpickles the bytes."""
    return replace(use, where=join_where(above, use.where), by=LOADER if use.by == PICKLE else use.by)
