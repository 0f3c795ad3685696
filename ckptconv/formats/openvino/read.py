"""Reader of OpenVINO's IR: the constants of a model's graphs as a state_dict. The graphs stay behind.

    NAME.xml    the graph (`document`): of each constant its element type, shape, offset and size
    NAME.bin    the bytes of the constants, little-endian; equal ones are stored once

In a folder, the model is ``openvino_model.xml``, optimum-intel's name for it, or else the only such pair of files.

Names are the graph's. One that occurs twice gets a number (``w#2``); constants in the body of a loop or a branch have
the operator's name as a prefix. A constant ``w_compressed`` that only feeds a Convert ``w`` which OpenVINO marks as a
decompression is called ``w``, and keeps the type in which it is stored. Shapes and axes are constants too, like
weights. Constants with the same bytes, type and shape are ties: OpenVINO's writer stores equal ones once. Their total
size is limited by the size of the file.

Elements of fewer than 8 bits are packed, the first in the lowest bits. NF4, and elements of 1, 3 and 6 bits, which are
packed differently, are read as bytes; the metadata has their type and shape under ``packed``. Texts become metadata.

Sources: openvino/src/core/src/op/constant.cpp, type/element_iterator.hpp, runtime/string_aligned_buffer.cpp;
optimum/intel/openvino/utils.py.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise
from math import prod
from struct import iter_unpack
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import MetaNode, StateDict
from ckptconv.core.names import free_key
from ckptconv.core.notes import Notes
from ckptconv.core.tensor import ByteSpan, TensorInfo, in_file
from ckptconv.errors import FileAccessError, LimitError, UnsupportedError, located
from ckptconv.formats.graphs.names import GraphNames
from ckptconv.formats.graphs.notes import PACKED_KEY, operator_counts, read_as_bytes, stays_behind, without_empty
from ckptconv.formats.openvino.document import Layer, Net, bad, number_in, parse
from ckptconv.formats.openvino.quantized import find_quantized
from ckptconv.formats.tensors.headers import header_info
from ckptconv.formats.tensors.shared_bytes import check_shared
from ckptconv.formats.tensors.texts import MAX_TEXT_RANK, nested_texts
from ckptconv.io.folder import Folder
from ckptconv.io.limits import MAX_DIM, MAX_OPENVINO_TEXT, MAX_RANK

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.io.source import Source

DTYPES: dict[str, DType] = {
    "f64": DType.F64, "f32": DType.F32, "f16": DType.F16, "bf16": DType.BF16, "f8e4m3": DType.F8_E4M3,
    "f8e5m2": DType.F8_E5M2, "f8e8m0": DType.F8_E8M0, "f4e2m1": DType.F4, "boolean": DType.BOOL,
    "i64": DType.I64, "i32": DType.I32, "i16": DType.I16, "i8": DType.I8, "i4": DType.I4,
    "u64": DType.U64, "u32": DType.U32, "u16": DType.U16, "u8": DType.U8, "u4": DType.U4, "u2": DType.U2,
}  # fmt: skip
"""The element types, by `element_type`."""

PACKED = {"u1": (8, 1), "u3": (8, 3), "u6": (4, 3), "nf4": (2, 1)}
"""The types that are read as bytes: how many elements are in how many bytes."""

STRING = "string"
SUFFIX, WEIGHTS = ".xml", ".bin"
_STATE_DICT = "state_dict"
USUAL = "openvino_model.xml"
TEXT_A_BYTE, FREE_TEXT = 4, 1 << 20
"""All texts together may have so many bytes per byte of the weights, and so many more: constants may share their bytes,
which are read for each.
"""

_COMPRESSED = "_compressed"
_TOKENIZERS = ("openvino_tokenizer.xml", "openvino_detokenizer.xml")

_START = re.compile(rb"(?:\xef\xbb\xbf)?(?:<\?xml[^>]*+>)?\s*+(?:<!--(?:(?!-->).)*+-->\s*+)*+<net[\s>]", re.DOTALL)
_NEAR = 4096
_HINT = "an OpenVINO model is moved together with its .bin"


def claims(source: Source | Folder) -> bool:
    """Whether the root element is <net>, or this is a folder with such a file and its weights."""
    if isinstance(source, Folder):
        name = _model_in(source)
        return name is not None and claims(source.open(name))
    return _START.match(bytes(source.read_at(0, min(_NEAR, source.size)))) is not None


def read(source: Source | Folder) -> Checkpoint:
    """Open the model: read the document, and of the weights only texts.

    Raises CorruptFileError, LimitError, UnsupportedError, and FileAccessError if the weights are missing.
    """
    if not isinstance(source, Folder):
        return _Reader(Folder.around(source), source.path.name).read(source)
    name = _model_in(source)
    if name is None:
        raise UnsupportedError("there is no .xml with a .bin of the same name in it", hint="name a file in it")
    document = source.open(name)
    with located(document.path):
        return _Reader(source, name).read(document)


def _model_in(folder: Folder) -> str | None:
    """The name of a folder's model; None if there is none, or several."""
    names = set(folder.names)
    pairs = [name for name in folder.names if name.endswith(SUFFIX) and f"{name[: -len(SUFFIX)]}{WEIGHTS}" in names]
    models = [name for name in pairs if name not in _TOKENIZERS]
    if USUAL in models:
        return USUAL
    return models[0] if len(models) == 1 else None


class _Reader:
    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.file = folder, f"{name.removesuffix(SUFFIX)}{WEIGHTS}"
        self.tensors: dict[str, LazyTensor] = {}
        self.strings: dict[str, MetaNode] = {}
        self.packed: dict[str, MetaNode] = {}
        self.names: dict[int, str] = {}
        self.text_read = 0
        self.taken: set[str] = set()

    def read(self, document: Source) -> Checkpoint:
        names = GraphNames(document.size)
        net = parse(document, names)
        decompressed = {layer.name for layer in net.layers if layer.decompresses and layer.type == "Convert"}
        for layer in net.layers:
            if layer.type == "Const":
                plain = layer.name.removesuffix(_COMPRESSED)
                self._add_constant(names.unique(plain if plain in decompressed else layer.name, self.taken), layer)
        if self.tensors:
            check_shared(self.tensors.values(), self.folder.open(self.file).size)
        facts = _graph_facts(net)
        findings = (stays_behind(f"the graph of {facts['nodes']} nodes", "constants"), *read_as_bytes(self.packed))
        return Checkpoint(
            self.tensors, root=self._root(net), format="openvino",
            notes=Notes(source="openvino", graph=facts, quantized=find_quantized(net, self.names)),
            findings=findings, file=self.folder,
        )  # fmt: skip

    def _add_constant(self, name: str, layer: Layer) -> None:
        self.taken.add(name)
        self.names[layer.number] = name
        kind, shape = layer.data.get("element_type", "").lower(), _shape(name, layer.data.get("shape", ""))
        offset, size = (_number(name, key, layer.data.get(key, "")) for key in ("offset", "size"))
        if kind == STRING:
            self.strings[name] = self._read_texts(name, shape, self._span(name, offset, size))
            return
        info = _info(name, kind, shape)
        if size != info.nbytes and info.nbytes:  # for an empty constant, OpenVINO stores a byte
            raise bad(f"{name!r} has {size:,} bytes, and {kind} of shape {list(shape)} takes {info.nbytes:,}")
        if kind in PACKED:
            self.packed[name] = {"element_type": kind, "shape": list(shape)}
        span = self._span(name, offset, info.nbytes)
        self.tensors[name] = in_file(info, span, (span, info) if info.nbytes else (id(self.folder), name))

    def _span(self, name: str, offset: int, size: int) -> ByteSpan:
        try:
            data = self.folder.open(self.file)
        except FileAccessError as error:
            message = f"its weights are in {self.file!r}, which does not open: {error.message}"
            raise FileAccessError(message, hint=_HINT) from error
        if offset > data.size or size > data.size - offset:
            raise bad(f"{name!r} ends at byte {offset + size:,} of {self.file!r}, which has {data.size:,}")
        return ByteSpan(data, offset, size)

    def _read_texts(self, name: str, shape: tuple[int, ...], span: ByteSpan) -> MetaNode:
        """Read a constant of texts: their number, where each begins and the last ends, all as i32; then the bytes."""
        self.text_read += span.length
        file_size = self.folder.open(self.file).size
        limit = min(MAX_OPENVINO_TEXT, TEXT_A_BYTE * file_size + FREE_TEXT)
        if self.text_read > limit:
            raise LimitError(f"its texts have more than {limit:,} bytes, of a file of {file_size:,}")
        if len(shape) > MAX_TEXT_RANK:
            raise LimitError(f"{name!r} has {len(shape)} dimensions of texts")
        data, count = bytes(span.file.read_at(span.offset, span.length)), prod(shape)
        header = 4 * (count + 2)
        if header > len(data) or int.from_bytes(data[:4], "little") != count:
            raise bad(f"{name!r} of shape {list(shape)} has other texts than these")
        bounds = [bound for (bound,) in iter_unpack("<i", data[4:header])]
        if bounds[0] != 0 or bounds != sorted(bounds) or header + bounds[-1] > len(data):
            raise bad(f"the texts of {name!r} lie outside of it")
        texts = [data[header + start : header + stop] for start, stop in pairwise(bounds)]
        return nested_texts(texts, shape) if texts else []

    def _root(self, net: Net) -> MetaNode:
        own: dict[str, MetaNode] = {"strings": self.strings, PACKED_KEY: self.packed}
        metadata = {key: value for key, value in own.items() if value}
        for key, value in net.rt_info.items():  # the file's own names, which may clash with ours
            if value:
                metadata[free_key(key, {_STATE_DICT, *own, *metadata})] = value
        return {_STATE_DICT: StateDict(), **metadata} if metadata else StateDict()


def _info(name: str, kind: str, shape: tuple[int, ...]) -> TensorInfo:
    if kind in PACKED:
        count = prod(shape)
        if count > MAX_DIM // 64:
            raise bad(f"{name!r} has the shape {list(shape[:8])}")
        elements, group_bytes = PACKED[kind]
        nbytes = -(-count // elements) * group_bytes
        return TensorInfo(DType.U8, (nbytes,), nbytes)
    return header_info(repr(name), kind, shape, dtypes=DTYPES, library="OpenVINO 2026.4", bad=bad)


def _shape(name: str, text: str) -> tuple[int, ...]:
    if text.count(",") >= MAX_RANK:
        raise LimitError(f"{name!r} has more than {MAX_RANK} dimensions")
    if not text.strip():
        return ()
    return tuple(_number(name, "shape", size.strip()) for size in text.split(","))


def _number(name: str, key: str, text: str) -> int:
    number = number_in(text)
    if number is None:
        raise bad(f"the {key} of {name!r} is {text[:40]!r}, and no number")
    return number


def _graph_facts(net: Net) -> dict[str, MetaNode]:
    """What `inspect` shows of the graph: its operators, inputs and outputs."""
    operators = Counter(layer.type for layer in net.layers if layer.type not in ("Const", "Parameter", "Result"))
    outer = [layer for layer in net.layers if not layer.scope]
    facts: dict[str, MetaNode] = {
        "name": net.name,
        "version": net.version,
        "inputs": [_input(layer) for layer in outer if layer.type == "Parameter"],
        "outputs": [_value(layer, layer.precision, layer.dims) for layer in outer if layer.type == "Result"],
        **operator_counts(operators),
    }
    return without_empty(facts)


def _input(layer: Layer) -> dict[str, MetaNode]:
    sizes = layer.data.get("shape", "").split(",", MAX_RANK)[:MAX_RANK]
    return _value(layer, layer.data.get("element_type", ""), sizes)


def _value(layer: Layer, kind: str, sizes: list[str]) -> dict[str, MetaNode]:
    """The name, type and shape of an input or output; open dimensions are None."""
    dtype = DTYPES[kind.lower()].name if kind.lower() in DTYPES else kind.upper().replace("FP", "F")
    shape: list[MetaNode] = [number_in(size.strip()) for size in sizes if size.strip()]
    return {"name": layer.names or layer.name, "dtype": dtype, "shape": shape}
