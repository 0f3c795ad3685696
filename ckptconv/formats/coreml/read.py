"""Reader of Core ML's models: the constants of a program, or the weights of a neural network, as a state_dict.

    NAME.mlpackage/             a folder
      Manifest.json             which of the items in Data is the model
      Data/com.apple.CoreML/
        model.mlmodel           the model (`model`), a program (`program`) mostly
        weights/weight.bin      its larger constants
    NAME.mlmodel                the model in one file, a neural network (`network`) mostly, with its weights in it

    weight.bin                  u32 number of blobs, u32 version (2), up to byte 64
      blob, at a multiple of 64 u32 0xDEADBEEF, u32 type, u64 bytes, u64 offset of the bytes, u64 bits of padding

Names are the graph's (``fc_weight_to_fp16``), of several functions, and of the models of a pipeline, with their name
before them; what comes twice gets a number (``w#2``). The graph stays behind. Constants of one blob are ties. Elements
of fewer than 8 bits are packed, the first in the lowest bits; those of 1, 3 and 6 bits are bytes, with their type and
shape in the metadata (``packed``).

Refused by name: models without weights of a network (trees, support vector machines, …), compiled models (.mlmodelc).

Sources: coremltools/mlmodel/src/MILBlob/Blob (StorageFormat.hpp, BlobDataType.hpp), modelpackage/src/ModelPackage.cpp.
"""

from __future__ import annotations

from collections import Counter
from math import prod
from struct import Struct
from typing import TYPE_CHECKING

from ckptconv.core import strict_json
from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import MetaNode, StateDict
from ckptconv.core.notes import Notes, QuantizedWeight
from ckptconv.core.report import Finding
from ckptconv.core.tensor import ByteSpan, TensorInfo, in_file, in_memory
from ckptconv.errors import (
    COPY_ALL_AGAIN,
    CkptconvError,
    CorruptFileError,
    FileAccessError,
    LimitError,
    UnsupportedError,
    located,
)
from ckptconv.formats.coreml.model import NETWORKS, OTHERS, PROGRAM, Spec, bad, is_model, read_spec
from ckptconv.formats.coreml.network import FLOATS, HALVES, INT8, Weights, fitting, read_network
from ckptconv.formats.coreml.program import Constant, read_program
from ckptconv.formats.coreml.quantized import find_quantized
from ckptconv.formats.graphs.names import GraphNames
from ckptconv.formats.graphs.notes import PACKED_KEY, operator_counts, read_as_bytes, stays_behind
from ckptconv.formats.tensors.headers import header_info
from ckptconv.formats.tensors.shared_bytes import check_shared
from ckptconv.io.folder import Folder
from ckptconv.io.limits import MAX_CONFIG, MAX_DIM
from ckptconv.io.protobuf import Wire, signed

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.io.source import Source

DTYPES = {
    1: DType.BOOL, 10: DType.F16, 11: DType.F32, 12: DType.F64, 13: DType.BF16, 21: DType.I8, 22: DType.I16,
    23: DType.I32, 24: DType.I64, 25: DType.I4, 31: DType.U8, 32: DType.U16, 33: DType.U32, 34: DType.U64,
    35: DType.U4, 36: DType.U2,
    40: DType.F8_E4M3, 41: DType.F8_E5M2,
}  # fmt: skip
"""MIL's ``DataType``."""

PACKED = {37: ("uint1", 1), 38: ("uint6", 6), 39: ("uint3", 3)}
"""Types that are read as bytes: what they are called, and their bits."""

BLOB_TYPES = {
    10: 1, 11: 2, 31: 3, 21: 4, 13: 5, 22: 6, 32: 7, 25: 8, 37: 9, 36: 10, 35: 11, 39: 12, 38: 13, 23: 14, 33: 15,
    40: 16, 41: 17,
}  # fmt: skip
"""``BlobDataType``, by MIL's."""

MANIFEST, DATA = "Manifest.json", "Data"
BLOB = Struct("<2I3Q")
HEADER = Struct("<2I")
SENTINEL, BLOB_VERSION, BLOB_BYTES = 0xDEADBEEF, 2, 64
HOME = "@model_path/"
MAX_FOLDERS = 8
"""Folders in a path of the manifest's, or of the program's: they have one."""

FLOATING, INTS, BOOLS, LONGS, DOUBLES, BYTES = 1, 2, 3, 5, 6, 7
"""The fields of a TensorValue."""

MAX_VARINT = 10

MAX_INTS = 8 << 20
"""Bytes of integers in a program, which are read as it is opened: they are options of operators, and small tables."""


def claims(source: Source | Folder) -> bool:
    """Whether it starts as a model does, or is a package with a manifest."""
    if isinstance(source, Folder):
        return MANIFEST in source.names and DATA in source.folders
    if source.size < 4:
        return False
    try:
        return is_model(Wire(source, bad), source.size)
    except CkptconvError:
        return False


def read(source: Source | Folder) -> Checkpoint:
    """Open the model: its messages, and the header of each blob.

    Raises CorruptFileError, LimitError, UnsupportedError, FileAccessError (a file of the package is missing).
    """
    if not isinstance(source, Folder):
        home = Folder.around(source)
        return _Reader(source, home, home).read()
    home, name = _in_package(source)
    model = home.open(name)
    with located(model.path):
        return _Reader(model, home, source).read()


def _in_package(folder: Folder) -> tuple[Folder, str]:
    """The folder of the model, and its name in that."""
    manifest = folder.open(MANIFEST)
    with located(manifest.path):
        said = strict_json.object_of(manifest.read_all(MAX_CONFIG), "the manifest", hint=COPY_ALL_AGAIN)
        items, root = said.get("itemInfoEntries"), said.get("rootModelIdentifier")
        item = items.get(root) if isinstance(items, dict) and isinstance(root, str) else None
        path = item.get("path") if isinstance(item, dict) else None
        if not isinstance(path, str):
            raise CorruptFileError("the manifest names no model", hint=COPY_ALL_AGAIN)
    return _led_to(folder.inside(DATA), path)


def _led_to(folder: Folder, path: str) -> tuple[Folder, str]:
    """The folder to which a path leads, and the name of the file in it."""
    if path.count("/") > MAX_FOLDERS:
        raise LimitError(f"a path in it has more than {MAX_FOLDERS} folders: {path[:80]!r}", path=folder.path)
    *way, name = path.split("/")
    for part in way:
        folder = folder.inside(part)
    return folder, name


class _Reader:
    def __init__(self, source: Source, home: Folder, file: Folder) -> None:
        self.source, self.home, self.file = source, home, file
        self.wire = Wire(source, bad)
        self.tensors: dict[str, LazyTensor] = {}
        self.packed: dict[str, MetaNode] = {}
        self.stored: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.called: dict[int, str] = {}
        self.quantized: list[QuantizedWeight] = []
        self.operators: Counter[str] = Counter()
        self.names = GraphNames(source.size)
        self.blobs: dict[str, Source] = {}
        self.ints_left = MAX_INTS

    def read(self) -> Checkpoint:
        spec = read_spec(self.wire, self.names)
        for model in spec.models:
            if model.kind == PROGRAM:
                program = read_program(self.wire, model.place, model.scope, self.names)
                self.operators.update(program.operators)
                for constant in program.constants:
                    self._constant(self.names.unique(constant.name, self.tensors), constant)
                self.quantized += find_quantized(program.packed, self.called, self.tensors, self.stored, self._number)
            elif model.kind in NETWORKS:
                network = read_network(self.wire, model.place, model.scope, self.names)
                self.operators.update(network.layers)
                for weights in network.weights:
                    self._weights(weights)
        others = [OTHERS[model.kind] for model in spec.models if model.kind in OTHERS]
        if others and len(others) == len(spec.models):
            raise UnsupportedError(f"this Core ML model is {others[0]}", hint="there are no tensors in it")
        return self._checkpoint(spec, others)

    def _checkpoint(self, spec: Spec, others: list[str]) -> Checkpoint:
        check_shared(self.tensors.values(), self.source.size + sum(blob.size for blob in self.blobs.values()))
        noted: dict[str, MetaNode] = {
            "version": spec.version,
            "inputs": [{"name": name} for name in spec.inputs],
            "outputs": [{"name": name} for name in spec.outputs],
            **operator_counts(self.operators),
        }
        findings = [stays_behind(f"the graph of {noted['nodes']} nodes", "constants")]
        if others:
            message = f"models of the pipeline without tensors stay behind: {', '.join(others[:4])}"
            findings.append(Finding("models", "info", "", message))
        findings += read_as_bytes(self.packed)
        said = {**spec.said, **({PACKED_KEY: self.packed} if self.packed else {})}
        return Checkpoint(
            self.tensors, root={"state_dict": StateDict(), **said} if said else StateDict(), format="coreml",
            notes=Notes(source="coreml", graph=noted, quantized=tuple(self.quantized)), findings=tuple(findings),
            file=self.file,
        )  # fmt: skip

    def _number(self, constant: Constant) -> int:
        """A constant that is one whole number, which stands in the message."""
        start, stop = constant.place or (0, 0)
        if constant.kind != INTS or not 0 < stop - start <= MAX_VARINT:
            raise bad(f"{constant.name!r} is not a whole number")
        try:
            return signed(self.wire.varint(self.wire.read(start, stop), 0)[0])
        except IndexError:
            raise bad(f"{constant.name!r} is cut short") from None

    def _constant(self, name: str, constant: Constant) -> None:
        self.called[id(constant)] = name
        info = self._info(name, constant)
        if constant.file:
            span = self._blob(name, constant, info)
            self.tensors[name] = in_file(info, span, (id(span.file), span.offset, info))
        elif constant.kind in (INTS, LONGS, BOOLS):
            self.tensors[name] = in_memory(info, self._integers(name, constant, info), (id(self.source), name))
        else:
            assert constant.place is not None
            self._run(name, info, constant.place)

    def _info(self, name: str, constant: Constant) -> TensorInfo:
        if constant.code in PACKED:
            if prod(constant.shape) > MAX_DIM // 64:
                raise bad(f"{name!r} has the shape {list(constant.shape[:8])}")
            kind, bits = PACKED[constant.code]
            self.packed[name] = {"element_type": kind, "shape": list(constant.shape)}
            self.stored[name] = kind, constant.shape
            nbytes = -(-prod(constant.shape) * bits // 8)
            return TensorInfo(DType.U8, (nbytes,), nbytes)
        return header_info(repr(name), constant.code, constant.shape, dtypes=DTYPES, library="coremltools 9", bad=bad)

    def _run(self, name: str, info: TensorInfo, place: tuple[int, int]) -> None:
        """A tensor whose values stand in the message."""
        size, shape = place[1] - place[0], list(info.shape)
        if size != info.nbytes:
            raise bad(f"{name!r} holds {size:,} bytes, and {info.dtype} of shape {shape} takes {info.nbytes:,}")
        self.tensors[name] = in_file(info, ByteSpan(self.source, place[0], info.nbytes), (id(self.source), name))

    def _integers(self, name: str, constant: Constant, info: TensorInfo) -> bytes:
        """The image of integers that stand in the message as varints."""
        assert constant.place is not None
        start, stop = constant.place
        self.ints_left -= stop - start
        if self.ints_left < 0:
            raise LimitError(f"it has more than {MAX_INTS:,} bytes of integers beside its weights")
        data, numbers, at = self.wire.read(start, stop, MAX_INTS), bytearray(), 0
        width = info.dtype.bits // 8
        if not width or info.dtype.kind not in ("int", "uint", "bool") or info.numel > len(data):
            raise bad(f"{name!r} is {info.dtype} of shape {list(info.shape)}, and other values than that")
        if width == 1 and data.isascii():  # as all booleans are
            numbers, at = bytearray(data), len(data)
        while at < len(data):
            try:
                number, at = self.wire.varint(data, at)
            except IndexError:
                raise bad(f"the values of {name!r} are cut short") from None
            numbers += (number & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        if len(numbers) != info.nbytes:
            raise bad(f"{name!r} has {len(numbers) // width:,} values, and its shape {list(info.shape)} asks for "
                      f"{info.numel:,}")  # fmt: skip
        return bytes(numbers)

    def _blob(self, name: str, constant: Constant, info: TensorInfo) -> ByteSpan:
        file = self._open(name, constant.file)
        if constant.offset % BLOB_BYTES or constant.offset > file.size - BLOB_BYTES:
            raise bad(
                f"{name!r} is said to be at byte {constant.offset:,} of {file.path.name!r}, which has {file.size:,}"
            )
        sentinel, kind, size, offset, _ = BLOB.unpack(file.read_at(constant.offset, BLOB.size))
        if sentinel != SENTINEL or kind != BLOB_TYPES.get(constant.code):
            raise bad(f"there is no blob of its type for {name!r} at byte {constant.offset:,} of {file.path.name!r}")
        if size != info.nbytes:
            raise bad(
                f"{name!r} has {size:,} bytes, and {info.dtype} of shape {list(info.shape)} takes {info.nbytes:,}"
            )
        if size > file.size or offset > file.size - size:
            raise bad(f"{name!r} ends at byte {offset + size:,} of {file.path.name!r}, which has {file.size:,}")
        return ByteSpan(file, offset, size)

    def _open(self, name: str, said: str) -> Source:
        """The file that a path in the program leads to."""
        if said not in self.blobs:
            if not said.startswith(HOME):
                raise UnsupportedError(
                    f"{name!r} is said to be in {said[:200]!r}, which is not inside of the package",
                    hint="do not trust this model: it names files elsewhere",
                )
            folder, file = _led_to(self.home, said.removeprefix(HOME))
            try:
                opened = folder.open(file)
            except FileAccessError as error:
                message = f"{name!r} is in {said!r}, which does not open: {error.message}"
                raise FileAccessError(message, hint="a model is moved together with its weights") from error
            _, version = HEADER.unpack(opened.read_at(0, HEADER.size)) if opened.size >= BLOB_BYTES else (0, 0)
            if version != BLOB_VERSION:
                raise bad(f"{file!r} is not a file of weights of version {BLOB_VERSION}")
            self.blobs[said] = opened
        return self.blobs[said]

    def _weights(self, weights: Weights) -> None:
        """The weights of a layer, quantized ones with what they are quantized by."""
        name, size = self.names.unique(weights.name, self.tensors), weights.place[1] - weights.place[0]
        if weights.kind in (FLOATS, HALVES):
            dtype = DType.F32 if weights.kind == FLOATS else DType.F16
            count = size * 8 // dtype.bits
            self._run(name, TensorInfo.of(dtype, fitting(weights.shape, count)), weights.place)
            return
        whole = weights.bits in (0, 8) or weights.kind == INT8
        dtype, shape = (
            DType.I8 if weights.kind == INT8 else DType.U8,
            fitting(weights.shape, size) if whole else (size,),
        )
        if not whole:
            self.packed[name] = {"bits": weights.bits, "shape": list(weights.shape)}
        self._run(name, TensorInfo.of(dtype, shape), weights.place)
        for role, place in weights.parts.items():
            part = self.names.unique(self.names.join(name, ".", role), self.tensors)
            self._run(part, TensorInfo.of(DType.F32, ((place[1] - place[0]) // 4,)), place)
