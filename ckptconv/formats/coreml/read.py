"""Reader of Core ML: the constants of a program, or the weights of a neural network, as a state_dict.

    NAME.mlpackage/             a folder
      Manifest.json             which item in Data is the model
      Data/com.apple.CoreML/
        model.mlmodel           the model (`model`), usually a program (`program`)
        weights/weight.bin      its larger constants
    NAME.mlmodel                the model in one file, usually a neural network (`network`), with its weights inside

    weight.bin                  u32 number of blobs, u32 version (2), padding up to byte 64
      blob, at a multiple of 64 u32 0xDEADBEEF, u32 type, u64 bytes, u64 offset of the bytes, u64 bits of padding

Names are the graph's (``fc_weight_to_fp16``). If there are several functions, or the models of a pipeline, their names
are prefixes. A name that occurs twice gets a number (``w#2``). The graph stays behind. Constants of one blob are ties.
Elements of fewer than 8 bits are packed, the first in the lowest bits; those of 1, 3 and 6 bits are read as bytes, with
their type and shape in the metadata (``packed``).

Refused by name: models that are not networks (trees, support vector machines, …), and compiled models (.mlmodelc).

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
from ckptconv.formats.coreml.network import FLOATS, HALVES, INT8, Weights, fit_shape, read_network
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
"""Types that are read as bytes: their names and bits."""

BLOB_TYPES = {
    10: 1, 11: 2, 31: 3, 21: 4, 13: 5, 22: 6, 32: 7, 25: 8, 37: 9, 36: 10, 35: 11, 39: 12, 38: 13, 23: 14, 33: 15,
    40: 16, 41: 17,
}  # fmt: skip
"""``BlobDataType``, by MIL's ``DataType``."""

MANIFEST, DATA = "Manifest.json", "Data"
BLOB = Struct("<2I3Q")
HEADER = Struct("<2I")
SENTINEL, BLOB_VERSION, BLOB_BYTES = 0xDEADBEEF, 2, 64
HOME = "@model_path/"
MAX_FOLDERS = 8
"""The most folders in a path in the manifest or the program; real ones have one."""

FLOATING, INTS, BOOLS, LONGS, DOUBLES, BYTES = 1, 2, 3, 5, 6, 7
"""The fields of a TensorValue."""

MAX_VARINT = 10

MAX_INTS = 8 << 20
"""The most bytes of integers in a program, which are read when it is opened: options of operators, and small tables."""


def claims(source: Source | Folder) -> bool:
    """Whether it starts like a model, or is a package with a manifest."""
    if isinstance(source, Folder):
        return MANIFEST in source.names and DATA in source.folders
    if source.size < 4:
        return False
    try:
        return is_model(Wire(source, bad), source.size)
    except CkptconvError:
        return False


def read(source: Source | Folder) -> Checkpoint:
    """Open the model: read its messages, and the header of each blob.

    Raises CorruptFileError, LimitError, UnsupportedError, and FileAccessError if a file of the package is missing.
    """
    if not isinstance(source, Folder):
        home = Folder.around(source)
        return _Reader(source, home, home).read()
    home, name = _find_model(source)
    model = home.open(name)
    with located(model.path):
        return _Reader(model, home, source).read()


def _find_model(folder: Folder) -> tuple[Folder, str]:
    """The folder of a package's model, and the name of its file."""
    manifest = folder.open(MANIFEST)
    with located(manifest.path):
        document = strict_json.object_of(manifest.read_all(MAX_CONFIG), "the manifest", hint=COPY_ALL_AGAIN)
        items, root = document.get("itemInfoEntries"), document.get("rootModelIdentifier")
        item = items.get(root) if isinstance(items, dict) and isinstance(root, str) else None
        path = item.get("path") if isinstance(item, dict) else None
        if not isinstance(path, str):
            raise CorruptFileError("the manifest names no model", hint=COPY_ALL_AGAIN)
    return _follow_path(folder.inside(DATA), path)


def _follow_path(folder: Folder, path: str) -> tuple[Folder, str]:
    """The folder that a path leads to, and the name of the file in it."""
    if path.count("/") > MAX_FOLDERS:
        raise LimitError(f"a path in it has more than {MAX_FOLDERS} folders: {path[:80]!r}", path=folder.path)
    *parents, name = path.split("/")
    for parent in parents:
        folder = folder.inside(parent)
    return folder, name


class _Reader:
    """Reads one model.

    home:    the folder of the model's file.
    file:    the folder that the checkpoint keeps open.
    packed:  the metadata about tensors that are read as bytes, by name.
    stored:  the types and shapes of those tensors, by name.
    name_of: the tensors' names, by the `id` of the program's constant.
    """

    def __init__(self, source: Source, home: Folder, file: Folder) -> None:
        self.source, self.home, self.file = source, home, file
        self.wire = Wire(source, bad)
        self.tensors: dict[str, LazyTensor] = {}
        self.packed: dict[str, MetaNode] = {}
        self.stored: dict[str, tuple[str, tuple[int, ...]]] = {}
        self.name_of: dict[int, str] = {}
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
                    self._add_constant(self.names.unique(constant.name, self.tensors), constant)
                self.quantized += find_quantized(
                    program.packed, self.name_of, self.tensors, self.stored, self._read_number
                )
            elif model.kind in NETWORKS:
                network = read_network(self.wire, model.place, model.scope, self.names)
                self.operators.update(network.layers)
                for weights in network.weights:
                    self._add_weights(weights)
        others = [OTHERS[model.kind] for model in spec.models if model.kind in OTHERS]
        if others and len(others) == len(spec.models):
            raise UnsupportedError(f"this Core ML model is {others[0]}", hint="there are no tensors in it")
        return self._checkpoint(spec, others)

    def _checkpoint(self, spec: Spec, others: list[str]) -> Checkpoint:
        check_shared(self.tensors.values(), self.source.size + sum(blob.size for blob in self.blobs.values()))
        facts: dict[str, MetaNode] = {
            "version": spec.version,
            "inputs": [{"name": name} for name in spec.inputs],
            "outputs": [{"name": name} for name in spec.outputs],
            **operator_counts(self.operators),
        }
        findings = [stays_behind(f"the graph of {facts['nodes']} nodes", "constants")]
        if others:
            message = f"models of the pipeline without tensors stay behind: {', '.join(others[:4])}"
            findings.append(Finding("models", "info", "", message))
        findings += read_as_bytes(self.packed)
        metadata = {**spec.metadata, PACKED_KEY: self.packed} if self.packed else spec.metadata
        return Checkpoint(
            self.tensors, root={"state_dict": StateDict(), **metadata} if metadata else StateDict(), format="coreml",
            notes=Notes(source="coreml", graph=facts, quantized=tuple(self.quantized)), findings=tuple(findings),
            file=self.file,
        )  # fmt: skip

    def _read_number(self, constant: Constant) -> int:
        """Read a constant that is one integer, in the message."""
        start, stop = constant.place or (0, 0)
        if constant.kind != INTS or not 0 < stop - start <= MAX_VARINT:
            raise bad(f"{constant.name!r} is not a whole number")
        try:
            return signed(self.wire.varint(self.wire.read(start, stop), 0)[0])
        except IndexError:
            raise bad(f"{constant.name!r} is cut short") from None

    def _add_constant(self, name: str, constant: Constant) -> None:
        self.name_of[id(constant)] = name
        info = self._info(name, constant)
        if constant.file:
            span = self._blob(name, constant, info)
            self.tensors[name] = in_file(info, span, (id(span.file), span.offset, info))
        elif constant.kind in (INTS, LONGS, BOOLS):
            self.tensors[name] = in_memory(info, self._read_integers(name, constant, info), (id(self.source), name))
        else:
            assert constant.place is not None
            self._add_from_message(name, info, constant.place)

    def _info(self, name: str, constant: Constant) -> TensorInfo:
        """The type and shape of a constant; of one that is read as bytes, also noted in `packed` and `stored`."""
        if constant.code in PACKED:
            if prod(constant.shape) > MAX_DIM // 64:
                raise bad(f"{name!r} has the shape {list(constant.shape[:8])}")
            kind, bits = PACKED[constant.code]
            self.packed[name] = {"element_type": kind, "shape": list(constant.shape)}
            self.stored[name] = kind, constant.shape
            nbytes = -(-prod(constant.shape) * bits // 8)
            return TensorInfo(DType.U8, (nbytes,), nbytes)
        return header_info(repr(name), constant.code, constant.shape, dtypes=DTYPES, library="coremltools 9", bad=bad)

    def _add_from_message(self, name: str, info: TensorInfo, place: tuple[int, int]) -> None:
        """Add a tensor whose bytes are in the message."""
        size, shape = place[1] - place[0], list(info.shape)
        if size != info.nbytes:
            raise bad(f"{name!r} holds {size:,} bytes, and {info.dtype} of shape {shape} takes {info.nbytes:,}")
        self.tensors[name] = in_file(info, ByteSpan(self.source, place[0], info.nbytes), (id(self.source), name))

    def _read_integers(self, name: str, constant: Constant, info: TensorInfo) -> bytes:
        """The bytes of integers that are varints in the message."""
        assert constant.place is not None
        start, stop = constant.place
        self.ints_left -= stop - start
        if self.ints_left < 0:
            raise LimitError(f"it has more than {MAX_INTS:,} bytes of integers beside its weights")
        data, numbers, at = self.wire.read(start, stop, MAX_INTS), bytearray(), 0
        width = info.dtype.bits // 8
        if not width or info.dtype.kind not in ("int", "uint", "bool") or info.numel > len(data):
            raise bad(f"{name!r} is {info.dtype} of shape {list(info.shape)}, and other values than that")
        if width == 1 and data.isascii():  # each varint is one byte, as all booleans are
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
            raise bad(f"{name!r} should be at byte {constant.offset:,} of {file.path.name!r}, which has {file.size:,}")
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

    def _open(self, name: str, path: str) -> Source:
        """Open the file that a path in the program leads to. `name`: of the constant, for errors."""
        if path not in self.blobs:
            if not path.startswith(HOME):
                raise UnsupportedError(
                    f"{name!r} should be in {path[:200]!r}, which is not inside the package",
                    hint="do not trust this model: it names files elsewhere",
                )
            folder, file = _follow_path(self.home, path.removeprefix(HOME))
            try:
                opened = folder.open(file)
            except FileAccessError as error:
                message = f"{name!r} is in {path!r}, which does not open: {error.message}"
                raise FileAccessError(message, hint="a model is moved together with its weights") from error
            _, version = HEADER.unpack(opened.read_at(0, HEADER.size)) if opened.size >= BLOB_BYTES else (0, 0)
            if version != BLOB_VERSION:
                raise bad(f"{file!r} is not a file of weights of version {BLOB_VERSION}")
            self.blobs[path] = opened
        return self.blobs[path]

    def _add_weights(self, weights: Weights) -> None:
        """Add the weights of a layer; if they are quantized, also their scales, biases or table."""
        name, size = self.names.unique(weights.name, self.tensors), weights.place[1] - weights.place[0]
        if weights.kind in (FLOATS, HALVES):
            dtype = DType.F32 if weights.kind == FLOATS else DType.F16
            shape = fit_shape(weights.shape, size * 8 // dtype.bits)
        else:
            dtype = DType.I8 if weights.kind == INT8 else DType.U8
            if weights.bits in (0, 8) or weights.kind == INT8:
                shape = fit_shape(weights.shape, size)
            else:
                shape = (size,)
                self.packed[name] = {"bits": weights.bits, "shape": list(weights.shape)}
        self._add_from_message(name, TensorInfo.of(dtype, shape), weights.place)
        if weights.kind in (FLOATS, HALVES):
            return
        for role, (start, stop) in weights.parts.items():
            part = self.names.unique(self.names.join(name, ".", role), self.tensors)
            self._add_from_message(part, TensorInfo.of(DType.F32, ((stop - start) // 4,)), (start, stop))
