"""What a graph's initializers are filled with, and the bytes of that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.names import numbered
from ckptconv.core.record import Inline
from ckptconv.core.report import Finding
from ckptconv.core.text import quoted
from ckptconv.edits.views import permuted
from ckptconv.errors import UnsupportedError
from ckptconv.formats.onnx.plan import CODE_OF
from ckptconv.io.checksum import ContentHash
from ckptconv.io.digest import content_hash
from ckptconv.io.stream import Job, Streamer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnx import ModelProto

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor, TensorInfo
    from ckptconv.formats.base import WriteOptions
    from ckptconv.formats.onnx.plan import GraphPlan
    from ckptconv.io.target import Target

MAX_INLINE = 4096
"""Bytes of a tensor that the graph does not use, up to which it goes into the record."""

_IR_VERSION = {
    **dict.fromkeys((DType.F8_E5M2, DType.F8_E4M3, DType.F8_E5M2FNUZ, DType.F8_E4M3FNUZ), 9),
    **dict.fromkeys((DType.I4, DType.U4), 10), DType.F4: 11, DType.F8_E8M0: 12, DType.I2: 13, DType.U2: 13,
}  # fmt: skip
"""The IR version that first knew a type (onnx/onnx.proto); the others are older than any opset written here."""


@dataclass(slots=True)
class Weights:
    """What is stored: images by initializer, and the tensors' names; small tensors that the graph lacks; findings."""

    images: dict[str, LazyTensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    inline: list[Inline] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def weights_of(checkpoint: Checkpoint, plan: GraphPlan, model: ModelProto) -> Weights:
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
    return numbered(made, taken)


def stream(
    target: Target, options: WriteOptions, weights: Weights, offsets: Mapping[str, int], *, content: bool
) -> dict[str, str]:
    """Copy images to their places; content hashes by initializer."""
    jobs = [Job(weights.names[name], weights.images[name], offset) for name, offset in offsets.items()]
    sums = Streamer(target, crc=False, content=content, progress=options.progress).run(jobs)
    return {name: one.content for name, one in zip(offsets, sums, strict=True)}


def hashes_of(checkpoint: Checkpoint, weights: Weights, hashes: Mapping[str, str]) -> dict[str, str]:
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
