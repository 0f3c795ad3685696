"""Reader of Caffe's .caffemodel: the blobs of a network's layers as a state_dict. The network stays behind.

    NetParameter        1 name  100* layer; before 2014: 2* layers
    LayerParameter      1 name  2 type  7* blobs
    V1LayerParameter    4 name  5 type, a number  6* blobs
    BlobProto           7 shape (1* dim, packed), else 1 num  2 channels  3 height  4 width
                        5 data (packed F32)  8 double_data (packed F64)

A blob's name is that of its layer and its role there: ``conv1.weight``, ``conv1.bias``, ``bn1.mean``; its number, if
the layer's type is not known. A layer's name that occurs twice gets a number (``fc#2.weight``). Shapes are the file's:
the older form always has four dimensions. Refused by name: layers of Caffe's first version (V0). HDF5 files belong to
the format hdf5.

Source: caffe/src/caffe/proto/caffe.proto; layers/*.cpp (`LayerSetUp`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DType
from ckptconv.core.notes import Notes
from ckptconv.core.tensor import ByteSpan, LazyTensor, TensorInfo, in_file
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.graphs.names import GraphNames
from ckptconv.formats.graphs.notes import operator_counts, stays_behind
from ckptconv.io.limits import MAX_DIM, MAX_RANK
from ckptconv.io.protobuf import LEN, VARINT, Wire, signed

if TYPE_CHECKING:
    from ckptconv.core.metadata import MetaNode
    from ckptconv.io.source import Source

NAME, OLD_LAYERS, LAYERS = 1, 2, 100
_NET_WIRES = {1: LEN, 2: LEN, 3: LEN, 4: VARINT, 5: VARINT, 6: LEN, 7: VARINT, 8: LEN, 100: LEN}
_CLAIMED_FIELDS = 64
MAX_LAYERS = 100_000
MAX_BLOBS = 200_000
"""An empty blob takes two bytes in the file, and a thousand times that in memory."""

_WEIGHTED = ("weight", "bias")
ROLES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Convolution", "Deconvolution", "InnerProduct", "Embed", "Scale", "PReLU"), _WEIGHTED),
    "Bias": ("bias",), "BatchNorm": ("mean", "variance", "scale_factor"), "Normalize": ("scale",),
    "LSTM": ("weight", "bias", "recurrent_weight"), "RNN": ("weight", "bias", "recurrent_weight", "output_weight",
                                                            "output_bias"),
}  # fmt: skip
"""The roles of a layer's blobs, by the layer's type."""

OLD_TYPES = {4: "Convolution", 14: "InnerProduct", 39: "Deconvolution"}
"""The types of layers with blobs, by their numbers in files from before 2014."""


def bad(what: str) -> CorruptFileError:
    """The error for a file that contradicts the format."""
    return CorruptFileError(f"the Caffe model is invalid: {what}")


@dataclass(slots=True)
class _Layer:
    """A layer, and where its blobs are."""

    name: str = ""
    type: str = ""
    blobs: list[tuple[int, int]] = field(default_factory=list)


def claims(source: Source) -> bool:
    """Whether the first fields are those of a network, up to a layer with a name and a type."""
    if source.size < 8:
        return False
    wire = Wire(source, bad)
    try:
        for count, (number, kind, begin, end) in enumerate(wire.fields(0, 1 << 62)):
            if count == _CLAIMED_FIELDS or _NET_WIRES.get(number) != kind:
                return False
            if number in (OLD_LAYERS, LAYERS):
                return _is_layer(wire, number, begin, min(end, source.size))
            if number == NAME:
                wire.text(begin, min(end, source.size))
    except CkptconvError:
        return False
    return False


def _is_layer(wire: Wire, number: int, begin: int, end: int) -> bool:
    """Whether a message has a name and a type, in the fields of a new or an old layer."""
    wanted = {1: LEN, 2: LEN} if number == LAYERS else {4: LEN, 5: VARINT}
    seen = set()
    for inner, kind, start, stop in wire.fields(begin, 1 << 62):
        if inner in wanted:
            if wanted[inner] != kind:
                return False
            if kind == LEN and not wire.text(start, stop).isprintable():
                return False
            seen.add(inner)
        if len(seen) == len(wanted):
            return True
        if stop >= end:
            break
    return False


def read(source: Source) -> Checkpoint:
    """Open the model: walk its messages, without reading the blobs' values.

    Raises CorruptFileError, LimitError, UnsupportedError.
    """
    wire, name = Wire(source, bad), ""
    layers: list[_Layer] = []
    for number, begin, end in wire.known(0, source.size, {NAME: LEN, OLD_LAYERS: LEN, LAYERS: LEN}):
        if number == NAME:
            name = wire.text(begin, end)
        else:
            layers.append(
                _parse_old_layer(wire, begin, end) if number == OLD_LAYERS else _parse_layer(wire, begin, end)
            )
        if len(layers) > MAX_LAYERS:
            raise LimitError(f"it has more than {MAX_LAYERS:,} layers")
    if not layers:
        raise bad("it has no layers")
    facts: dict[str, MetaNode] = {"name": name, **operator_counts(Counter(layer.type for layer in layers))}
    finding = stays_behind(f"the network of {len(layers):,} layers", "blobs")
    return Checkpoint(
        _build_tensors(wire, layers), format="caffe", notes=Notes(source="caffe", graph=facts),
        findings=(finding,), file=source,
    )  # fmt: skip


def _parse_layer(wire: Wire, start: int, stop: int) -> _Layer:
    layer = _Layer()
    for number, begin, end in wire.known(start, stop, {1: LEN, 2: LEN, 7: LEN}):
        if number == 1:
            layer.name = wire.text(begin, end)
        elif number == 2:
            layer.type = wire.text(begin, end)
        else:
            layer.blobs.append((begin, end))
    return layer


def _parse_old_layer(wire: Wire, start: int, stop: int) -> _Layer:
    layer = _Layer()
    for number, kind, begin, end in wire.fields(start, stop):
        if number == 1 and kind == LEN and end > begin:
            raise UnsupportedError(
                "its layers are of Caffe's first version (V0), which is not read",
                hint="Caffe's upgrade_net_proto_binary makes a newer one of it",
            )
        if number == 4:
            wire.expect(number, kind, LEN)
            layer.name = wire.text(begin, end)
        elif number == 5:
            wire.expect(number, kind, VARINT)
            layer.type = OLD_TYPES.get(begin, f"type {begin}")
        elif number == 6:
            wire.expect(number, kind, LEN)
            layer.blobs.append((begin, end))
    return layer


def _build_tensors(wire: Wire, layers: list[_Layer]) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    names, taken = GraphNames(wire.source.size), set[str]()
    for layer in layers:
        if not layer.blobs:
            continue
        layer_name = names.unique(layer.name, taken)
        taken.add(layer_name)
        roles = ROLES.get(layer.type, ())
        for index, place in enumerate(layer.blobs):
            name = names.join(layer_name, ".", roles[index] if index < len(roles) else str(index))
            if name in tensors:
                raise bad(f"two blobs are called {name!r}")
            if len(tensors) >= MAX_BLOBS:
                raise LimitError(f"it has more than {MAX_BLOBS:,} blobs")
            tensors[name] = _build_tensor(wire, name, place)
    return tensors


def _build_tensor(wire: Wire, name: str, place: tuple[int, int]) -> LazyTensor:
    """Make the tensor of the BlobProto at `place`."""
    old_sizes: dict[int, int] = {1: 0, 2: 0, 3: 0, 4: 0}
    shape: tuple[int, ...] | None = None
    data: tuple[int, int] | None = None
    dtype = DType.F32
    for number, begin, end in wire.known(*place, dict.fromkeys(old_sizes, VARINT) | {5: LEN, 7: LEN, 8: LEN}):
        if number in old_sizes:
            old_sizes[number] = signed(begin)
        elif number == 7:
            shape = _parse_shape(wire, name, begin, end)
        elif data:
            raise bad(f"the values of {name!r} come in pieces")
        else:
            data, dtype = (begin, end), DType.F32 if number == 5 else DType.F64
    if shape is None:
        shape = tuple(old_sizes.values())
    start, stop = data or (place[0], place[0])
    if min(shape, default=0) < 0 or prod(shape) * 64 > MAX_DIM:
        raise bad(f"{name!r} has the shape {list(shape[:8])}")
    info = TensorInfo.of(dtype, shape)
    if info.nbytes != stop - start:
        raise bad(f"{name!r} holds {stop - start:,} bytes, and {dtype} of shape {list(shape)} takes {info.nbytes:,}")
    return in_file(info, ByteSpan(wire.source, start, info.nbytes), (id(wire.source), name))


def _parse_shape(wire: Wire, name: str, start: int, stop: int) -> tuple[int, ...]:
    sizes: list[int] = []
    for number, kind, begin, end in wire.fields(start, stop):
        if number != 1:
            continue
        if kind == VARINT:
            sizes.append(signed(begin))
        else:
            wire.expect(number, kind, LEN)
            sizes += wire.packed(begin, end, MAX_RANK)
        if len(sizes) > MAX_RANK:
            raise LimitError(f"{name!r} has more than {MAX_RANK} dimensions")
    return tuple(sizes)
