"""Files that lie in a model of Thinc's, which spaCy's pipelines keep as ``COMPONENT/model``.

    {"nodes": […], "attrs": […], "params": […], "shims": [[SHIM, …], …]}      msgpack
    SHIM                            bytes: what a layer of another library's is, {"config": {…}, "state": bytes, …}

The state of a layer of PyTorch's is a file of torch.save's, which ``torch.load`` reads as the pipeline is loaded; that
of Keras' is HDF5. Here they are found, for whoever looks at what they would run; nothing else of the model is read.

Source: thinc/model.py (`from_dict`), thinc/shims/pytorch.py, tensorflow.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.errors import CkptconvError
from ckptconv.formats.flax.msgpack import Cursor, Unpacker, Value
from ckptconv.io.part import Part

if TYPE_CHECKING:
    from ckptconv.io.source import Source

FILE, _SHIMS = "model", "shims"
_KEYS = ("nodes", "attrs", "params", _SHIMS)
_LONGEST_KEY = 16
_STEP = 1 << 20


class _Walker(Unpacker):
    """Notes where bytes are that are values under `shims`, or all of them, and passes over them."""

    def __init__(self, source: Source, *, all_of_it: bool) -> None:
        super().__init__(source)
        self.source, self.all_of_it = source, all_of_it
        self.found: list[Part] = []

    def raw(self, length: int) -> Value:
        start = self.cursor.skip(length)
        if self.all_of_it or self.path[:1] in ([_SHIMS], [_SHIMS.encode()]):
            self.found.append(Part(self.source, start, length))
        return None

    def extension(self, code: int, length: int) -> Value:
        self.cursor.skip(length)
        return None


def is_one(source: Source) -> bool:
    """Whether it is a map of msgpack's that begins with a key of Thinc's, or is called as spaCy calls them."""
    if not source.size or not _is_map(bytes(source.read_at(0, 1))[0]):
        return False
    try:
        cursor = Cursor(source)
        cursor.head()
        kind, length = cursor.head()
        key = cursor.text(length) if kind in ("str", "bytes") and length <= _LONGEST_KEY else b""
    except CkptconvError:
        return False
    return source.path.name == FILE or key in [one.encode() for one in _KEYS]


def _is_map(code: int) -> bool:
    return 0x80 < code < 0x90 or code in (0xDE, 0xDF)


def files_in(source: Source) -> list[Part]:
    """What other libraries read of it. Raises CorruptFileError, LimitError, UnsupportedError."""
    walker = _Walker(source, all_of_it=False)
    walker.unpack()
    found: list[Part] = []
    for shim in walker.found:
        inside = _Walker(shim, all_of_it=True)
        try:
            inside.unpack()
        except CkptconvError:  # it is such a file itself
            found.append(shim)
        found += inside.found
    return found


def speaks_of_shims(source: Source) -> bool:
    """Whether the word stands in it. Reads all of it."""
    word = _SHIMS.encode()
    return any(
        word in bytes(source.read_at(at, min(_STEP + len(word), source.size - at)))
        for at in range(0, source.size, _STEP)
    )
