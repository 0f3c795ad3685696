"""Reader of the files that ``flax.serialization.to_bytes`` and ``msgpack_serialize`` write.

The file is one msgpack object (`msgpack`), with Flax's own extensions for arrays (`arrays`); nearly always a map of
maps of arrays, since Flax turns lists into maps with the keys "0", "1", …. Only headers are read, no elements.
`ckptconv.formats.trees.nested` decides which tensors are the model's.

msgpack has no magic number, and other programs write it, too. A file is taken as Flax's if it has one of Flax's arrays
in it, or our record (`write`) under its key. Others, such as msgpack-numpy's, are not.
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
from ckptconv.formats.flax.nesting import flatten
from ckptconv.formats.flax.stored import stored_as
from ckptconv.formats.flax.tree import split_tree
from ckptconv.formats.targets.blobs import restore

if TYPE_CHECKING:
    from ckptconv.formats.flax.msgpack import Value
    from ckptconv.io.source import Source

_PARSED = "flax"

_RECORD = '{"version":'
"""The start of our record."""


def claims(source: Source) -> bool:
    """Whether the file has one of Flax's arrays or our record, or is cut short where one could follow.

    Reads all headers, and keeps the result for `read`.
    """
    unpacker = FlaxUnpacker(source)
    try:
        value = unpacker.unpack()
    except CkptconvError:
        return unpacker.found or (unpacker.begun and unpacker.cursor.ended)
    source.parsed[_PARSED] = unpacker, value
    return unpacker.found or _record_in(value) is not None


def read(source: Source) -> Checkpoint:
    """Open the file. Reads all of it except the arrays' elements.

    Raises CorruptFileError, LimitError, and UnsupportedError for files that are not Flax's, and arrays elsewhere.
    """
    unpacker, value = cast("tuple[FlaxUnpacker, Value]", source.parsed.pop(_PARSED, None) or _unpack(source))
    findings = [unreadable(name, kind) for name, kind in unpacker.unread.items()]
    if (text := _record_in(value)) is not None:
        return _read_recorded(value, text, findings, source)
    if not unpacker.found:
        raise UnsupportedError(
            "there is no Flax array in it", hint="flax.serialization.to_bytes(params) writes a file of arrays"
        )
    tree = split_tree(value)
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
    """The text of our record, if there is one."""
    text = value.get(records.KEY) if isinstance(value, dict) else None
    return text if isinstance(text, str) and text.startswith(_RECORD) else None


def _read_recorded(value: dict[str, Value], text: str, findings: list[Finding], source: Source) -> Checkpoint:
    """The checkpoint that the record describes; values that others added to the tree are metadata under their paths."""
    record = records.parse(text)
    stored, others = flatten({key: child for key, child in value.items() if key != records.KEY})
    tensors = own_tensors(stored, record, findings, stored_as)
    root = add_values(restore(record.root, tensors, findings), others)
    return recorded_checkpoint(record, root, tensors, findings, format="flax", file=source)


def _unpack(source: Source) -> tuple[FlaxUnpacker, Value]:
    unpacker = FlaxUnpacker(source)
    return unpacker, unpacker.unpack()
