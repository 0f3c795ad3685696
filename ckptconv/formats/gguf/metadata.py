"""GGUF's typed metadata ↔ the metadata tree.

Each top-level key is an entry of its own: of GGUF's type where it has one for the value, else a readable string. The
type that an entry came with is kept as a note, so that it gets it again. What the entries cannot say is in the record,
the string ``ckptconv``, as in safetensors; a file whose metadata came from a GGUF and says it all needs none.

``general.architecture`` has to be there, and ``general.quantization_version`` beside quantized tensors. Where nothing
says the first, it is ``unknown``, the other the one that there is, and both are read as nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.metadata import MetaNode, StateDict
from ckptconv.core.names import free_key
from ckptconv.core.notes import Notes
from ckptconv.core.record_edits import take_edits
from ckptconv.core.spelling import is_utf8
from ckptconv.formats.gguf.filetype import ARCHITECTURE_KEY, QUANTIZATION_VERSION, VERSION_KEY
from ckptconv.formats.gguf.layout import ALIGNMENT_KEY, is_alignment
from ckptconv.formats.gguf.values import Typed, fits, is_exact, natural, spell

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.record import Record

UNKNOWN: dict[str, Typed] = {ARCHITECTURE_KEY: ("string", "unknown"), VERSION_KEY: ("uint32", QUANTIZATION_VERSION)}
"""What is written where nothing says what the model is."""

MAX_KEY = 65_535
SOURCE = "gguf"


def entry(key: str, value: MetaNode, types: Mapping[str, str]) -> Typed | None:
    """The entry that stands for a top-level value; None where its key cannot have one."""
    if not 0 < len(key.encode("utf-8")) <= MAX_KEY:
        return None
    if key == ALIGNMENT_KEY:
        return ("uint32", value) if is_alignment(value) else None
    if key == ARCHITECTURE_KEY and type(value) is not str:
        return "string", records.readable(value)
    name = types.get(key)
    if name is None or not fits(name, value):
        name = natural(value)
    return ("string", records.readable(value)) if name is None else (name, value)


def entries(record: Record, *, quantized: bool) -> dict[str, Typed]:
    """All entries but the record itself; `quantized` says that there are blocks among the tensors."""
    root = record.root if isinstance(record.root, dict) else {}
    found = {
        key: entry(key, value, record.notes.types)
        for key, value in root.items()
        if type(key) is str and key != records.KEY and is_utf8(key) and not isinstance(value, StateDict)
    }
    said = {key: one for key, one in found.items() if one is not None}
    if ARCHITECTURE_KEY in said:
        return said
    unknown = {key: one for key, one in UNKNOWN.items() if quantized or key != VERSION_KEY}
    return {**unknown, **said}


def says_it_all(checkpoint: Checkpoint) -> bool:
    """Whether entries alone give the metadata and the notes back, of a checkpoint that came from a GGUF."""
    notes = checkpoint.notes
    if notes != Notes(source=SOURCE, types=notes.types, programs=notes.programs) or checkpoint.extras:
        return False
    root = checkpoint.root
    if root == StateDict():
        return True
    if type(root) is not dict or ARCHITECTURE_KEY not in root:
        return False
    plain = {key: value for key, value in root.items() if not isinstance(value, StateDict)}
    holes = {key: value for key, value in root.items() if key not in plain}
    hole = {free_key("state_dict", plain): StateDict()}
    return holes == hole and all(_is_said(*item, notes.types) for item in plain.items())


def _is_said(key: Hashable, value: MetaNode, types: Mapping[str, str]) -> bool:
    if type(key) is not str or key == records.KEY or not is_utf8(key):
        return False
    one = entry(key, value, types)
    return one is not None and one[1] is value and is_exact(*one)


def foreign_root(values: Mapping[str, Typed]) -> MetaNode:
    """The tree of a file that others wrote."""
    if all(UNKNOWN.get(key) == one for key, one in values.items()):
        return StateDict()
    found: dict[str, MetaNode] = {key: value for key, (_, value) in values.items()}
    return {**found, free_key("state_dict", found): StateDict()}


def types_of(values: Mapping[str, Typed], kept: Mapping[str, object]) -> dict[str, str]:
    """The types that entries have and would not get again from their values alone, of keys that are `kept`."""
    return {key: name for key, (name, value) in values.items() if key in kept and name != natural(value)}


def recorded_root(record: Record, values: Mapping[str, Typed]) -> MetaNode:
    """The record's tree, after what other tools did to the entries."""
    known = dict(records.visible(record))
    strings: dict[str, str] = {}
    for key, value in known.items():
        expected = entry(key, value, record.notes.types)
        if expected is None or (key in values and _same(values[key], expected)):
            strings[key] = records.readable(value)
        elif key in values:
            name, found = values[key]
            strings[key] = found if name == "string" and isinstance(found, str) else records.readable(found)
    unchanged = take_edits(record, strings)
    hidden = {key for key in record.root if key not in known} if isinstance(record.root, dict) else set()
    new = {
        key: value
        for key, (name, value) in values.items()
        if key not in known and key not in hidden and key != records.KEY and UNKNOWN.get(key) != (name, value)
    }
    return _with(unchanged, new)


def _same(one: Typed, other: Typed) -> bool:
    return one[0] == other[0] and spell(*one) == spell(*other)


def _with(root: MetaNode, new: Mapping[str, MetaNode]) -> MetaNode:
    if not new:
        return root
    if not isinstance(root, dict):
        return {**new, "state_dict" if isinstance(root, StateDict) else "data": root}
    changed = root.copy()
    for key, value in new.items():
        changed[key] = value
    return changed
