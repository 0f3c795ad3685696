"""Reader of ggml's files of before GGUF: whisper.cpp's, and those of llama.cpp and ggml's examples until August 2023.

    magic, version, hyperparameters, tokens     `layouts`
    tensors, to the end of the file:
        i32 i32 i32    number of dimensions (at most 4), length of the name, ggml type
        i32 …          dimensions from the innermost to the outermost
        bytes          name
        padding        in files of "ggjt" to a multiple of 32
        bytes          elements, or blocks

Which model it is of is found by trying: a layout is right whose tokens end where a tensor begins. Hyperparameters and
tokens are metadata, Whisper's filters an extra. Shapes are turned round, as those of a GGUF are; the biases of
convolutions, which whisper.cpp keeps as columns, have the one dimension that they have in Whisper.

The bits of quantized types changed in May 2023, twice: blocks are read of "ggjt" from version 3 on, of rwkv.cpp's from
101 on, and else where the file's type says that they are of the second change (``ftype`` ≥ 2000). Older ones are
refused by name, as by llama.cpp's own converter, and so are types that ggml has removed.

Sources: as of `layouts`; ggml.h (``GGML_QNT_VERSION``).
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

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
"""``GGML_QNT_VERSION_FACTOR``, and ``GGML_QNT_VERSION``, of which the file's type is so many thousands."""

_RWKV = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q5_0", 8: "Q5_1", 9: "Q8_0", 10: "Q8_1", 11: "Q2_K", 12: "Q3_K",
    13: "Q4_K", 14: "Q5_K", 15: "Q6_K", 16: "Q8_K",
}  # fmt: skip
_BY_NAME = {dtype.name: dtype for dtype in DTYPE_BY_CODE.values()}
DTYPES: dict[str, dict[int, DType]] = {
    "ggml": DTYPE_BY_CODE,
    "rwkv": {code: _BY_NAME[name] for code, name in _RWKV.items()},
}
"""Types by their numbers: ggml's, and those that rwkv.cpp has of its own."""


def claims(source: Source) -> bool:
    """Whether it has one of the magics and, behind it, room for a number."""
    return source.size >= 8 and bytes(source.read_at(0, 4)) in {layout.magic for layout in LAYOUTS}


def read(source: Source) -> Checkpoint:
    """Open the file: what stands before the tensors, and the header of each.

    Raises CorruptFileError, LimitError, and UnsupportedError for models that are not known, and for old blocks.
    """
    layout, head, stream = _layout(source)
    tensors = _Tensors(layout, head, stream).read()
    extras = {name: _array(source, name, *where) for name, where in head.arrays.items()}
    said: dict[str, MetaNode] = {"layout": layout.name, **head.values, **{name: TensorRef(name) for name in extras}}
    return Checkpoint(
        tensors, extras=extras, root={"state_dict": StateDict(), **said}, format="ggml", notes=Notes(source="ggml"),
        file=source,
    )  # fmt: skip


def _array(source: Source, name: str, shape: tuple[int, ...], start: int) -> LazyTensor:
    info = TensorInfo.of(DType.F32, shape)
    return in_file(info, ByteSpan(source, start, info.nbytes), (id(source), "extras", name))


def _forward(source: Source, at: int) -> Forward:
    return Forward(source, at, bad, MAX_GGUF_HEADER)


def _layout(source: Source) -> tuple[Layout, Head, Forward]:
    """The layout that fits, and where its tensors begin. Raises UnsupportedError where none does."""
    if not claims(source):
        raise bad("its magic is missing")
    magic = bytes(source.read_at(0, 4))
    version = int.from_bytes(source.read_at(4, 4), "little")
    possible = [one for one in LAYOUTS if one.magic == magic and one.version in (None, version)]
    if not possible:
        raise UnsupportedError(
            f"version {version:,} of this ggml file is not read", hint="convert the model again, to GGUF"
        )
    fitting: list[tuple[Layout, Head, Forward, str]] = []
    for layout in possible:
        stream, head = _forward(source, 4 if magic == GGML else 8), Head()
        try:
            for step in layout.steps:
                step(stream, head)
            start = stream.at
            first = _row(stream)[0] if stream.left else ""
        except CkptconvError:
            continue
        fitting.append((layout, head, _forward(source, start), first))
    if not fitting:
        names = ", ".join(dict.fromkeys(layout.name for layout in possible))
        raise UnsupportedError(
            f"this ggml file is of a model that is not known here, or cut short before its tensors; known: {names}",
            hint="where it should be one of them, copy it again; else convert the model again, to GGUF",
        )
    named = [one for one in fitting if one[3].startswith(one[0].first)]
    layout, head, stream, _ = (named or fitting)[0]
    return layout, head, stream


_Row = tuple[str, tuple[int, ...], int]
"""Name, dimensions from the innermost, type."""


def _row(stream: Forward) -> _Row:
    rank = stream.count("the number of dimensions of a tensor", MAX_RANK)
    length = stream.count("the length of a tensor's name", MAX_NAME)
    code = stream.count("the type of a tensor", 1 << 16)
    dims = tuple(stream.count("a dimension of a tensor", MAX_DIM) for _ in range(rank))
    name = stream.take(length).decode("utf-8", "replace")
    if not name or not name.isprintable() or "\ufffd" in name:
        raise bad(f"a tensor is called {name!r}")
    return name, dims, code


class _Tensors:
    def __init__(self, layout: Layout, head: Head, stream: Forward) -> None:
        self.layout, self.stream = layout, stream
        self.dtypes = DTYPES[layout.codes]
        kind = head.values.get("ftype", 0)
        self.current = layout.quantized
        if self.current is None:
            self.current = isinstance(kind, int) and kind // QUANTIZATION == CURRENT

    def read(self) -> dict[str, LazyTensor]:
        """All of them, to the end of the file."""
        stream, found = self.stream, dict[str, LazyTensor]()
        while stream.left:
            name, dims, code = _row(stream)
            if name in found:
                raise bad(f"the tensor {name!r} comes twice")
            if len(found) >= MAX_TENSORS:
                raise LimitError(f"it has more than {MAX_TENSORS:,} tensors")
            info = self._info(name, dims, code)
            if self.layout.aligned:
                stream.skip(-stream.at % ALIGNMENT)
            if info.nbytes > stream.left:
                raise bad(f"{name!r} runs {info.nbytes - stream.left:,} bytes past the end of the file")
            span = stream.span(info.nbytes)
            found[name] = in_file(info, span, (id(stream.source), name))
        return found

    def _info(self, name: str, dims: tuple[int, ...], code: int) -> TensorInfo:
        dtype = self.dtypes.get(code)
        if dtype is None:
            was = (
                f" ({REMOVED[code]}, which ggml has removed)" if code in REMOVED and self.layout.codes == "ggml" else ""
            )
            raise UnsupportedError(f"{name!r} has the ggml type {code}{was}, which is not known", hint=_AGAIN)
        if dtype.name in BLOCKS and not self.current:
            raise UnsupportedError(
                f"{name!r} is {dtype} of before May 2023, whose blocks had other bits than now", hint=_AGAIN
            )
        if prod(dims) * dtype.bits > MAX_DIM:
            raise bad(f"{name!r} has dimensions out of range")
        if dtype.block > 1 and (not dims or dims[0] % dtype.block):
            raise bad(f"{name!r} has rows that are not a whole number of {dtype} blocks of {dtype.block}")
        if self.layout.name == WHISPER and name in COLUMNS and dims[:1] == (1,):
            dims = dims[1:]
        return TensorInfo.of(dtype, dims[::-1])


_AGAIN = "name the file of F16 or F32 that it was quantized from, or quantize the model again"
