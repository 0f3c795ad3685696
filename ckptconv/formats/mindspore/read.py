"""Reader of MindSpore's .ckpt, which ``mindspore.save_checkpoint`` writes.

    Checkpoint      1* value
    Value           1 tag, the name  2 tensor  3 maptensor
    TensorProto     1* dims  2 tensor_type, a word: Float32  3 tensor_content: elements in C order, little-endian
    trailer         the text crc_num, and 10 bytes, big-endian: the CRC-32 of all before it; only if crc_check=True

A tensor of more than 512 MiB is in several values, one after another, that all state its whole shape. The dims ``[0]``
with an element mean no dimensions. A value of the type ``str`` is a text in UTF-32, and metadata here.

Names are the file's. A tensor of an optimizer is an extra: ``moment1.fc.weight``, if there is a tensor ``fc.weight`` of
the same shape, and single numbers such as ``global_step``. MindSpore gives them all at one level. The trailer is not
checked, since that takes reading the whole file. Refused by name: map parameters, and 4-bit integers.

Source: mindspore/python/mindspore/train/serialization.py, mindspore/ccsrc/utils/checkpoint.proto, mindspore/nn/optim.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import MetaNode, StateDict, TensorRef
from ckptconv.core.names import free_key
from ckptconv.core.notes import Notes
from ckptconv.core.tensor import ByteSpan, LazyTensor, in_file
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.tensors.headers import header_info
from ckptconv.io.limits import MAX_RANK, MAX_TENSORS
from ckptconv.io.pieces import Piece, Pieces
from ckptconv.io.protobuf import LEN, VARINT, Wire, signed

if TYPE_CHECKING:
    from collections.abc import Hashable

    from ckptconv.io.source import Source

VALUE, TAG, TENSOR, MAP_TENSOR = 1, 1, 2, 3
DIMS, TYPE, CONTENT = 1, 2, 3
TEXT, PACKED = "str", "Int4"
MADE_FROM = "convert the checkpoint that it was quantized from"
DTYPES = {
    "Bool": DType.BOOL, "Int8": DType.I8, "Int16": DType.I16, "Int32": DType.I32, "Int64": DType.I64,
    "UInt8": DType.U8, "UInt16": DType.U16, "UInt32": DType.U32, "UInt64": DType.U64,
    "Float16": DType.F16, "BFloat16": DType.BF16, "Float32": DType.F32, "Float64": DType.F64,
}  # fmt: skip
CRC, CRC_BYTES = b"crc_num", 10
MAX_NAME, MAX_TYPE, MAX_TEXT = 4096, 64, 1 << 20

OPTIMIZERS = frozenset(
    [
        "accu_grads",
        "accum",
        "accum_update",
        "adam_m",
        "adam_v",
        "ax",
        "exp_avg",
        "exp_avg_sq",
        "exp_inf",
        "lamb_m",
        "lamb_v",
        "linear",
        "max_exp_avg_sq",
        "mean_grad",
        "mean_square",
        "moment",
        "moment1",
        "moment2",
        "moments",
        "prev",
        "stat",
        "step_size",
        "vhat",
    ]
)
"""The names that MindSpore's optimizers put before a parameter's, for their state of it."""

COUNTERS = frozenset(
    [
        "beta1_power",
        "beta2_power",
        "current_iterator_step",
        "epoch_num",
        "global_step",
        "last_overflow_iterator_step",
        "learning_rate",
        "momentum",
        "scale_sense",
        "scale_value",
        "step_num",
    ]
)
"""Single numbers of an optimizer, of loss scaling, and those that the callback ModelCheckpoint adds."""


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the format."""
    return CorruptFileError(f"the MindSpore checkpoint is invalid: {what}")


@dataclass(frozen=True, slots=True)
class _Value:
    """A value's name, shape and type, and where its content is."""

    name: str
    dims: tuple[int, ...]
    type: str
    start: int
    stop: int

    @property
    def header(self) -> tuple[str, tuple[int, ...], str]:
        """What the values of one tensor have in common."""
        return self.name, self.dims, self.type


def claims(source: Source) -> bool:
    """Whether its first value has a name, and a tensor of a known type or a map."""
    if source.size < 8:
        return False
    wire = Wire(source, bad)
    try:
        for number, kind, begin, end in wire.fields(0, 1 << 62):
            return number == VALUE and kind == LEN and _is_value(wire, begin, end)
    except CkptconvError:
        return False
    return False


def _is_value(wire: Wire, start: int, stop: int) -> bool:
    named = False
    for number, kind, begin, end in wire.fields(start, stop):
        if kind != LEN:
            return False
        if named:
            return number == MAP_TENSOR or (number == TENSOR and _is_tensor(wire, begin, end))
        named = number == TAG and wire.text(begin, end, MAX_NAME).isprintable()
        if not named:
            return False
    return False


def _is_tensor(wire: Wire, start: int, stop: int) -> bool:
    for number, kind, begin, end in wire.fields(start, stop):
        if number == TYPE and kind == LEN:
            return wire.text(begin, end, MAX_TYPE) in (*DTYPES, TEXT, PACKED)
        if number != DIMS:
            return False
    return False


def read(source: Source) -> Checkpoint:
    """Open the file: walk its messages; of the contents only texts are read.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    wire = Wire(source, bad)
    groups: list[list[_Value]] = []
    for count, (_, begin, end) in enumerate(wire.known(0, _end(source), {VALUE: LEN})):
        if count == MAX_TENSORS:
            raise LimitError(f"it has more than {MAX_TENSORS:,} tensors, or parts of them")
        value = _parse_value(wire, begin, end)
        if groups and groups[-1][0].name == value.name:
            groups[-1].append(value)
        else:
            groups.append([value])
    if not groups:
        raise bad("it has no values")
    texts: dict[str, str] = {}
    tensors: dict[str, LazyTensor] = {}
    for values in groups:
        name = values[0].name
        if name in tensors or name in texts:
            raise bad(f"the values of {name!r} do not follow one another")
        if values[0].type == TEXT:
            texts[name] = _read_text(wire, values)
        else:
            tensors[name] = _build_tensor(source, values)
    extras = {name: tensor for name, tensor in tensors.items() if _is_extra(name, tensor, tensors)}
    return Checkpoint(
        {name: tensor for name, tensor in tensors.items() if name not in extras}, extras=extras,
        root=_root(extras, texts), format="mindspore", notes=Notes(source="mindspore"), file=source,
    )  # fmt: skip


def _end(source: Source) -> int:
    """Where the messages end: before the checksum, if there is one."""
    length = len(CRC) + CRC_BYTES
    if source.size >= length and bytes(source.read_at(source.size - length, len(CRC))) == CRC:
        return source.size - length
    return source.size


def _parse_value(wire: Wire, start: int, stop: int) -> _Value:
    name, tensor = "", None
    for number, begin, end in wire.known(start, stop, {TAG: LEN, TENSOR: LEN, MAP_TENSOR: LEN}):
        if number == TAG:
            name = wire.text(begin, end, MAX_NAME)
        elif number == TENSOR:
            tensor = begin, end
        else:
            raise UnsupportedError(
                f"{name!r} is a map parameter, which is not read",
                hint="save the network without it: it is a table of embeddings by key",
            )
    if tensor is None:
        raise bad(f"{name!r} has no tensor")
    return _parse_tensor(wire, name, *tensor)


def _parse_tensor(wire: Wire, name: str, start: int, stop: int) -> _Value:
    dims: list[int] = []
    kind, content = "", (start, start)
    for number, wire_type, begin, end in wire.fields(start, stop):
        if number == DIMS and wire_type == VARINT:
            dims.append(signed(begin))
        elif number in (DIMS, TYPE, CONTENT):
            wire.expect(number, wire_type, LEN)
            if number == DIMS:
                dims += wire.packed(begin, end, MAX_RANK)
            elif number == TYPE:
                kind = wire.text(begin, end, MAX_TYPE)
            else:
                content = begin, end
        if len(dims) > MAX_RANK:
            raise LimitError(f"{name!r} has more than {MAX_RANK} dimensions")
    if kind == PACKED:
        raise UnsupportedError(f"{name!r} has integers of 4 bits, which are not read", hint=MADE_FROM)
    return _Value(name, tuple(dims), kind, *content)


def _read_text(wire: Wire, values: list[_Value]) -> str:
    """The text of a value, as numpy stores it: four bytes a character, zeros at its end."""
    data = b"".join(wire.read(value.start, value.stop, MAX_TEXT) for value in values)
    try:
        return data.decode("utf-32-le").rstrip("\0")
    except UnicodeDecodeError:
        raise bad(f"the text {values[0].name!r} is not UTF-32") from None


def _build_tensor(source: Source, values: list[_Value]) -> LazyTensor:
    """The tensor whose content is in these values."""
    first = values[0]
    if any(value.header != first.header for value in values):
        raise bad(f"the parts of {first.name!r} state different shapes or types")
    nbytes = sum(value.stop - value.start for value in values)
    shape = () if first.dims == (0,) and nbytes else first.dims
    info = header_info(repr(first.name), first.type, shape, dtypes=DTYPES, library="MindSpore 2.10", bad=bad)
    if info.nbytes != nbytes:
        raise bad(
            f"{first.name!r} holds {nbytes:,} bytes, and {info.dtype} of shape {list(shape)} takes {info.nbytes:,}"
        )
    spans = [ByteSpan(source, value.start, value.stop - value.start) for value in values]
    alias = (id(source), first.name)
    if len(spans) == 1:
        return in_file(info, spans[0], alias)
    parts = [in_file(header_info(repr(first.name), "UInt8", (span.length,), dtypes=DTYPES, library="", bad=bad), span)
             for span in spans]  # fmt: skip
    reader = Pieces([Piece(part, 0, part.info.nbytes) for part in parts])
    return LazyTensor(info, reader, alias=alias, depends=reader.depends)


def _is_extra(name: str, tensor: LazyTensor, tensors: dict[str, LazyTensor]) -> bool:
    """Whether a tensor is an optimizer's, or a counter of the training."""
    prefix, dot, parameter = name.partition(".")
    if dot and prefix in OPTIMIZERS and parameter in tensors:
        return tensors[parameter].info.shape == tensor.info.shape
    return name in COUNTERS and tensor.info.shape in ((), (1,))


def _root(extras: dict[str, LazyTensor], texts: dict[str, str]) -> MetaNode:
    entries: dict[Hashable, MetaNode] = dict(texts.items())
    entries.update((name, TensorRef(name)) for name in extras)
    if not entries:
        return StateDict()
    return {free_key("state_dict", entries): StateDict(container="dict"), **entries}
