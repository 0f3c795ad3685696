"""Reader of torch.save's zip archive (torch 1.6 and later).

    NAME/data.pkl               the pickled object; its tensors refer to storages by key
    NAME/data/KEY               one storage each: the elements as they lay in memory, 64-byte aligned
    NAME/byteorder              "little" or "big", of every storage; absent: little
    NAME/version                "3"; NAME/.format_version, NAME/.storage_alignment, NAME/.data/…: not needed
    NAME/ckptconv/notes.json    ours, see `ckptconv.formats.torch.write`

NAME is whatever the file was called when it was saved. Source: torch/serialization.py (`_save`, `_load`),
caffe2/serialize/inline_container.cc.

Refused by name: TorchScript archives, torch.export archives, quantized and sparse tensors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint, Notes, TensorNote
from ckptconv.core.dtypes import COMPONENT
from ckptconv.core.metadata import is_too_deep
from ckptconv.core.report import Finding
from ckptconv.core.spelling import from_json
from ckptconv.core.strided import extent, is_contiguous
from ckptconv.core.tensor import ByteSpan, LazyTensor, Placement, SpanReader, Storage, TensorInfo
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.torch.construct import TorchConstructors
from ckptconv.formats.torch.dtypes import PACKED
from ckptconv.formats.torch.names import with_names
from ckptconv.formats.torch.pickle import Budget, Machine
from ckptconv.formats.torch.roots import plant, plant_attributes
from ckptconv.formats.torch.zip import ZipArchive
from ckptconv.io.gather import Gather
from ckptconv.io.limits import MAX_DIM, MAX_PICKLE_BYTES, MAX_RANK, MAX_TENSORS

if TYPE_CHECKING:
    from ckptconv.core.dtypes import DType
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.torch.stubs import StorageStub, TensorStub
    from ckptconv.io.source import Source

NOTES_RECORD = "ckptconv/notes.json"

MAX_VERSION = 10
"""The newest archive version that torch knows (kMaxSupportedFileFormatVersion in caffe2/serialize/versions.h)."""

_COPY_AGAIN = "copy the file again from where it came"


def claims(source: Source) -> bool:
    """Whether this is a zip archive with a ``data.pkl`` one level down."""
    try:
        return _root_of(ZipArchive.of(source)) is not None
    except CorruptFileError:
        return True  # it starts as a zip; reading it will say what is wrong
    except CkptconvError:
        return False


def _root_of(archive: ZipArchive) -> str | None:
    """The archive's one top folder that holds a data.pkl, with its slash."""
    roots = [
        name[: -len("data.pkl")] for name in archive.entries if name.endswith("/data.pkl") and name.count("/") == 1
    ]
    return roots[0] if len(roots) == 1 else None


def read(source: Source) -> Checkpoint:
    """Open the archive: its directory, its pickle and the storages' local headers; no tensor byte.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError (a tensor of the model hangs on a call).
    """
    archive = ZipArchive.of(source)
    root = _root_of(archive)
    if root is None:
        raise UnsupportedError("this zip archive is no torch checkpoint", hint="unpack it, and name a file in it")
    _refuse_other_archives(archive, root)
    _check_small_records(archive, root)
    constructors = TorchConstructors()
    data = archive.read(root + "data.pkl", MAX_PICKLE_BYTES)
    budget = Budget(len(data))
    machine = Machine(data, constructors)
    tree = plant(machine.run(), budget)
    if len(tree.model) + len(tree.extras) > MAX_TENSORS:
        raise LimitError(f"the file has more than {MAX_TENSORS:,} tensors", hint="do not trust it")
    swapped = _is_big_endian(archive, root)
    placer = _Placer(archive, root, swapped)
    stubs = {**tree.model, **tree.extras}
    tensors = {name: placer.place(name, stub) for name, stub in stubs.items()}
    findings: list[Finding] = []
    notes = _notes(stubs, tensors, budget, _arch(archive, root), findings)
    notes = with_names(notes, machine, tree, budget)
    return Checkpoint(
        {name: tensors[name] for name in tree.model},
        extras={name: tensors[name] for name in tree.extras},
        root=tree.root,
        format="torch",
        notes=notes,
        findings=tuple(findings),
        file=source,
    )


def _refuse_other_archives(archive: ZipArchive, root: str) -> None:
    if root + "constants.pkl" in archive.entries:
        raise UnsupportedError(
            "this is a TorchScript archive (torch.jit.save), which is not read yet",
            hint="torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth') makes one that is",
        )


def _check_small_records(archive: ZipArchive, root: str) -> None:
    """What torch asks of an archive besides: entries in one folder, a version that it knows."""
    if strays := [name for name in archive.entries if not name.startswith(root)]:
        raise CorruptFileError(f"the archive has an entry {strays[0]!r} outside of {root!r}", hint=_COPY_AGAIN)
    if root + "version" not in archive.entries and root + ".data/version" not in archive.entries:
        raise CorruptFileError("the archive has no version record", hint=_COPY_AGAIN)
    for name in (".format_version", ".storage_alignment", "version"):
        text = archive.read(root + name, 64) if root + name in archive.entries else b"1"
        if not text.strip().isdigit() or (name == "version" and not 1 <= int(text) <= MAX_VERSION):
            raise CorruptFileError(f"the record {name} says {text!r}", hint=_COPY_AGAIN)


def _is_big_endian(archive: ZipArchive, root: str) -> bool:
    if root + "byteorder" not in archive.entries:
        return False
    order = archive.read(root + "byteorder", 16)
    if order not in (b"little", b"big"):
        raise CorruptFileError(f"unknown byte order {order!r}", hint=_COPY_AGAIN)
    return order == b"big"


def _arch(archive: ZipArchive, root: str) -> MetaNode:
    name = root + NOTES_RECORD
    if name not in archive.entries:
        return None
    try:
        arch = from_json(json.loads(archive.read(name, MAX_PICKLE_BYTES)).get("arch"))
        if is_too_deep(arch):
            raise ValueError("it is nested too deeply")
        return arch
    except (ValueError, AttributeError, RecursionError) as error:
        raise CorruptFileError(f"the record {NOTES_RECORD} is malformed: {error}", hint=_COPY_AGAIN) from error


def _notes(
    stubs: dict[str, TensorStub], tensors: dict[str, LazyTensor], budget: Budget, arch: MetaNode,
    findings: list[Finding],
) -> Notes:  # fmt: skip
    notes: dict[str, TensorNote] = {}
    strides: dict[str, tuple[int, ...]] = {}
    attributes: dict[str, MetaNode] = {}
    for name, stub in stubs.items():
        if stub.parameter or stub.requires_grad or stub.storage.device != "cpu":
            notes[name] = TensorNote(stub.parameter, stub.requires_grad, stub.storage.device)
        tensor = tensors[name]
        place = tensor.placement
        if tensor.span is None and place is not None and not is_contiguous(place.shape, place.strides):
            strides[name] = place.strides
        if stub.attributes:
            attributes[name], lost = plant_attributes(stub.attributes, budget)
            findings += [_attribute(name, key) for key in lost]
    return Notes("torch", notes, strides, {name: kept for name, kept in attributes.items() if kept}, arch=arch)


def _attribute(name: str, key: str) -> Finding:
    message = f"the attribute {key!r} of {name!r} holds a tensor and is left out"
    return Finding("attribute", "warning", name, message)


@dataclass(slots=True)
class _Placer:
    """Puts pickled tensors onto the archive's records, checking every number on the way."""

    archive: ZipArchive
    root: str
    swapped: bool
    storages: dict[str, Storage] = field(default_factory=dict)

    def place(self, name: str, stub: TensorStub) -> LazyTensor:
        try:
            return self._place(stub)
        except CkptconvError as error:
            error.message = f"tensor {name!r}: {error.message}"
            error.args = (error.message,)
            raise

    def _place(self, stub: TensorStub) -> LazyTensor:
        dtype, shape, strides = stub.dtype, stub.shape, stub.strides
        storage = self._storage(stub.storage, dtype)
        numel, reach, contiguous = _geometry(shape, strides)
        if stub.offset < 0 or (reach and stub.offset + reach > storage.numel):
            raise CorruptFileError(
                f"it reaches element {stub.offset + reach:,} of a storage that has {storage.numel:,}", hint=_COPY_AGAIN
            )
        logical = shape
        if dtype in PACKED:
            if not shape:
                raise UnsupportedError(
                    f"a 0-d tensor of packed {dtype} holds no single element", hint="reshape it to [1]"
                )
            logical = (*shape[:-1], shape[-1] * PACKED[dtype])
        nbytes = numel * storage.unit
        if nbytes > MAX_DIM:
            raise CorruptFileError(f"the shape {list(shape)} takes more bytes than a file can have", hint=_COPY_AGAIN)
        info = TensorInfo(dtype, logical, nbytes)
        placement = Placement(storage, stub.offset, shape, strides, stub.conj, stub.neg)
        alias = (storage.key, stub.offset, shape, strides, dtype, stub.conj, stub.neg)
        as_it_lies = not (stub.conj or stub.neg) and (
            not self.swapped or (storage.unit == 1 and dtype not in COMPONENT)
        )
        if as_it_lies and contiguous:
            whole = storage.span
            span = whole
            if nbytes != whole.length:
                span = ByteSpan(whole.file, whole.offset + stub.offset * storage.unit * (nbytes > 0), nbytes)
            return LazyTensor(info, SpanReader(span), span, alias, (whole,), placement)
        return LazyTensor(info, Gather(placement, dtype), None, alias, (storage.span,), placement)

    def _storage(self, stub: StorageStub, dtype: DType) -> Storage:
        unit = max(1, dtype.bits // 8)
        known = self.storages.get(stub.key)
        if known is not None:
            if known.dtype is not dtype:
                raise UnsupportedError("it shares its storage with a tensor of another dtype", hint="clone() it first")
            return known
        name = f"{self.root}data/{stub.key}"
        if name not in self.archive.entries:
            raise CorruptFileError(f"its storage {name!r} is not in the archive", hint=_COPY_AGAIN)
        span = self.archive.span(name)
        expected = stub.numel * (unit if stub.dtype is not None else 1)
        if span.length != expected:
            raise CorruptFileError(
                f"its storage has {span.length:,} bytes, and the pickle says {expected:,}", hint=_COPY_AGAIN
            )
        storage = Storage((id(self.archive), stub.key), span, unit, span.length // unit, dtype, self.swapped)
        self.storages[stub.key] = storage
        return storage


@lru_cache(maxsize=4096)
def _geometry(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, int, bool]:
    """Elements of a view, how far it reaches, and whether it is one run; remembered, since layers repeat their shapes.

    Raises CorruptFileError on numbers that no view can have.
    """
    if len(shape) != len(strides) or len(shape) > MAX_RANK:
        raise CorruptFileError(f"{len(shape)} dimensions and {len(strides)} strides", hint=_COPY_AGAIN)
    if any(not 0 <= n <= MAX_DIM for n in (*shape, *strides)):
        raise CorruptFileError("a size or a stride is out of range", hint=_COPY_AGAIN)
    if prod(shape) > MAX_DIM:
        raise CorruptFileError(f"the shape {list(shape)} has more elements than a file can", hint=_COPY_AGAIN)
    return prod(shape), extent(shape, strides), is_contiguous(shape, strides)
