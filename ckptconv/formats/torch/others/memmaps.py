"""Reader for the folders that tensordict's ``TensorDict.memmap`` (``save``) writes, for example TorchRL's replay
buffers.

    meta.json        "KEY": {"shape", "dtype": "torch.float32", "is_nested"} for a tensor, "KEY": {"type"} for a
                     subfolder; "shape", the batch size; "_names" of its dimensions; "_type", "_class", "device"
    KEY.memmap       the elements of a tensor, in C order, little-endian; absent if there are none
    KEY/             a folder of the same kind, or
                     a lazy stack: "stack_dim", and the folders 0, 1, …, each as above
                     a value that is not a tensor: "data", in JSON, or the file other.pickle
                     a tensorclass: values that are not tensors, and the folder _tensordict

Characters that file systems refuse are percent-encoded in file names; in older releases the file name is the key. A
tensor's name is the keys that lead to it, joined by dots (``flatten_keys``). Everything else is metadata: ``values``,
``batch_size``, ``names`` and ``stack_dim``, each a dict by such names.

Not read, with a warning: values in other.pickle. Refused: files that are missing, too short or too long; folders that
are reached twice through links. Refused by name: nested tensors, element types that torch has no name for.

Sources: tensordict/_td_memmap.py (`_save_metadata`), _td.py, _lazy.py and tensorclass.py (`_load_memmap`),
_utils_key_json.py (`_encode_key_for_filesystem`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

from ckptconv.core import strict_json
from ckptconv.core.arrays import TORCH_NAMES
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.metadata import MetaNode, Opaque, StateDict
from ckptconv.core.names import numbered
from ckptconv.core.notes import Notes
from ckptconv.core.report import UNREADABLE, Finding
from ckptconv.core.tensor import ByteSpan, TensorInfo, in_file
from ckptconv.errors import COPY_ALL_AGAIN, CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.io.limits import MAX_CONFIG, MAX_DEPTH, MAX_DIM, MAX_FILES, MAX_RANK, MAX_TENSORS, is_size

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.io.folder import Folder

META = "meta.json"
_INNER = "_tensordict"
_PICKLE = "other.pickle"
_SUFFIX = ".memmap"
_VALUES = "<class 'tensordict.tensorclass.NonTensor"
_DTYPES = {f"torch.{name}": dtype for dtype, name in TORCH_NAMES.items() if dtype.bits % 8 == 0}
_UNSAFE = {ord(mark): f"%{ord(mark):02X}" for mark in '/<>:"|?*\\ %' + "".join(map(chr, (*range(32), 127)))}

_Path = tuple[str, ...]


def claims(folder: Folder) -> bool:
    """Whether the folder's meta.json is that of a TensorDict or a tensorclass."""
    if META not in folder.names:
        return False
    try:
        document = _document(folder)
    except CkptconvError:
        return False
    kind = document.get("_type")
    if not isinstance(kind, str) or not kind.startswith("<class '") or _is_value(document):
        return False
    return _INNER in folder.folders or kind.startswith("<class 'tensordict.")


def read(folder: Folder) -> Checkpoint:
    """Read the meta.json of the folder and of all folders in it, but no elements.

    Raises CorruptFileError, LimitError, UnsupportedError, FileAccessError.
    """
    contents = _Contents()
    contents.visit(folder, ())
    metadata: dict[str, MetaNode] = {key: value for key, value in contents.metadata.items() if value}
    model = StateDict(container="dict")
    return Checkpoint(
        contents.tensors, root={**metadata, "state_dict": model} if metadata else model, format="tensordict",
        notes=Notes(source="tensordict"), findings=tuple(contents.findings), file=folder,
    )  # fmt: skip


def _document(folder: Folder) -> dict[str, Any]:
    with folder.open_unshared(META) as source:
        text = source.read_all(MAX_CONFIG)
    return strict_json.object_of(text, META, hint=COPY_ALL_AGAIN)


def _is_value(document: dict[str, Any]) -> bool:
    """Whether a meta.json is that of a value, and not of a TensorDict, where any key may be a tensor's."""
    return document.get("_is_non_tensor") is True or str(document.get("_type")).startswith(_VALUES)


def _name(path: _Path) -> str:
    return ".".join(path)


def _file_of(key: str, known: frozenset[str], suffix: str = "") -> str | None:
    """The name of a key's file or folder; None if there is none."""
    encoded = "%2E" * len(key) if key in (".", "..") else key.translate(_UNSAFE) or "%"
    return next((name for name in (encoded + suffix, key + suffix) if name in known), None)


@dataclass(slots=True)
class _Contents:
    """The contents of the folders that were visited so far."""

    tensors: dict[str, LazyTensor] = field(default_factory=dict)
    metadata: dict[str, dict[str, MetaNode]] = field(
        default_factory=lambda: {"values": {}, "batch_size": {}, "names": {}, "stack_dim": {}}
    )
    findings: list[Finding] = field(default_factory=list)
    visited: set[str] = field(default_factory=set)

    def visit(self, folder: Folder, path: _Path) -> None:
        """Read a folder and those in it. Each counts once: with links, twenty folders could be a million."""
        where = os.path.realpath(folder.path)
        if where in self.visited:
            raise self._bad(folder, "a link leads to a folder that is a part of this TensorDict already")
        self.visited.add(where)
        if len(path) > MAX_DEPTH or len(self.visited) > MAX_FILES:
            raise LimitError(f"there are more than {MAX_FILES:,} folders, or they are more than {MAX_DEPTH} deep")
        if META not in folder.names:
            raise self._bad(folder, f"there is no {META}")
        document = _document(folder)
        strict_json.check_depth(document, META)
        if _INNER in folder.folders:
            self._values(folder, document, path)
            self.visit(folder.inside(_INNER), path)
        elif _is_value(document):
            self._value(folder, document, path)
        elif type(document.get("stack_dim")) is int:
            self._stack(folder, document, path)
        else:
            self._entries(folder, document, path)

    def _values(self, folder: Folder, document: dict[str, Any], path: _Path) -> None:
        """The values of a tensorclass that are not tensors."""
        for key, value in document.items():
            if not key.startswith("_"):
                self._note("values", (*path, key), value)
        self._warn_of_pickle(folder, path)

    def _value(self, folder: Folder, document: dict[str, Any], path: _Path) -> None:
        if "data" in document:
            self._note("values", path, document["data"])
        else:
            self._note("values", path, Opaque("pickle", "unread"))
        self._warn_of_pickle(folder, path)

    def _warn_of_pickle(self, folder: Folder, path: _Path) -> None:
        if _PICKLE in folder.names:
            where = _name(path)
            message = f"what JSON does not have of {where!r} is a pickle ({_PICKLE}), and is not read"
            self.findings.append(Finding(UNREADABLE, "warning", where, message))

    def _stack(self, folder: Folder, document: dict[str, Any], path: _Path) -> None:
        self._note("stack_dim", path, document["stack_dim"])
        known = frozenset(folder.folders)
        for number in range(len(known)):
            if str(number) not in known:
                raise self._bad(folder, f"of what is stacked there is no folder {number}")
            self.visit(folder.inside(str(number)), (*path, str(number)))

    def _entries(self, folder: Folder, document: dict[str, Any], path: _Path) -> None:
        self._sizes(folder, document, path)
        files, folders = frozenset(folder.names), frozenset(folder.folders)
        for key, entry in document.items():
            if not isinstance(entry, dict):
                continue
            if "type" in entry:
                inner = _file_of(key, folders)
                if inner is None:
                    raise self._bad(folder, f"there is no folder of {_name((*path, key))!r}")
                self.visit(folder.inside(inner), (*path, key))
            elif "dtype" in entry:
                self._tensor(folder, files, key, entry, (*path, key))

    def _sizes(self, folder: Folder, document: dict[str, Any], path: _Path) -> None:
        size = document.get("shape", [])
        if isinstance(size, list) and size:
            self._note("batch_size", path, list(self._shape(folder, size, "the batch size")))
        names = document.get("_names")
        if isinstance(names, list) and any(name is not None for name in names):
            self._note("names", path, names)

    def _tensor(self, folder: Folder, files: frozenset[str], key: str, entry: dict[str, Any], path: _Path) -> None:
        name = _name(path)
        if entry.get("is_nested"):
            raise UnsupportedError(f"{name!r} is a nested tensor", path=folder.path, hint="save its parts")
        dtype = _DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        if dtype is None:
            raise UnsupportedError(
                f"{name!r} has the element type {str(entry['dtype'])[:80]!r}", path=folder.path, hint="save another"
            )
        info = TensorInfo.of(dtype, self._shape(folder, entry.get("shape"), repr(name)))
        file = _file_of(key, files, _SUFFIX)
        if file is None:
            if info.nbytes:
                raise self._bad(folder, f"there is no file of {name!r}")
            file = META
        source = folder.open(file)
        if info.nbytes and source.size != info.nbytes:
            raise self._bad(
                folder,
                f"{file!r} has {source.size:,} bytes, and the type and shape of {name!r} ask for {info.nbytes:,}",
            )
        if len(self.tensors) == MAX_TENSORS:
            raise LimitError(f"there are more than {MAX_TENSORS:,} tensors")
        span = ByteSpan(source, 0, info.nbytes)
        free = numbered(name, self.tensors)
        self.tensors[free] = in_file(info, span, (id(folder), key))

    def _shape(self, folder: Folder, shape: object, whose: str) -> tuple[int, ...]:
        if isinstance(shape, list) and len(shape) <= MAX_RANK and all(map(is_size, shape)) and prod(shape) <= MAX_DIM:
            return tuple(shape)
        raise self._bad(folder, f"the shape of {whose} is none")

    def _note(self, kind: str, path: _Path, value: MetaNode) -> None:
        self.metadata[kind][_name(path)] = value

    def _bad(self, folder: Folder, what: str) -> CorruptFileError:
        return CorruptFileError(what, path=folder.path, hint=COPY_ALL_AGAIN)
