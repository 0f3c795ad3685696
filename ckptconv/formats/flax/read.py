"""Reader of what ``flax.serialization.to_bytes`` and ``msgpack_serialize`` write.

The file is one object of msgpack (`msgpack`), with Flax's own extensions for arrays (`arrays`), nearly always a map of
maps of arrays: Flax turns lists into maps of the keys "0", "1", …. The headers alone are read; the elements stay where
they lie. `ckptconv.formats.trees.nested` says which tensors are the model's.

msgpack has no magic number, and other programs write it too. A file is taken for Flax's where it has an array of Flax's
in it; one without any, as msgpack-numpy writes them, is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.notes import Notes
from ckptconv.core.report import unreadable
from ckptconv.errors import CkptconvError, UnsupportedError
from ckptconv.formats.flax.arrays import FlaxUnpacker
from ckptconv.formats.flax.tree import plant

if TYPE_CHECKING:
    from ckptconv.formats.flax.msgpack import Value
    from ckptconv.io.source import Source

_PARSED = "flax"


def claims(source: Source) -> bool:
    """Whether there is an array of Flax's in it, or it is cut short before there could be one. Walks over its headers,
    which are kept for `read`.
    """
    unpacker = FlaxUnpacker(source)
    try:
        source.parsed[_PARSED] = unpacker, unpacker.unpack()
    except CkptconvError:
        return unpacker.found or (unpacker.begun and unpacker.cursor.ended)
    return unpacker.found


def read(source: Source) -> Checkpoint:
    """Open the file: all of it but the arrays' elements.

    Raises CorruptFileError, LimitError, and UnsupportedError for what is no Flax, and for arrays that are elsewhere.
    """
    unpacker, value = cast("tuple[FlaxUnpacker, Value]", source.parsed.pop(_PARSED, None) or _unpacked(source))
    if not unpacker.found:
        raise UnsupportedError(
            "there is no array of flax's in it", hint="flax.serialization.to_bytes(params) writes a file of arrays"
        )
    tree = plant(value)
    return Checkpoint(
        tree.model,
        extras=tree.extras,
        root=tree.root,
        format="flax",
        notes=Notes(source="flax"),
        findings=tuple(unreadable(name, kind) for name, kind in unpacker.unread.items()),
        file=source,
    )


def _unpacked(source: Source) -> tuple[FlaxUnpacker, Value]:
    unpacker = FlaxUnpacker(source)
    return unpacker, unpacker.unpack()
