"""GGUF's typed metadata to and from the metadata tree.

Each top-level key is an entry: with a type of GGUF's if one fits the value, else as a readable string. The type that an
entry was read with is kept as a note, so that it is written with the same type. What entries cannot express is in the
record, a string under the key ``ckptconv``, as in safetensors. Metadata that was read from a GGUF, and that entries
express completely, needs no record.

``general.architecture`` is mandatory, and so is ``general.quantization_version`` beside quantized tensors. Without a
known architecture, ``unknown`` and the only such version are written, and ignored on reading.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

from ckptconv.core import record as records
from ckptconv.core.metadata import MetaNode, StateDict
from ckptconv.core.names import free_key
from ckptconv.core.notes import Notes
from ckptconv.core.record_edits import take_edits
from ckptconv.core.spelling import is_utf8
from ckptconv.formats.gguf.filetype import ARCHITECTURE_KEY, QUANTIZATION_VERSION, VERSION_KEY
from ckptconv.formats.gguf.layout import ALIGNMENT_KEY, is_alignment
from ckptconv.formats.gguf.values import Typed, default_type, encode, fits, is_exact

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.record import Record

UNKNOWN: dict[str, Typed] = {ARCHITECTURE_KEY: ("string", "unknown"), VERSION_KEY: ("uint32", QUANTIZATION_VERSION)}
"""Entries that are written for a model whose architecture is not known."""

MAX_KEY = 65_535
SOURCE = "gguf"


def entry(key: str, value: MetaNode, types: Mapping[str, str]) -> Typed | None:
    """The entry for a top-level value; None if its key cannot be an entry's.

    types: the types that entries were read with, by key.
    """
    if not 0 < len(key.encode("utf-8")) <= MAX_KEY:
        return None
    if key == ALIGNMENT_KEY:
        return ("uint32", value) if is_alignment(value) else None
    if key == ARCHITECTURE_KEY and type(value) is not str:
        return "string", records.readable(value)
    name = types.get(key)
    if name is None or not fits(name, value):
        name = default_type(value)
    return ("string", records.readable(value)) if name is None else (name, value)


def entries(record: Record, *, quantized: bool) -> dict[str, Typed]:
    """All entries except the record itself.

    quantized: whether any of the tensors is.
    """
    found: dict[str, Typed] = {}
    for key, value in record.root.items() if isinstance(record.root, dict) else ():
        if not _can_be_key(key) or isinstance(value, StateDict):
            continue
        typed = entry(key, value, record.notes.types)
        if typed is not None:
            found[key] = typed
    if ARCHITECTURE_KEY in found:
        return found
    unknown = {key: typed for key, typed in UNKNOWN.items() if quantized or key != VERSION_KEY}
    return {**unknown, **found}


def _can_be_key(key: Hashable) -> TypeGuard[str]:
    return type(key) is str and key != records.KEY and is_utf8(key)


def needs_no_record(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint came from a GGUF, and entries alone bring back its metadata and notes."""
    notes = checkpoint.notes
    if notes != Notes(source=SOURCE, types=notes.types, programs=notes.programs) or checkpoint.extras:
        return False
    root = checkpoint.root
    if root == StateDict():
        return True
    if type(root) is not dict or ARCHITECTURE_KEY not in root:
        return False
    plain = {key: value for key, value in root.items() if not isinstance(value, StateDict)}
    state_dicts = {key: value for key, value in root.items() if key not in plain}
    as_read = {free_key("state_dict", plain): StateDict()}
    return state_dicts == as_read and all(_is_exact_entry(*item, notes.types) for item in plain.items())


def _is_exact_entry(key: Hashable, value: MetaNode, types: Mapping[str, str]) -> bool:
    if not _can_be_key(key):
        return False
    typed = entry(key, value, types)
    return typed is not None and typed[1] is value and is_exact(*typed)


def foreign_root(values: Mapping[str, Typed]) -> MetaNode:
    """The metadata tree of a file without a record."""
    if all(UNKNOWN.get(key) == typed for key, typed in values.items()):
        return StateDict()
    found: dict[str, MetaNode] = {key: value for key, (_, value) in values.items()}
    return {**found, free_key("state_dict", found): StateDict()}


def types_to_note(values: Mapping[str, Typed], keys: Container[object]) -> dict[str, str]:
    """The types of entries, among `keys`, whose values alone would get another type."""
    return {key: name for key, (name, value) in values.items() if key in keys and name != default_type(value)}


def recorded_root(record: Record, values: Mapping[str, Typed]) -> MetaNode:
    """The record's metadata tree, with the changes that other tools made to the entries."""
    known = dict(records.visible(record))
    strings: dict[str, str] = {}
    for key, value in known.items():
        expected = entry(key, value, record.notes.types)
        if expected is None or (key in values and _is_same(values[key], expected)):
            strings[key] = records.readable(value)
        elif key in values:
            name, changed = values[key]
            strings[key] = changed if name == "string" and isinstance(changed, str) else records.readable(changed)
    edited = take_edits(record, strings)
    hidden = {key for key in record.root if key not in known} if isinstance(record.root, dict) else set()
    new = {
        key: value
        for key, (name, value) in values.items()
        if key not in known and key not in hidden and key != records.KEY and UNKNOWN.get(key) != (name, value)
    }
    return _with_keys(edited, new)


def _is_same(left: Typed, right: Typed) -> bool:
    """Compares types and bytes, so that NaN equals NaN, and 0.0 differs from -0.0."""
    return left[0] == right[0] and encode(*left) == encode(*right)


def _with_keys(root: MetaNode, new: Mapping[str, MetaNode]) -> MetaNode:
    if not new:
        return root
    if not isinstance(root, dict):
        return {**new, "state_dict" if isinstance(root, StateDict) else "data": root}
    changed = root.copy()
    for key, value in new.items():
        changed[key] = value
    return changed
