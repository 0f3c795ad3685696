"""The record: keeps metadata and bookkeeping in formats that hold only strings.

safetensors' ``__metadata__`` and ONNX's ``metadata_props`` map strings to strings. There we write

    KEY       one readable string for each top-level key: text as it is, anything else as JSON (tuples as lists)
    format    "pt", unless the checkpoint has a string under that key
    DROPPED   for each tied name that is stored once: the name that it is stored under
    ckptconv  the record: a JSON document with everything that these strings cannot express

The record's keys, all optional but the first:

    version        1
    root           the metadata tree (spelled as in `ckptconv.core.spelling`); absent: a bare OrderedDict
    refs           "model" if the single tensors in the tree are the model's; otherwise they are extras
    extras         names of single tensors that are extras even so, beside a pickled module
    ties           [[dropped, kept, position in the state_dict]…]
    names          stored name → name, if the format does not allow the name
    order          the names in their order, if the format keeps another one
    encodings      name → {"dtype", "shape"} of tensors stored as another type
    composites     name → what a quantized or sparse tensor is made of (`ckptconv.core.composite`)
    tensors        [[name, position, dtype, shape, bytes in base64]…] of small tensors that the format cannot hold
    turned         stored names of matrices that are stored transposed
    constants      names of tensors that are the graph's, not the model's; `strings`: keys of such metadata
    parameters, requires_grad       names, or "*" for all
    devices, strides, attributes    by name
    versions       [[path in the tree, module versions]…] of state_dicts that are not the model's
    types          key → a format's own type of metadata, if Python's is less specific
    quantized      [{"name", "scheme", "parts", "called", …}…] of weights that a graph computed (`core.notes`), and
                   `between`: tensors by which it quantized activations between layers
    source, arch, digest

`ckptconv.core.record_edits` reads such a file after other tools have changed it.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ckptconv.core import composite as composites
from ckptconv.core import strict_json
from ckptconv.core.dtypes import DTYPES
from ckptconv.core.metadata import MetaNode, StateDict, Stored, TensorRef, TorchSize, TorchValue, is_too_deep, nodes_of
from ckptconv.core.notes import Notes, QuantizedWeight, TensorNote
from ckptconv.core.spelling import Json, canonical, dumps, from_json, is_utf8, module_versions, to_json, without
from ckptconv.core.strict_json import as_size, as_text
from ckptconv.core.tensor import TensorInfo
from ckptconv.errors import UPGRADE, CorruptFileError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ckptconv.core.checkpoint import Checkpoint

KEY = "ckptconv"
VERSION = 1
FORMAT = "pt"

_BARE = StateDict()


def readable(value: MetaNode) -> str:
    """The string that shows a value to other tools."""
    if type(value) is str:
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    return json.dumps(_plainly(value), ensure_ascii=True)


def _plainly(value: MetaNode) -> Json:
    """A value in a form that other tools can read: a tuple as a list, a dtype as its name. The record has the rest."""
    match value:
        case OrderedDict() | Counter() | defaultdict() | dict():
            return {plain_key(key): _plainly(item) for key, item in value.items()}
        case TorchSize() | tuple() | list():
            return [_plainly(item) for item in value]
        case set() | frozenset():
            return [_plainly(item) for item in sorted(value, key=canonical)]
        case TorchValue(name=name):
            return name
        case _:
            return to_json(value)


@dataclass(frozen=True, slots=True)
class Encoding:
    """The true type and shape of a tensor that is stored as another type."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Inline:
    """A small tensor that is stored in the record: its position in the state_dict, and its image."""

    name: str
    position: int
    info: TensorInfo
    data: bytes


@dataclass(slots=True)
class Record:
    """The record as data; `ties` are (dropped, kept, position)."""

    root: MetaNode = _BARE
    refs_are_model: bool = False
    extras: list[str] = field(default_factory=list)
    ties: list[tuple[str, str, int]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    encodings: dict[str, Encoding] = field(default_factory=dict)
    composites: dict[str, composites.Composite] = field(default_factory=dict)
    inline: list[Inline] = field(default_factory=list)
    turned: list[str] = field(default_factory=list)
    constants: list[str] = field(default_factory=list)
    strings: list[str] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)
    digest: str | None = None

    def own_name(self, stored: str) -> str:
        """The true name of the tensor that the file stores under this name."""
        return self.names.get(stored, stored)

    def spell(self, tensors: Iterable[str]) -> str:
        """The record as a JSON document. `tensors`: all names; a note about every one of them is spelled "*"."""
        all_names = set(tensors)
        notes = self.notes
        document: dict[str, Json] = {
            "refs": "model" if self.refs_are_model else None,
            "extras": self.extras if self.refs_are_model else [],
            "ties": [list(tie) for tie in self.ties],
            "names": self.names,
            "order": self.order,
            "encodings": {name: {"dtype": e.dtype, "shape": list(e.shape)} for name, e in self.encodings.items()},
            "composites": {name: composite.to_dict() for name, composite in self.composites.items()},
            "tensors": [
                [t.name, t.position, t.info.dtype.name, list(t.info.shape), b64encode(t.data).decode("ascii")]
                for t in self.inline
            ],
            "turned": self.turned,
            "constants": self.constants,
            "strings": self.strings,
            "parameters": _names_or_star(notes.parameters, all_names),
            "requires_grad": _names_or_star(notes.requires_grad, all_names),
            "devices": notes.devices,
            "strides": {name: list(strides) for name, strides in notes.strides.items()},
            "attributes": {name: to_json(node) for name, node in notes.attributes.items()},
            "versions": [[list(path), to_json(node)] for path, node in notes.versions.items()],
            "types": dict(notes.types),
            "quantized": [weight.recorded() for weight in notes.quantized],
            "between": list(notes.between),
            "source": notes.source,
            "arch": to_json(notes.arch),
            "digest": self.digest,
        }
        nonempty = {key: value for key, value in document.items() if value not in (None, "", [], {})}
        root = {} if self.root == _BARE else {"root": to_json(self.root)}
        return dumps({"version": VERSION, **root, **nonempty})


def _names_or_star(names: list[str], all_names: set[str]) -> Json:
    return "*" if names and set(names) == all_names else names


def parse(text: str) -> Record:
    """Read a record. Raises UnsupportedError for a newer version, CorruptFileError for a malformed one."""
    try:
        document = strict_json.loads(text)
        version = document["version"]
        if type(version) is not int or version < 1:
            raise ValueError("its version is not a number")
        if version > VERSION:
            raise UnsupportedError(
                f"its record has version {version}, and this ckptconv knows up to {VERSION}", hint=UPGRADE
            )
        record = _parse(document)
        _check_depth(record)
        return record
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptFileError(
            f"the metadata key {KEY!r} holds no valid record: {error}",
            hint="save the file again without that key; its tensors are not affected",
        ) from error


def _parse(document: dict[str, Any]) -> Record:
    notes = _notes(document)
    return Record(
        root=from_json(document["root"]) if "root" in document else _BARE,
        refs_are_model=document.get("refs") == "model",
        extras=[as_text(name) for name in document.get("extras", [])],
        ties=[
            (as_text(dropped), as_text(kept), as_size(position)) for dropped, kept, position in document.get("ties", [])
        ],
        names={as_text(stored): as_text(name) for stored, name in document.get("names", {}).items()},
        order=[as_text(name) for name in document.get("order", [])],
        encodings={
            name: Encoding(as_text(e["dtype"]), tuple(map(as_size, e["shape"])))
            for name, e in document.get("encodings", {}).items()
        },
        composites={name: composites.from_dict(one) for name, one in document.get("composites", {}).items()},
        inline=[_inline(*row) for row in document.get("tensors", [])],
        turned=[as_text(name) for name in document.get("turned", [])],
        constants=[as_text(name) for name in document.get("constants", [])],
        strings=[as_text(key) for key in document.get("strings", [])],
        notes=notes,
        digest=notes.digest,
    )


def _notes(document: dict[str, Any]) -> Notes:
    notes = Notes(
        source=as_text(document.get("source", "")),
        strides={name: tuple(map(as_size, value)) for name, value in document.get("strides", {}).items()},
        attributes={name: without(from_json(node), Stored) for name, node in document.get("attributes", {}).items()},
        versions={tuple(map(_key, path)): module_versions(node) for path, node in document.get("versions", [])},
        types={key: as_text(name) for key, name in document.get("types", {}).items()},
        arch=from_json(document.get("arch")),
        quantized=tuple(map(QuantizedWeight.of_record, document.get("quantized", []))),
        between=tuple(as_text(name) for name in document.get("between", [])),
        digest=None if document.get("digest") is None else as_text(document["digest"]),
    )
    flags = {key: document.get(key, []) for key in ("parameters", "requires_grad")}
    devices = {name: as_text(device) for name, device in document.get("devices", {}).items()}
    named = {name for names in flags.values() for name in (names if names != "*" else ["*"])} | devices.keys()
    tensors = {
        as_text(name): TensorNote(
            _includes(flags["parameters"], name), _includes(flags["requires_grad"], name), devices.get(name, "cpu")
        )
        for name in sorted(named)
    }
    return replace(notes, tensors=tensors)


def _inline(name: Json, position: Json, dtype: Json, shape: Json, text: Json) -> Inline:
    known = DTYPES.get(as_text(dtype))
    if known is None:
        raise ValueError(f"{dtype!r} is not an element type")
    info, data = TensorInfo.of(known, tuple(map(as_size, shape))), b64decode(as_text(text), validate=True)
    if len(data) != info.nbytes:
        raise ValueError(f"{name!r} has {len(data)} bytes, and its type and shape ask for {info.nbytes}")
    return Inline(as_text(name), as_size(position), info, data)


def _check_depth(record: Record) -> None:
    notes = record.notes
    nodes = (record.root, notes.arch, *notes.attributes.values(), *notes.versions.values())
    if any(map(is_too_deep, nodes)):
        raise ValueError("it is nested too deeply")


def _includes(names: Json, name: str) -> bool:
    return names == "*" or name in names


def _key(value: Json) -> str | int:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a key")
    return value


def strings_of(record: Record, tensors: Iterable[str]) -> dict[str, str]:
    """The string map for a checkpoint with this record: readable strings, format, ties, and the record itself."""
    strings = {key: readable(value) for key, value in visible(record)}
    strings.setdefault("format", FORMAT)
    strings |= tie_strings(record)
    strings[KEY] = record.spell(tensors)
    return strings


def tie_strings(record: Record) -> dict[str, str]:
    """The ties as the safetensors package writes them. Names that cannot be strings there are only in the record."""
    return {
        dropped: kept
        for dropped, kept, _ in record.ties
        if is_utf8(dropped) and is_utf8(kept) and dropped not in (KEY, "format")
    }


def reads_as_tie(dropped: str, kept: str) -> bool:
    """Whether a string that maps one tensor's name to another is taken for a tie if there is no record.

    The package's `save_model` writes such strings. A key without a dot may be anything: ``"best": "layer.weight"``.
    """
    return "." in dropped and ("." in kept or dropped.rpartition(".")[2] == kept)


def visible(record: Record) -> list[tuple[str, MetaNode]]:
    """The top-level metadata that has a readable string of its own."""
    if not isinstance(record.root, dict):
        return []
    hidden = {KEY, *(dropped for dropped, _, _ in record.ties)}
    return [
        (key, value)
        for key, value in record.root.items()
        if type(key) is str
        and key not in hidden
        and is_utf8(key)
        and not isinstance(value, StateDict)
        and (key != "format" or type(value) is str)
    ]


def plain_key(key: MetaNode) -> str:
    """A dictionary key in a readable string: itself, or its spelling."""
    return key if isinstance(key, str) else dumps(to_json(key))


def refs_are_model(checkpoint: Checkpoint) -> bool:
    """Whether the single tensors in the checkpoint's tree are the model's own."""
    return any(node.name in checkpoint for node in nodes_of(checkpoint.root, TensorRef))
