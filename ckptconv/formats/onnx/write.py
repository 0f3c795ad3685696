"""Writer of ONNX: a graph with the checkpoint's tensors as its initializers, and our record.

The tensors are streamed into one file, or into a second one that the first refers to. That is done where it has to be,
because a protobuf message has less than 2 GiB, or where it is asked for. A data file that we name is never one that is
there already: until the new graph is in its place, the old one finds its old data.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.dtypes import DType
from ckptconv.core.names import free_name
from ckptconv.core.record import Inline, Record
from ckptconv.core.report import Finding, quoted
from ckptconv.edits.views import permuted
from ckptconv.errors import RejectedOutputError, UnsupportedError, UsageError
from ckptconv.formats.base import WriteResult
from ckptconv.formats.onnx.plan import CODE_OF, GraphPlan, OnnxOptions
from ckptconv.formats.onnx.read import named
from ckptconv.formats.onnx.splice import MAX_MESSAGE, External, Layout, lay_out, refer
from ckptconv.formats.onnx.walk import Walker
from ckptconv.formats.onnx.wire import Window
from ckptconv.formats.safetensors.layout import read_header
from ckptconv.io.checksum import ContentHash
from ckptconv.io.digest import PLACEHOLDER, combine, content_hash
from ckptconv.io.source import Source
from ckptconv.io.stream import Job, Streamer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor, TensorInfo
    from ckptconv.formats.base import WriteOptions
    from ckptconv.io.target import Target

MAX_INLINE = 4096
"""Bytes of a tensor that the graph does not use, up to which it goes into the record."""

ALIGNMENT = 4096
"""Of tensors in a data file: onnxruntime maps those that start on a page."""

_IR_VERSION = {
    **dict.fromkeys((DType.F8_E5M2, DType.F8_E4M3, DType.F8_E5M2FNUZ, DType.F8_E4M3FNUZ), 9),
    **dict.fromkeys((DType.I4, DType.U4), 10), DType.F4: 11, DType.F8_E8M0: 12, DType.I2: 13, DType.U2: 13,
}  # fmt: skip
"""The IR version that first knew a type (onnx/onnx.proto); the others are older than any opset written here."""

METADATA_ROOM = 1 << 20
"""Bytes that metadata may grow by once the digest is known: none does, and the limit is 2 GiB."""


@dataclass(slots=True)
class Weights:
    """What is stored: images by initializer, and the tensors' names; small tensors that the graph lacks; findings."""

    images: dict[str, LazyTensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    inline: list[Inline] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the model that `options.graph` plans. Raises RejectedOutputError, DamagedTensorError, UnsupportedError."""
    plan, own = options.graph, options.own
    assert isinstance(plan, GraphPlan)
    assert isinstance(own, OnnxOptions)
    model = _copy(plan.model)
    weights = _weights(checkpoint, plan, model)
    record = _record(checkpoint, weights)
    record.constants = _constants(model, weights)
    record.turned = [name for name, hole in plan.holes.items() if hole.turned]
    said = {key for key, _ in records.visible(record)}
    record.strings = [pair.key for pair in model.metadata_props if pair.key not in said]
    keeps_record = not options.plain or bool(
        record.inline or record.names or record.ties or record.constants or record.turned or record.composites
    )
    _say(model, record, weights, PLACEHOLDER if keeps_record else None)
    sizes = {name: image.info.nbytes for name, image in weights.images.items()}
    total = sum(sizes.values()) + model.ByteSize() + METADATA_ROOM
    hashes: dict[str, str] = {}
    if own.external_data.endswith(".safetensors"):
        external = _in_safetensors(checkpoint, target, options, own.external_data, weights)
    elif own.external_data or total > MAX_MESSAGE:
        external = _in_data_file(target, options, own.external_data, weights, hashes)
    else:
        external = {}
    embedded = {name: size for name, size in sizes.items() if name not in external}
    if sum(embedded.values()) + model.ByteSize() + METADATA_ROOM > MAX_MESSAGE:
        raise UnsupportedError("the graph and what it embeds have more than 2 GiB", hint="-O external-data=FILE")
    layout = lay_out(model, embedded, external)
    target.reserve(layout.size)
    hashes |= _stream(target, options, weights, layout.offsets, content=keeps_record)
    digest = None
    if keeps_record:
        digest = combine(checkpoint, _all_hashes(checkpoint, weights, hashes))
        _say(model, record, weights, digest)
        layout = lay_out(model, embedded, external)
    for position, piece in layout.pieces:
        target.write_at(position, piece)
    _check(model, embedded, external, layout)
    return WriteResult(layout.size + sum(other.size for other in target.companions), digest, tuple(weights.findings))


def _copy(model: ModelProto) -> ModelProto:
    from onnx import ModelProto

    made = ModelProto()
    made.CopyFrom(model)
    return made


def _weights(checkpoint: Checkpoint, plan: GraphPlan, model: ModelProto) -> Weights:
    """What fills the initializers, in the state_dict's order; tensors that the graph does not use come along."""
    from onnx import TensorProto

    weights = Weights()
    tied = checkpoint.tied_to
    stored = {tied.get(hole.tensor, hole.tensor): (name, hole) for name, hole in reversed(list(plan.holes.items()))}
    taken = {tensor.name for tensor in model.graph.initializer}
    unused: list[str] = []
    for position, (name, tensor) in enumerate(checkpoint.items()):
        if name in tied:
            continue
        if name not in stored and tensor.info.nbytes <= MAX_INLINE:
            weights.inline.append(Inline(name, position, tensor.info, bytes(tensor.read())))
            continue
        if name in stored:
            own, hole = stored[name]
            image = permuted(tensor, (1, 0)) if hole.turned else tensor
            if image is None:
                raise UnsupportedError(f"{name!r} cannot be transposed while it is copied", hint="--dtype F32 casts it")
        else:
            own, image = _added(model, name, tensor.info, taken), tensor
            unused.append(name)
        weights.images[own] = image
        weights.names[own] = name
    # an initializer that shares its tensor with one that is filled already is filled too, each with its own copy
    for name, hole in plan.holes.items():
        if name not in weights.images:
            tensor = checkpoint[hole.tensor]
            weights.images[name] = (permuted(tensor, (1, 0)) or tensor) if hole.turned else tensor
            weights.names[name] = hole.tensor
    for tensor_proto in model.graph.initializer:
        if tensor_proto.name in weights.images:
            tensor_proto.data_location = TensorProto.DEFAULT
    if unused:
        message = f"the graph does not use {quoted(unused, 1)}; kept as initializers of no use to it"
        weights.findings.append(Finding("unused", "info", unused[0], message))
    return weights


def _added(model: ModelProto, name: str, info: TensorInfo, taken: set[str]) -> str:
    """The name of a further initializer for the tensor."""
    if info.dtype not in CODE_OF:
        raise UnsupportedError(f"ONNX has no {info.dtype}, as {name!r} is", hint=f"--drop {name!r}")
    own = _spelled(name, taken)
    taken.add(own)
    model.ir_version = max(model.ir_version, _IR_VERSION.get(info.dtype, 0))
    model.graph.initializer.add(name=own, dims=info.shape, data_type=CODE_OF[info.dtype])
    return own


def _spelled(name: str, taken: set[str]) -> str:
    """A name that protobuf takes, and that nothing has yet."""
    made = name.encode("utf-8", "backslashreplace").decode("utf-8") or "#"
    return free_name(made, taken.__contains__, lambda number: f"{made}#{number}")


def _record(checkpoint: Checkpoint, weights: Weights) -> Record:
    record = Record(
        root=checkpoint.root, refs_are_model=records.refs_are_model(checkpoint), notes=checkpoint.notes,
        composites=checkpoint.composites_of(checkpoint), inline=weights.inline,
        names={stored: name for stored, name in weights.names.items() if stored != name},
    )  # fmt: skip
    tied = checkpoint.tied_to
    record.ties = [(name, tied[name], position) for position, name in enumerate(checkpoint) if name in tied]
    return record


def _constants(model: ModelProto, weights: Weights) -> list[str]:
    """What a reader would take for the model's tensors besides them: constants of the computation."""
    with TemporaryDirectory(prefix="ckptconv-") as folder:
        path = os.path.join(folder, "graph.onnx")
        with open(path, "wb") as file:
            file.write(model.SerializeToString())
        with Source(path) as source:
            read = Walker(Window(source)).model()
    assert read.graph is not None
    return [name for name in named(read, read.graph) if name not in weights.names]


def _say(model: ModelProto, record: Record, weights: Weights, digest: str | None) -> None:
    """Put the metadata into the model: everything, or where a bare file is wanted nothing."""
    said = {} if digest is None else records.strings_of(replace(record, digest=digest), weights.names.values())
    kept = {pair.key: pair.value for pair in model.metadata_props if pair.key in record.strings}
    del model.metadata_props[:]
    for key, value in {**kept, **said}.items():
        model.metadata_props.add(key=key, value=value)


def _stream(
    target: Target, options: WriteOptions, weights: Weights, offsets: Mapping[str, int], *, content: bool
) -> dict[str, str]:
    """Copy images to their places; content hashes by initializer."""
    jobs = [Job(weights.names[name], weights.images[name], offset) for name, offset in offsets.items()]
    sums = Streamer(target, crc=False, content=content, progress=options.progress).run(jobs)
    return {name: one.content for name, one in zip(offsets, sums, strict=True)}


def _all_hashes(checkpoint: Checkpoint, weights: Weights, hashes: Mapping[str, str]) -> dict[str, str]:
    """Content hashes of all tensors under their own names; what was stored transposed is read again."""
    made = {one.name: _hash(one.data) for one in weights.inline}
    for stored, name in weights.names.items():
        straight = weights.images[stored] is checkpoint[name]
        made[name] = (
            hashes[stored] if straight and stored in hashes else made.get(name) or content_hash(checkpoint[name])
        )
    tied = checkpoint.tied_to
    return {name: made[tied.get(name, name)] for name in checkpoint.all_tensors}


def _hash(data: bytes) -> str:
    content = ContentHash()
    content.update(data)
    return content.hexdigest()


def _in_data_file(
    target: Target, options: WriteOptions, wanted: str, weights: Weights, hashes: dict[str, str]
) -> dict[str, External]:
    """Write the tensors into a file beside the model."""
    name = _location(wanted) if wanted else _free_name(target)
    other = target.beside(name)
    offsets, position = {}, 0
    for stored, image in weights.images.items():
        position += -position % (ALIGNMENT if image.info.nbytes >= ALIGNMENT else 16)
        offsets[stored] = position
        position += image.info.nbytes
    other.reserve(position)
    hashes |= _stream(other, options, weights, offsets, content=True)
    weights.findings.append(Finding("external-data", "info", name, f"the tensors are in {name}, beside the model"))
    return {stored: External(name, at, weights.images[stored].info.nbytes) for stored, at in offsets.items()}


def _free_name(target: Target) -> str:
    name, number = f"{target.path.name}.data", 1
    while os.path.lexists(target.path.parent / name):
        number += 1
        name = f"{target.path.name}.{number}.data"
    return name


def _location(text: str) -> str:
    """A relative path inside the model's folder, with forward slashes, which is all that ONNX's readers take."""
    path = Path(text)
    if path.is_absolute() or ".." in path.parts or not path.name or "\\" in text:
        raise UsageError(
            f"external data must lie in the model's folder or below it, not at {text!r}",
            hint=f"-O external-data={path.name or 'weights.data'}",
        )
    return path.as_posix()


def _in_safetensors(
    checkpoint: Checkpoint, target: Target, options: WriteOptions, wanted: str, weights: Weights
) -> dict[str, External]:
    """Point into a safetensors file: the source itself, or one that is written beside the model."""
    location = _location(wanted)
    path = target.path.parent / location
    ours = _source_spans(checkpoint, weights, path)
    if ours is not None:
        message = f"the graph points into {location}, which is the source and stays as it is"
        weights.findings.append(Finding("external-data", "info", location, message))
        return {name: External(location, start, length) for name, (start, length) in ours.items()}
    assert options.write_as is not None
    other = target.beside(location)
    options.write_as("safetensors", checkpoint, other)
    with Source(other.readable_path) as source:
        slots = read_header(source).slots
    weights.findings.append(
        Finding("external-data", "info", location, f"the graph points into {location}, a whole safetensors file")
    )
    return {
        stored: External(location, slots[name].start, slots[name].info.nbytes)
        for stored, name in weights.names.items()
        if name in slots and weights.images[stored] is checkpoint[name]
    }


def _source_spans(checkpoint: Checkpoint, weights: Weights, path: Path) -> dict[str, tuple[int, int]] | None:
    """Where the tensors lie in `path`, if that is the very file that they are read from; None if it is not."""
    spans: dict[str, tuple[int, int]] = {}
    for stored, name in weights.names.items():
        span = checkpoint[name].span
        if span is None or not isinstance(span.file, Source) or not _same_file(span.file.path, path):
            return None
        if weights.images[stored] is checkpoint[name]:
            spans[stored] = (span.offset, span.length)
    return spans


def _same_file(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:
        return False


def _check(model: ModelProto, embedded: Mapping[str, int], external: Mapping[str, External], layout: Layout) -> None:
    """Let onnx check the model before it gets its name: a twin whose tensors are all external, so that none is loaded.

    Of external data the checker asks only that its file is there: the twin's is an empty one in a folder of its own.
    """
    from onnx import checker

    twin = _copy(model)
    for tensor in twin.graph.initializer:
        if tensor.name in embedded:
            refer(tensor, External("data", layout.offsets[tensor.name], embedded[tensor.name]))
        elif tensor.name in external:
            refer(tensor, External("data", external[tensor.name].offset, external[tensor.name].length))
    with TemporaryDirectory(prefix="ckptconv-") as folder:
        path = os.path.join(folder, "twin.onnx")
        for name, data in (("data", b""), ("twin.onnx", twin.SerializeToString())):
            with open(os.path.join(folder, name), "wb") as file:
                file.write(data)
        try:
            checker.check_model(path)
        except (checker.ValidationError, ValueError) as error:
            raise RejectedOutputError(f"onnx.checker refuses what was written: {error}") from error
