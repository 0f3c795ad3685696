"""Writer of ONNX: a graph with the checkpoint's tensors as its initializers, and our record.

The tensors are streamed into one file, or into a second one that the first refers to (`data_file`). That is done where
it has to be, because a protobuf message has less than 2 GiB, or where it is asked for.
"""

from __future__ import annotations

import os
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.record import Record
from ckptconv.errors import RejectedOutputError, UnsupportedError
from ckptconv.formats.base import WriteResult
from ckptconv.formats.onnx.data_file import in_data_file, in_safetensors
from ckptconv.formats.onnx.plan import GraphPlan, OnnxOptions
from ckptconv.formats.onnx.read import named
from ckptconv.formats.onnx.splice import MAX_MESSAGE, External, Layout, lay_out, refer
from ckptconv.formats.onnx.walk import Walker
from ckptconv.formats.onnx.weights import hashes_of, stream, weights_of
from ckptconv.formats.onnx.wire import Window
from ckptconv.io.digest import PLACEHOLDER, combine
from ckptconv.io.source import Source

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.base import WriteOptions
    from ckptconv.formats.onnx.weights import Weights
    from ckptconv.io.target import Target
METADATA_ROOM = 1 << 20
"""Bytes that metadata may grow by once the digest is known: none does, and the limit is 2 GiB."""


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the model that `options.graph` plans. Raises RejectedOutputError, DamagedTensorError, UnsupportedError."""
    plan, own = options.graph, options.own
    assert isinstance(plan, GraphPlan)
    assert isinstance(own, OnnxOptions)
    model = _copy(plan.model)
    weights = weights_of(checkpoint, plan, model)
    record = _record(checkpoint, plan, model, weights)
    keeps_record = not options.plain or _is_needed(record)
    _say(model, record, weights, PLACEHOLDER if keeps_record else None)
    sizes = {name: image.info.nbytes for name, image in weights.images.items()}
    hashes: dict[str, str] = {}
    if own.external_data.endswith(".safetensors"):
        external = in_safetensors(checkpoint, target, options, own.external_data, weights)
    elif own.external_data or _is_too_much(model, sizes):
        external = in_data_file(target, options, own.external_data, weights, hashes)
    else:
        external = {}
    embedded = {name: size for name, size in sizes.items() if name not in external}
    if _is_too_much(model, embedded):
        raise UnsupportedError("the graph and what it embeds have more than 2 GiB", hint="-O external-data=FILE")
    layout = lay_out(model, embedded, external)
    target.reserve(layout.size)
    hashes |= stream(target, options, weights, layout.offsets, content=keeps_record)
    digest = None
    if keeps_record:
        digest = combine(checkpoint, hashes_of(checkpoint, weights, hashes))
        _say(model, record, weights, digest)
        layout = lay_out(model, embedded, external)
    for position, piece in layout.pieces:
        target.write_at(position, piece)
    _check(model, embedded, external, layout)
    return WriteResult(layout.size + sum(other.size for other in target.companions), digest, tuple(weights.findings))


def _is_too_much(model: ModelProto, embedded: Mapping[str, int]) -> bool:
    """Whether the model and what it embeds are more than one message can be."""
    return sum(embedded.values()) + int(model.ByteSize()) + METADATA_ROOM > MAX_MESSAGE


def _record(checkpoint: Checkpoint, plan: GraphPlan, model: ModelProto, weights: Weights) -> Record:
    tied = checkpoint.tied_to
    record = Record(
        root=checkpoint.root, refs_are_model=records.refs_are_model(checkpoint), notes=checkpoint.notes,
        composites=checkpoint.composites_of(checkpoint), inline=weights.inline,
        names={stored: name for stored, name in weights.names.items() if stored != name},
        ties=[(name, tied[name], position) for position, name in enumerate(checkpoint) if name in tied],
        constants=_constants(model, weights), turned=[name for name, hole in plan.holes.items() if hole.turned],
    )  # fmt: skip
    said = {key for key, _ in records.visible(record)}
    record.strings = [pair.key for pair in model.metadata_props if pair.key not in said]
    return record


def _is_needed(record: Record) -> bool:
    """Whether the tensors would not come back under their names, and as they were, without it."""
    return bool(record.inline or record.names or record.ties or record.constants or record.turned or record.composites)


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


def _copy(model: ModelProto) -> ModelProto:
    from onnx import ModelProto

    made = ModelProto()
    made.CopyFrom(model)
    return made
