"""Reader of ncnn's networks: what the layers of a .param store in the .bin beside it. The graph stays behind.

    NAME.param    the graph (`param`): its layers, with the numbers from which shapes follow (`layers`)
    NAME.bin      what the layers store, one after another, without names or shapes (`weights`)

Names are the layer's and torch's word for the role: ``conv_0.weight``, ``bn_1.running_mean``, ``gru_2.weight_ih_l0``;
an array in the graph (MemoryData) is called as its layer is. Layouts are torch's; element types are those of the file.
The bias of a recurrent layer is ``bias_l0``: ncnn keeps the sum of torch's two (of a GRU, the sums for r and z, and
both for n). A name that occurs twice gets a number. In a folder, the network is the only such pair of files, but for
pnnx's own.

8-bit weights have scales, by which ncnn divides: ``conv_0.weight_inverse_scale``, as others multiply by theirs.

Layers of an application's own are taken to store nothing, as most do: then the others fill the file to its last byte.
If they do not, they are named. Refused: a graph without its .bin, a .bin that is shorter or longer than the layers
say, pnnx's own graphs, the binary form of a graph (``.param.bin``), and weights that are quantized in blocks.

Source: ncnn/src/net.cpp (`Net::load_model`).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ckptconv.core.checkpoint import Checkpoint
from ckptconv.core.dtypes import DType
from ckptconv.core.names import numbered
from ckptconv.core.notes import WITH_SCALES, Notes, QuantizedWeight
from ckptconv.core.text import quoted
from ckptconv.errors import CorruptFileError, UnsupportedError, located
from ckptconv.formats.graphs.notes import operator_counts, stays_behind
from ckptconv.formats.ncnn.layers import KINDS, UNSTORED, stored_by
from ckptconv.formats.ncnn.param import MAGIC, read_param
from ckptconv.formats.ncnn.slots import INVERSE_SCALE
from ckptconv.formats.ncnn.weights import stored, tensors
from ckptconv.io.folder import Folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.ncnn.param import Layer
    from ckptconv.formats.ncnn.slots import Slot
    from ckptconv.io.source import Source

SUFFIX, WEIGHTS = ".param", ".bin"
_OF_PNNX = ".pnnx.param"


def claims(source: Source | Folder) -> bool:
    """Whether it begins with the magic number, or this is a folder with one such file and its weights."""
    if isinstance(source, Folder):
        name = _graph_in(source)
        return name is not None and claims(source.open(name))
    start = bytes(source.read_at(0, min(len(MAGIC) + 1, source.size)))
    return start[: len(MAGIC)] == MAGIC and start[len(MAGIC) :].isspace()


def read(source: Source | Folder) -> Checkpoint:
    """Open the network: read the graph, and of the weights how each array is encoded.

    Raises CorruptFileError, LimitError, UnsupportedError, and FileAccessError if the weights are missing.
    """
    if not isinstance(source, Folder):
        return _read(Folder.around(source), source.path.name, source)
    name = _graph_in(source)
    if name is None:
        raise UnsupportedError("there is no .param with a .bin of the same name in it", hint="name a file in it")
    graph = source.open(name)
    with located(graph.path):
        return _read(source, name, graph)


def _graph_in(folder: Folder) -> str | None:
    """The name of a folder's graph; None if there is none, or several."""
    names = set(folder.names)
    graphs = [name for name in folder.names if name.endswith(SUFFIX) and not name.endswith(_OF_PNNX)]
    found = [name for name in graphs if _weights_of(name) in names]
    return found[0] if len(found) == 1 else None


def _weights_of(name: str) -> str:
    return f"{name.removesuffix(SUFFIX)}{WEIGHTS}"


def _read(folder: Folder, name: str, graph: Source) -> Checkpoint:
    layers = read_param(graph)
    arrays = [(layer, stored_by(layer)) for layer in layers]
    unknown = sorted({layer.type for layer in layers} - UNSTORED - {*KINDS})
    weights = folder.open(_weights_of(name))
    with located(weights.path):
        found = _build_tensors(weights, arrays, unknown, name)
    return Checkpoint(
        found, format="ncnn",
        notes=Notes(
            source="ncnn", graph=operator_counts(Counter(layer.type for layer in layers)), quantized=_quantized(found)
        ),
        findings=(stays_behind(f"the graph of {len(layers):,} layers"),), file=folder,
    )  # fmt: skip


def _build_tensors(
    source: Source, arrays: Sequence[tuple[Layer, list[Slot]]], unknown: list[str], graph: str
) -> dict[str, LazyTensor]:
    found: dict[str, LazyTensor] = {}
    at = 0
    for layer, stored_here in arrays:
        made: dict[str, LazyTensor] = {}
        for slot in stored_here:
            array = stored(source, at, slot)
            if array is None:
                raise _mismatch(graph, f"it ends at byte {source.size:,}, within {layer.where}", unknown)
            at = array.end
            for view, tensor in tensors(array, slot, f"{len(found)} {layer.name}"):
                made[numbered(f"{layer.name}.{view.name}" if view.name else layer.name, found, made)] = tensor
        in_order = sorted(made.items(), key=lambda item: ".running_" in item[0])  # a bias stands before them in torch
        found.update(in_order)
    if at < source.size:
        raise _mismatch(graph, f"{source.size - at:,} bytes follow the last layer's", unknown)
    return found


def _mismatch(graph: str, what: str, unknown: list[str]) -> CorruptFileError | UnsupportedError:
    if unknown:
        return UnsupportedError(
            f"{what}, perhaps since {graph!r} has layers that are not ncnn's and may store weights: {quoted(unknown)}",
            hint="convert what it was made from",
        )
    return CorruptFileError(
        f"it does not fit the graph in {graph!r}: {what}",
        hint="put both files of one network beside each other, or copy both again",
    )


def _quantized(found: Mapping[str, LazyTensor]) -> tuple[QuantizedWeight, ...]:
    """The 8-bit weights that have a scale for each row, or one for all."""
    weights: list[QuantizedWeight] = []
    for name, tensor in found.items():
        scale = found.get(f"{name}{INVERSE_SCALE}")
        if scale is None or tensor.info.dtype is not DType.I8 or scale.info.numel not in (1, tensor.info.shape[0]):
            continue
        details: dict[str, Json] = {"inverse": True} if scale.info.numel == 1 else {"axis": 0, "inverse": True}
        parts = {"values": name, "scale": f"{name}{INVERSE_SCALE}"}
        weights.append(QuantizedWeight(name, "affine", parts, details, WITH_SCALES))
    return tuple(weights)
