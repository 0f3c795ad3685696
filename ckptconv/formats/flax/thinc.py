"""Finds files inside Thinc models, which spaCy's pipelines store as ``COMPONENT/model``.

    {"nodes": […], "attrs": […], "params": […], "shims": [[SHIM, …], …]}      msgpack
    SHIM                            bytes, for a layer of another library: {"config": {…}, "state": bytes, …}

The state of a PyTorch layer is a file written by torch.save, which ``torch.load`` reads when the pipeline is loaded;
that of a Keras layer is HDF5. The files are found here so that `inspect` can tell what they would run; nothing else of
the model is read.

Source: thinc/model.py (`from_dict`), thinc/shims/pytorch.py, tensorflow.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import CkptconvError
from ckptconv.formats.flax.cursor import Cursor
from ckptconv.formats.flax.msgpack import Unpacker, Value
from ckptconv.io.part import Part

if TYPE_CHECKING:
    from ckptconv.io.source import Source

FILE, _SHIMS = "model", "shims"
_KEYS = ("nodes", "attrs", "params", _SHIMS)
_LONGEST_KEY = 16
_STEP = 1 << 20


class _Walker(Unpacker):
    """Skips all values, and notes where byte strings lie: those under ``shims``, or all of them."""

    def __init__(self, source: Source, *, only_shims: bool) -> None:
        super().__init__(source)
        self.source, self.only_shims = source, only_shims
        self.found: list[Part] = []

    def raw(self, length: int) -> Value:
        start = self.cursor.skip(length)
        if not self.only_shims or self.path[:1] in ([_SHIMS], [_SHIMS.encode()]):
            self.found.append(Part(self.source, start, length))
        return None

    def extension(self, code: int, length: int) -> Value:
        self.cursor.skip(length)
        return None


def is_one(source: Source) -> bool:
    """Whether the file is a msgpack map that begins with one of Thinc's keys, or has the name that spaCy gives them."""
    if not source.size or not _is_map(bytes(source.read_at(0, 1))[0]):
        return False
    try:
        cursor = Cursor(source)
        cursor.head()
        kind, length = cursor.head()
        key = cursor.text(length) if kind in ("str", "bytes") and length <= _LONGEST_KEY else b""
    except CkptconvError:
        return False
    return source.path.name == FILE or key in [known.encode() for known in _KEYS]


def _is_map(code: int) -> bool:
    return 0x80 < code < 0x90 or code in (0xDE, 0xDF)


def files_in(source: Source) -> list[Part]:
    """The files in a model that other libraries read. Raises CorruptFileError, LimitError, UnsupportedError."""
    walker = _Walker(source, only_shims=True)
    walker.unpack()
    found: list[Part] = []
    for shim in walker.found:
        inner = _Walker(shim, only_shims=False)
        try:
            inner.unpack()
        except CkptconvError:  # not msgpack: the shim is such a file itself
            found.append(shim)
        found += inner.found
    return found


def mentions_shims(source: Source) -> bool:
    """Whether the word ``shims`` is anywhere in the file. Reads all of it."""
    word = _SHIMS.encode()
    return any(
        word in bytes(source.read_at(at, min(_STEP + len(word), source.size - at)))
        for at in range(0, source.size, _STEP)
    )
