"""An existing model's graph with new weights.

The template's fields are copied but for the initializers, of which a type, a name and dimensions remain: its weights
are never read. Each initializer is filled by the tensor of its name, or of the name that `names` finds for it, which
is stored transposed then.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.record import Record
from ckptconv.core.report import Finding
from ckptconv.errors import TemplateError, located
from ckptconv.formats.onnx import names as naming
from ckptconv.formats.onnx.plan import CODE_OF, GraphPlan, Hole
from ckptconv.formats.onnx.recorded import our_record
from ckptconv.formats.onnx.tensors import DTYPE_BY_CODE
from ckptconv.formats.onnx.walk import Walker
from ckptconv.formats.onnx.wire import Window, bad
from ckptconv.io.protobuf import LEN
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto, TensorProto

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.onnx.graph import TensorHeader
    from ckptconv.io.protobuf import Field

_GRAPH, _INITIALIZER = 7, 5
_DATA = (4, 5, 6, 7, 9, 10, 11, 13, 14)
"""The fields of a TensorProto that hold its numbers, or say where they are."""

MAX_GRAPH = 1 << 29
"""Bytes of a template without its initializers, which are held in memory."""


def fill_template(path: str, checkpoint: Checkpoint) -> GraphPlan:
    """The plan for `checkpoint` in the graph of the ONNX file `path`.

    Raises TemplateError, with a line for each tensor that finds no place, initializer that finds no tensor, and pair
    that differs in shape or type; and what a malformed template raises.
    """
    with located(path), Source(Path(path)) as source:
        window = Window(source)
        read = Walker(window).model()
        if read.graph is None:
            raise bad("it holds no graph")
        headers = {header.name: header for header in read.graph.initializers}
        record = our_record(read.metadata)
        found = naming.find(read, read.graph, window) if record is None else naming.Names()
        holes, problems = _match(checkpoint, headers, found, record or Record())
        if problems:
            raise TemplateError(problems)
        model = _emptied(window, holes)
    if any(pair.key == records.KEY for pair in model.metadata_props):  # of another checkpoint, as its strings are
        del model.metadata_props[:]
    message = f"the graph of {Path(path).name} is kept; {len(holes)} of its tensors are replaced"
    return GraphPlan(model, holes, (Finding("template", "info", "", message),))


def _match(
    checkpoint: Checkpoint, headers: Mapping[str, TensorHeader], found: naming.Names, record: Record
) -> tuple[dict[str, Hole], list[str]]:
    holes: dict[str, Hole] = {}
    problems: list[str] = []
    used: set[str] = set()
    for stored, header in headers.items():
        hole = _hole(checkpoint, stored, found, record)
        if hole is None:
            if _is_weight(header) and stored not in record.constants:
                problems.append(f"the graph's {stored!r} {list(header.dims)} is none of the checkpoint's tensors")
            continue
        info = checkpoint[hole.tensor].info
        shape = info.shape[::-1] if hole.turned else info.shape
        if list(shape) != header.dims:
            turned = " transposed" if hole.turned else ""
            problems.append(f"{hole.tensor!r} is {list(info.shape)}, and the graph takes{turned} {list(header.dims)}")
        elif CODE_OF.get(info.dtype) != header.code:
            wanted = DTYPE_BY_CODE.get(header.code)
            problems.append(f"{hole.tensor!r} is {info.dtype}, and the graph takes {wanted}; --dtype casts it")
        else:
            holes[stored] = hole
        used.add(hole.tensor)
    same = {checkpoint.tied_to.get(name, name) for name in (*used, *found.same)}
    for name, tensor in checkpoint.items():
        if checkpoint.tied_to.get(name, name) not in same and name not in used and tensor.info.dtype.kind == "float":
            problems.append(f"{name!r} {list(tensor.info.shape)} has no place in the graph")
    return holes, problems


def _hole(checkpoint: Checkpoint, stored: str, found: naming.Names, record: Record) -> Hole | None:
    name = record.names.get(stored, found.inlined.get(stored, stored))
    if name in checkpoint and stored not in record.constants:
        return Hole(name, turned=stored in record.turned)
    turned = found.transposed.get(stored)
    return Hole(turned, turned=True) if turned is not None and turned in checkpoint else None


def _is_weight(header: TensorHeader) -> bool:
    dtype = DTYPE_BY_CODE.get(header.code)
    return dtype is not None and dtype.kind in ("float", "complex") and bool(header.dims)


def _emptied(window: Window, holes: Mapping[str, Hole]) -> ModelProto:
    """The template without the bytes of the initializers that are filled."""
    from google.protobuf.message import DecodeError
    from onnx import ModelProto

    model = ModelProto()
    kept: list[bytes] = []
    empty: list[TensorProto] = []
    size = 0

    def keep(parts: list[bytes], start: int, stop: int) -> None:
        nonlocal size
        size += stop - start
        if size > MAX_GRAPH:
            raise bad(f"its graph has more than {MAX_GRAPH:,} bytes without the weights")
        parts.append(window.read(start, stop, MAX_GRAPH))

    graph: list[bytes] = []
    for start, (number, _, begin, end) in _ranges(window, 0, window.source.size):
        if number != _GRAPH:
            keep(kept, start, end)
            continue
        for inner, (field, wire, first, last) in _ranges(window, begin, end):
            tensor = _header(window, first, last) if field == _INITIALIZER and wire == LEN else None
            if tensor is not None and tensor.name in holes:
                empty.append(tensor)
            else:
                keep(graph, inner, last)
    try:
        model.ParseFromString(b"".join(kept))
        model.graph.ParseFromString(b"".join(graph))
    except DecodeError as error:
        raise bad(f"onnx does not parse it: {error}") from error
    model.graph.initializer.extend(empty)
    return model


def _ranges(window: Window, start: int, stop: int) -> list[tuple[int, Field]]:
    """The fields of a message, each with where its tag starts."""
    made, position = [], start
    for field in window.fields(start, stop):
        made.append((position, field))
        position = field[3]
    return made


def _header(window: Window, start: int, stop: int) -> TensorProto | None:
    """An initializer without its numbers; None where that is not to be had."""
    from onnx import TensorProto

    kept = [window.read(at, field[3]) for at, field in _ranges(window, start, stop) if field[0] not in _DATA]
    tensor = TensorProto()
    tensor.ParseFromString(b"".join(kept))
    return tensor
