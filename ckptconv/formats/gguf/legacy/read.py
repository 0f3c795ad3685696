"""Reader of ggml's files that predate GGUF: whisper.cpp's, and until August 2023 llama.cpp's and ggml's examples'.

    magic, version, hyperparameters, tokens     `layouts`
    tensors, to the end of the file:
        i32 i32 i32    number of dimensions (at most 4), length of the name, ggml type
        i32 …          dimensions from the innermost to the outermost
        bytes          name
        padding        in "ggjt" files, to a multiple of 32
        bytes          elements, or blocks

The layout is found by trying: the right one's tokens end where a tensor begins. Hyperparameters and tokens are
metadata, Whisper's filters an extra. The order of dimensions is reversed, as for a GGUF. The biases of convolutions,
which whisper.cpp stores as columns, get the single dimension that they have in Whisper.

The bits of quantized blocks changed twice in May 2023. Blocks are read from "ggjt" files of version 3 on, from
rwkv.cpp's of version 101 on, and from others whose ``ftype`` states the second change (≥ 2000). Older blocks, and types
that ggml has removed, are refused by name, as by llama.cpp's own converter.

Sources: those of `layouts`; ggml.h (``GGML_QNT_VERSION``).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, NamedTuple

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import BLOCKS, DType
from ckptconv.core.metadata import MetaNode, StateDict, TensorRef
from ckptconv.core.notes import Notes
from ckptconv.core.tensor import ByteSpan, LazyTensor, TensorInfo, in_file
from ckptconv.errors import CkptconvError, LimitError, UnsupportedError
from ckptconv.formats.gguf.layout import DTYPE_BY_CODE, MAX_RANK, REMOVED
from ckptconv.formats.gguf.legacy.layouts import GGML, LAYOUTS, Head, Layout, bad
from ckptconv.io.forward import Forward
from ckptconv.io.limits import MAX_DIM, MAX_GGUF_HEADER, MAX_TENSORS

if TYPE_CHECKING:
    from ckptconv.io.source import Source

WHISPER, COLUMNS = "whisper", ("encoder.conv1.bias", "encoder.conv2.bias")

MAX_NAME = 256
ALIGNMENT = 32
QUANTIZATION, CURRENT = 1000, 2
"""``GGML_QNT_VERSION_FACTOR`` and ``GGML_QNT_VERSION``: the ``ftype`` of current blocks is in the two thousands."""

_RWKV = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q5_0", 8: "Q5_1", 9: "Q8_0", 10: "Q8_1", 11: "Q2_K", 12: "Q3_K",
    13: "Q4_K", 14: "Q5_K", 15: "Q6_K", 16: "Q8_K",
}  # fmt: skip
_BY_NAME = {dtype.name: dtype for dtype in DTYPE_BY_CODE.values()}
DTYPES: dict[str, dict[int, DType]] = {
    "ggml": DTYPE_BY_CODE,
    "rwkv": {code: _BY_NAME[name] for code, name in _RWKV.items()},
}
"""The dtypes by number, for each of `Layout.codes`: rwkv.cpp has numbers of its own."""


def claims(source: Source) -> bool:
    """Whether the file starts with one of the magics, and has room for a number behind it."""
    return source.size >= 8 and bytes(source.read_at(0, 4)) in {layout.magic for layout in LAYOUTS}


def read(source: Source) -> Checkpoint:
    """Open the file. Reads what comes before the tensors, and the header of each tensor.

    Raises CorruptFileError, LimitError, and UnsupportedError for unknown models and old blocks.
    """
    fit = _find_layout(source)
    tensors = _Tensors(fit.layout, fit.head, _stream(source, fit.end)).read()
    extras = {name: _extra(source, name, *place) for name, place in fit.head.arrays.items()}
    metadata: dict[str, MetaNode] = {
        "layout": fit.layout.name, **fit.head.values, **{name: TensorRef(name) for name in extras}
    }  # fmt: skip
    return Checkpoint(
        tensors, extras=extras, root={"state_dict": StateDict(), **metadata}, format="ggml", notes=Notes(source="ggml"),
        file=source,
    )  # fmt: skip


def _extra(source: Source, name: str, shape: tuple[int, ...], start: int) -> LazyTensor:
    info = TensorInfo.of(DType.F32, shape)
    return in_file(info, ByteSpan(source, start, info.nbytes), (id(source), "extras", name))


def _stream(source: Source, at: int) -> Forward:
    return Forward(source, at, bad, MAX_GGUF_HEADER)


class _Fit(NamedTuple):
    """A layout that fits the file: what it reads before the tensors, where that ends, the first tensor's name."""

    layout: Layout
    head: Head
    end: int
    first: str


def _find_layout(source: Source) -> _Fit:
    """The layout that fits best. Raises CorruptFileError without a magic, UnsupportedError if no layout fits."""
    if not claims(source):
        raise bad("its magic is missing")
    magic = bytes(source.read_at(0, 4))
    version = int.from_bytes(source.read_at(4, 4), "little")
    possible = [layout for layout in LAYOUTS if layout.magic == magic and layout.version in (None, version)]
    if not possible:
        raise UnsupportedError(
            f"version {version:,} of this ggml file is not read", hint="convert the model again, to GGUF"
        )
    fits = [fit for layout in possible if (fit := _try_layout(layout, source)) is not None]
    if not fits:
        names = ", ".join(dict.fromkeys(layout.name for layout in possible))
        raise UnsupportedError(
            f"this ggml file is of a model that is not known here, or cut short before its tensors; known: {names}",
            hint="where it should be one of them, copy it again; else convert the model again, to GGUF",
        )
    knows_name = [fit for fit in fits if fit.first.startswith(fit.layout.first)]
    return (knows_name or fits)[0]


def _try_layout(layout: Layout, source: Source) -> _Fit | None:
    stream, head = _stream(source, 4 if layout.magic == GGML else 8), Head()
    try:
        for step in layout.steps:
            step(stream, head)
        end = stream.at
        first = _read_row(stream).name if stream.left else ""
    except CkptconvError:
        return None
    return _Fit(layout, head, end, first)


class _Row(NamedTuple):
    """The header of a tensor; dimensions from the innermost on."""

    name: str
    dims: tuple[int, ...]
    code: int


def _read_row(stream: Forward) -> _Row:
    rank = stream.count("the number of dimensions of a tensor", MAX_RANK)
    length = stream.count("the length of a tensor's name", MAX_NAME)
    code = stream.count("the type of a tensor", 1 << 16)
    dims = tuple(stream.count("a dimension of a tensor", MAX_DIM) for _ in range(rank))
    name = stream.take(length).decode("utf-8", "replace")
    if not name or not name.isprintable() or "\ufffd" in name:
        raise bad(f"a tensor is called {name!r}")
    return _Row(name, dims, code)


class _Tensors:
    """Reads the headers of all tensors, from the stream's place to the end of the file."""

    def __init__(self, layout: Layout, head: Head, stream: Forward) -> None:
        self.layout, self.stream = layout, stream
        self.dtypes = DTYPES[layout.codes]
        self.has_current_blocks = layout.quantized
        if self.has_current_blocks is None:
            ftype = head.values.get("ftype", 0)
            self.has_current_blocks = isinstance(ftype, int) and ftype // QUANTIZATION == CURRENT

    def read(self) -> dict[str, LazyTensor]:
        """The tensors by name, in the order of the file."""
        stream, tensors = self.stream, dict[str, LazyTensor]()
        while stream.left:
            name, dims, code = _read_row(stream)
            if name in tensors:
                raise bad(f"the tensor {name!r} comes twice")
            if len(tensors) >= MAX_TENSORS:
                raise LimitError(f"it has more than {MAX_TENSORS:,} tensors")
            info = self._info(name, dims, code)
            if self.layout.aligned:
                stream.skip(-stream.at % ALIGNMENT)
            if info.nbytes > stream.left:
                raise bad(f"{name!r} runs {info.nbytes - stream.left:,} bytes past the end of the file")
            span = stream.span(info.nbytes)
            tensors[name] = in_file(info, span, (id(stream.source), name))
        return tensors

    def _info(self, name: str, dims: tuple[int, ...], code: int) -> TensorInfo:
        dtype = self.dtypes.get(code)
        if dtype is None:
            removed = self.layout.codes == "ggml" and code in REMOVED
            was = f" ({REMOVED[code]}, which ggml has removed)" if removed else ""
            raise UnsupportedError(f"{name!r} has the ggml type {code}{was}, which is not known", hint=_REQUANTIZE)
        if dtype.name in BLOCKS and not self.has_current_blocks:
            raise UnsupportedError(
                f"{name!r} is {dtype} of before May 2023, whose blocks had other bits than now", hint=_REQUANTIZE
            )
        if prod(dims) * dtype.bits > MAX_DIM:
            raise bad(f"{name!r} has dimensions out of range")
        if dtype.block > 1 and (not dims or dims[0] % dtype.block):
            raise bad(f"{name!r} has rows that are not a whole number of {dtype} blocks of {dtype.block}")
        if self.layout.name == WHISPER and name in COLUMNS and dims[:1] == (1,):
            dims = dims[1:]
        return TensorInfo.of(dtype, dims[::-1])


_REQUANTIZE = "name the file of F16 or F32 that it was quantized from, or quantize the model again"
