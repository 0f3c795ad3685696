"""Writer of ONNX: a graph with the checkpoint's tensors as its initializers, and our record.

The tensors are streamed into the graph's file, or into a second file that the first refers to (`data_file`): either
because the user asked for that, or because a protobuf message must be smaller than 2 GiB.
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
from ckptconv.formats.onnx.data_file import point_into_safetensors, write_data_file
from ckptconv.formats.onnx.layout import MAX_MESSAGE, External, Layout, make_external, plan_layout
from ckptconv.formats.onnx.plan import GraphPlan, OnnxOptions
from ckptconv.formats.onnx.read import model_tensors
from ckptconv.formats.onnx.walk import Walker
from ckptconv.formats.onnx.weights import collect_weights, content_hashes, stream
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
"""Bytes kept free below the limit of 2 GiB, in case the metadata grows when the digest is filled in (it does not)."""


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the model that `options.graph` plans. Raises RejectedOutputError, DamagedTensorError, UnsupportedError."""
    plan, own = options.graph, options.own
    assert isinstance(plan, GraphPlan)
    assert isinstance(own, OnnxOptions)
    model = _copy(plan.model)
    weights = collect_weights(checkpoint, plan, model)
    record = _record(checkpoint, plan, model, weights)
    keeps_record = not options.plain or _is_needed(record)
    _set_metadata(model, record, weights, PLACEHOLDER if keeps_record else None)
    sizes = {name: image.info.nbytes for name, image in weights.images.items()}
    external: dict[str, External] = {}
    hashes: dict[str, str] = {}
    if own.external_data.endswith(".safetensors"):
        external = point_into_safetensors(checkpoint, target, options, own.external_data, weights)
    elif own.external_data or _exceeds_message_limit(model, sizes):
        external = write_data_file(target, options, own.external_data, weights, hashes)
    embedded = {name: size for name, size in sizes.items() if name not in external}
    if _exceeds_message_limit(model, embedded):
        raise UnsupportedError("the graph and what it embeds have more than 2 GiB", hint="-O external-data=FILE")
    layout = plan_layout(model, embedded, external)
    target.reserve(layout.size)
    hashes |= stream(target, options, weights, layout.offsets, content=keeps_record)
    digest = None
    if keeps_record:
        digest = combine(checkpoint, content_hashes(checkpoint, weights, hashes))
        _set_metadata(model, record, weights, digest)
        layout = plan_layout(model, embedded, external)
    for position, piece in layout.pieces:
        target.write_at(position, piece)
    _check_with_onnx(model, embedded, external, layout)
    return WriteResult(layout.size + sum(other.size for other in target.companions), digest, tuple(weights.findings))


def _exceeds_message_limit(model: ModelProto, embedded: Mapping[str, int]) -> bool:
    """Whether the model, with what it embeds, is larger than one protobuf message can be."""
    return sum(embedded.values()) + int(model.ByteSize()) + METADATA_ROOM > MAX_MESSAGE


def _record(checkpoint: Checkpoint, plan: GraphPlan, model: ModelProto, weights: Weights) -> Record:
    tied = checkpoint.tied_to
    record = Record(
        root=checkpoint.root, refs_are_model=records.refs_are_model(checkpoint), notes=checkpoint.notes,
        composites=checkpoint.composites_of(checkpoint), inline=weights.inline,
        names={stored: name for stored, name in weights.names.items() if stored != name},
        ties=[(name, tied[name], position) for position, name in enumerate(checkpoint) if name in tied],
        constants=_constants(model, weights),
        turned=[name for name, filling in plan.fillings.items() if filling.transposed],
    )  # fmt: skip
    visible = {key for key, _ in records.visible(record)}
    record.strings = [pair.key for pair in model.metadata_props if pair.key not in visible]
    return record


def _is_needed(record: Record) -> bool:
    """Whether the tensors could not be read back as they were, under their names, without the record."""
    return bool(record.inline or record.names or record.ties or record.constants or record.turned or record.composites)


def _constants(model: ModelProto, weights: Weights) -> list[str]:
    """The constants of the computation that a reader would take for tensors of the model."""
    with TemporaryDirectory(prefix="ckptconv-") as folder:
        path = os.path.join(folder, "graph.onnx")
        with open(path, "wb") as file:
            file.write(model.SerializeToString())
        with Source(path) as source:
            written = Walker(Window(source)).read_model()
    assert written.graph is not None
    return [name for name in model_tensors(written, written.graph) if name not in weights.names]


def _set_metadata(model: ModelProto, record: Record, weights: Weights, digest: str | None) -> None:
    """Replace the model's metadata: with the strings to keep and the record, or, if `digest` is None, without it."""
    ours = {} if digest is None else records.strings_of(replace(record, digest=digest), weights.names.values())
    kept = {pair.key: pair.value for pair in model.metadata_props if pair.key in record.strings}
    del model.metadata_props[:]
    for key, value in {**kept, **ours}.items():
        model.metadata_props.add(key=key, value=value)


def _check_with_onnx(
    model: ModelProto, embedded: Mapping[str, int], external: Mapping[str, External], layout: Layout
) -> None:
    """Let `onnx.checker` check a twin of the model whose tensors are all external, so that none is loaded.

    Of external data, the checker only requires that the file exists: the twin's is an empty one in its own folder.
    """
    from onnx import checker

    twin = _copy(model)
    for tensor in twin.graph.initializer:
        if tensor.name in embedded:
            make_external(tensor, External("data", layout.offsets[tensor.name], embedded[tensor.name]))
        elif tensor.name in external:
            make_external(tensor, External("data", external[tensor.name].offset, external[tensor.name].length))
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

    copy = ModelProto()
    copy.CopyFrom(model)
    return copy
