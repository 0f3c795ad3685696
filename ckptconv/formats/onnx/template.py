"""The graph of an existing model, with new weights.

All fields of the template are copied, but an initializer that is filled keeps only its name, type and dimensions: the
template's weights are never read. Each initializer is filled by the tensor of its name, or of the name that `names`
finds for it, in which case it is stored transposed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.record import Record
from ckptconv.core.report import Finding
from ckptconv.errors import TemplateError, located
from ckptconv.formats.onnx.metadata import find_record
from ckptconv.formats.onnx.names import Names, find_names
from ckptconv.formats.onnx.plan import CODE_OF, Filling, GraphPlan
from ckptconv.formats.onnx.tensors import DTYPE_BY_CODE
from ckptconv.formats.onnx.walk import Walker
from ckptconv.formats.onnx.wire import Window, bad
from ckptconv.io.protobuf import LEN
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto, TensorProto

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import TensorInfo
    from ckptconv.formats.onnx.graph import TensorHeader
    from ckptconv.io.protobuf import Field

_GRAPH, _INITIALIZER = 7, 5
_DATA = (4, 5, 6, 7, 9, 10, 11, 13, 14)
"""The fields of a TensorProto that hold its data, or say where it is."""

MAX_GRAPH = 1 << 29
"""How large a template may be without its weights, in bytes; that much is held in memory."""


def fill_template(path: str, checkpoint: Checkpoint) -> GraphPlan:
    """Plan how `checkpoint` fills the graph of the ONNX file `path`.

    Raises TemplateError, with a line for each tensor without an initializer, each initializer without a tensor, and
    each pair that differs in shape or type; and what a malformed template raises.
    """
    with located(path), Source(Path(path)) as source:
        window = Window(source)
        template = Walker(window).read_model()
        if template.graph is None:
            raise bad("it holds no graph")
        headers = {header.name: header for header in template.graph.initializers}
        record = find_record(template.metadata)
        names = find_names(template, template.graph, window) if record is None else Names()
        fillings, problems = _match(checkpoint, headers, names, record or Record())
        if problems:
            raise TemplateError(problems)
        model = _without_weights(window, fillings)
    if any(pair.key == records.KEY for pair in model.metadata_props):  # they describe another checkpoint
        del model.metadata_props[:]
    message = f"the graph of {Path(path).name} is kept; {len(fillings)} of its tensors are replaced"
    return GraphPlan(model, fillings, (Finding("template", "info", "", message),))


def _match(
    checkpoint: Checkpoint, headers: Mapping[str, TensorHeader], names: Names, record: Record
) -> tuple[dict[str, Filling], list[str]]:
    """What fills each initializer, and what does not fit, in words."""
    fillings: dict[str, Filling] = {}
    problems: list[str] = []
    used: set[str] = set()
    for stored, header in headers.items():
        filling = _filling(checkpoint, stored, names, record)
        if filling is None:
            if _is_weight(header) and stored not in record.constants:
                problems.append(f"the graph's {stored!r} {list(header.dims)} is none of the checkpoint's tensors")
            continue
        used.add(filling.tensor)
        problem = _mismatch(checkpoint[filling.tensor].info, filling, header)
        if problem:
            problems.append(problem)
        else:
            fillings[stored] = filling
    same = {checkpoint.tied_to.get(name, name) for name in (*used, *names.same)}
    for name, tensor in checkpoint.items():
        if checkpoint.tied_to.get(name, name) not in same and name not in used and tensor.info.dtype.kind == "float":
            problems.append(f"{name!r} {list(tensor.info.shape)} has no place in the graph")
    return fillings, problems


def _mismatch(info: TensorInfo, filling: Filling, header: TensorHeader) -> str:
    """How a tensor differs from the initializer that it would fill, in words; "" if it fits."""
    shape = info.shape[::-1] if filling.transposed else info.shape
    if list(shape) != header.dims:
        how = " transposed" if filling.transposed else ""
        return f"{filling.tensor!r} is {list(info.shape)}, and the graph takes{how} {list(header.dims)}"
    if CODE_OF.get(info.dtype) != header.code:
        wanted = DTYPE_BY_CODE.get(header.code)
        return f"{filling.tensor!r} is {info.dtype}, and the graph takes {wanted}; --dtype casts it"
    return ""


def _filling(checkpoint: Checkpoint, stored: str, names: Names, record: Record) -> Filling | None:
    name = record.names.get(stored, names.inlined.get(stored, stored))
    if name in checkpoint and stored not in record.constants:
        return Filling(name, transposed=stored in record.turned)
    name = names.transposed.get(stored, "")
    return Filling(name, transposed=True) if name in checkpoint and stored in names.transposed else None


def _is_weight(header: TensorHeader) -> bool:
    dtype = DTYPE_BY_CODE.get(header.code)
    return dtype is not None and dtype.kind in ("float", "complex") and bool(header.dims)


def _without_weights(window: Window, fillings: Mapping[str, Filling]) -> ModelProto:
    """The template without the data of the initializers that are to be filled."""
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
            tensor = _without_data(window, first, last) if field == _INITIALIZER and wire == LEN else None
            if tensor is not None and tensor.name in fillings:
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
    """The fields of a message, each with the position of its tag."""
    ranges, position = [], start
    for field in window.fields(start, stop):
        ranges.append((position, field))
        position = field[3]
    return ranges


def _without_data(window: Window, start: int, stop: int) -> TensorProto:
    """An initializer without its data."""
    from onnx import TensorProto

    kept = [window.read(at, field[3]) for at, field in _ranges(window, start, stop) if field[0] not in _DATA]
    tensor = TensorProto()
    tensor.ParseFromString(b"".join(kept))
    return tensor
