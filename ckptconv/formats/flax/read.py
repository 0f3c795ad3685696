"""Reader of what ``flax.serialization.to_bytes`` and ``msgpack_serialize`` write.

The file is one object of msgpack (`msgpack`), with Flax's own extensions for arrays (`arrays`), nearly always a map of
maps of arrays: Flax turns lists into maps of the keys "0", "1", …. The headers alone are read; the elements stay where
they lie. `ckptconv.formats.trees.nested` says which tensors are the model's.

msgpack has no magic number, and other programs write it too. A file is taken for Flax's where it has an array of Flax's
in it, or our record (`write`), which stands under a key of its own; one without any, as msgpack-numpy writes them, is
none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from ckptconv.core import record as records
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.encodings import own_tensors
from ckptconv.core.notes import Notes
from ckptconv.core.record_edits import add_values
from ckptconv.core.recorded import recorded_checkpoint
from ckptconv.core.report import Finding, unreadable
from ckptconv.errors import CkptconvError, UnsupportedError
from ckptconv.formats.flax.arrays import FlaxUnpacker
from ckptconv.formats.flax.nesting import flattened
from ckptconv.formats.flax.stored import stored_as
from ckptconv.formats.flax.tree import plant
from ckptconv.formats.targets.blobs import restore

if TYPE_CHECKING:
    from ckptconv.formats.flax.msgpack import Value
    from ckptconv.io.source import Source

_PARSED = "flax"

_RECORD = '{"version":'
"""How our record starts."""


def claims(source: Source) -> bool:
    """Whether there is an array of Flax's in it, or it is cut short before there could be one. Walks over its headers,
    which are kept for `read`.
    """
    unpacker = FlaxUnpacker(source)
    try:
        value = unpacker.unpack()
    except CkptconvError:
        return unpacker.found or (unpacker.begun and unpacker.cursor.ended)
    source.parsed[_PARSED] = unpacker, value
    return unpacker.found or _record_in(value) is not None


def read(source: Source) -> Checkpoint:
    """Open the file: all of it but the arrays' elements.

    Raises CorruptFileError, LimitError, and UnsupportedError for what is no Flax, and for arrays that are elsewhere.
    """
    unpacker, value = cast("tuple[FlaxUnpacker, Value]", source.parsed.pop(_PARSED, None) or _unpacked(source))
    findings = [unreadable(name, kind) for name, kind in unpacker.unread.items()]
    if (text := _record_in(value)) is not None:
        return _recorded(value, text, findings, source)
    if not unpacker.found:
        raise UnsupportedError(
            "there is no Flax array in it", hint="flax.serialization.to_bytes(params) writes a file of arrays"
        )
    tree = plant(value)
    return Checkpoint(
        tree.model,
        extras=tree.extras,
        root=tree.root,
        format="flax",
        notes=Notes(source="flax"),
        findings=tuple(findings),
        file=source,
    )


def _record_in(value: Value) -> str | None:
    """Our record's text, where there is one."""
    text = value.get(records.KEY) if isinstance(value, dict) else None
    return text if isinstance(text, str) and text.startswith(_RECORD) else None


def _recorded(value: dict[str, Value], text: str, findings: list[Finding], source: Source) -> Checkpoint:
    """What the record says of the tree beside it; what others have put there is metadata by its path."""
    record = records.parse(text)
    stored, others = flattened({key: child for key, child in value.items() if key != records.KEY})
    tensors = own_tensors(stored, record, findings, stored_as)
    root = add_values(restore(record.root, tensors, findings), others)
    return recorded_checkpoint(record, root, tensors, findings, format="flax", file=source)


def _unpacked(source: Source) -> tuple[FlaxUnpacker, Value]:
    unpacker = FlaxUnpacker(source)
    return unpacker, unpacker.unpack()
