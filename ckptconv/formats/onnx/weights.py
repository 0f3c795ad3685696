"""The tensors that fill a graph's initializers, and streaming their bytes into the file."""

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
"""Tensors that the graph does not use go into the record if they have at most so many bytes."""

_IR_VERSION = {
    **dict.fromkeys((DType.F8_E5M2, DType.F8_E4M3, DType.F8_E5M2FNUZ, DType.F8_E4M3FNUZ), 9),
    **dict.fromkeys((DType.I4, DType.U4), 10), DType.F4: 11, DType.F8_E8M0: 12, DType.I2: 13, DType.U2: 13,
}  # fmt: skip
"""The first IR version with a type (onnx/onnx.proto); the other types are older than any opset written here."""


@dataclass(slots=True)
class Weights:
    """What is stored.

    images:   the tensor as it is stored, transposed if need be, by the name of the initializer.
    names:    the tensor's own name, by the name of the initializer.
    inline:   small tensors that the graph does not use; they go into the record.
    """

    images: dict[str, LazyTensor] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    inline: list[Inline] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def collect_weights(checkpoint: Checkpoint, plan: GraphPlan, model: ModelProto) -> Weights:
    """What fills the initializers, in the state_dict's order. Adds initializers for large tensors that have none."""
    from onnx import TensorProto

    weights = Weights()
    tied = checkpoint.tied_to
    initializer_of = {  # if several initializers take one tensor, the first
        tied.get(filling.tensor, filling.tensor): (stored, filling)
        for stored, filling in reversed(list(plan.fillings.items()))
    }
    taken = {tensor.name for tensor in model.graph.initializer}
    unused: list[str] = []
    for position, (name, tensor) in enumerate(checkpoint.items()):
        if name in tied:
            continue
        if name not in initializer_of and tensor.info.nbytes <= MAX_INLINE:
            weights.inline.append(Inline(name, position, tensor.info, bytes(tensor.read())))
            continue
        if name in initializer_of:
            stored, filling = initializer_of[name]
            image = permuted(tensor, (1, 0)) if filling.transposed else tensor
            if image is None:
                raise UnsupportedError(f"{name!r} cannot be transposed while it is copied", hint="--dtype F32 casts it")
        else:
            stored, image = _add_initializer(model, name, tensor.info, taken), tensor
            unused.append(name)
        weights.images[stored] = image
        weights.names[stored] = name
    # other initializers that take the same tensors get a copy each
    for stored, filling in plan.fillings.items():
        if stored not in weights.images:
            tensor = checkpoint[filling.tensor]
            weights.images[stored] = (permuted(tensor, (1, 0)) or tensor) if filling.transposed else tensor
            weights.names[stored] = filling.tensor
    for tensor_proto in model.graph.initializer:
        if tensor_proto.name in weights.images:
            tensor_proto.data_location = TensorProto.DEFAULT
    if unused:
        message = f"the graph does not use {quoted(unused, 1)}; kept as initializers of no use to it"
        weights.findings.append(Finding("unused", "info", unused[0], message))
    return weights


def _add_initializer(model: ModelProto, name: str, info: TensorInfo, taken: set[str]) -> str:
    """Add an initializer for a tensor that the graph does not use. Returns the initializer's name."""
    if info.dtype not in CODE_OF:
        raise UnsupportedError(f"ONNX has no {info.dtype}, as {name!r} is", hint=f"--drop {name!r}")
    stored = _valid_name(name, taken)
    taken.add(stored)
    model.ir_version = max(model.ir_version, _IR_VERSION.get(info.dtype, 0))
    model.graph.initializer.add(name=stored, dims=info.shape, data_type=CODE_OF[info.dtype])
    return stored


def _valid_name(name: str, taken: set[str]) -> str:
    """The name, changed if protobuf does not accept it or it is taken."""
    valid = name.encode("utf-8", "backslashreplace").decode("utf-8") or "#"
    return numbered(valid, taken)


def stream(
    target: Target, options: WriteOptions, weights: Weights, offsets: Mapping[str, int], *, content: bool
) -> dict[str, str]:
    """Copy the images to their offsets. Returns content hashes by initializer, which are "" without `content`."""
    jobs = [Job(weights.names[name], weights.images[name], offset) for name, offset in offsets.items()]
    sums = Streamer(target, crc=False, content=content, progress=options.progress).run(jobs)
    return {name: checksums.content for name, checksums in zip(offsets, sums, strict=True)}


def content_hashes(checkpoint: Checkpoint, weights: Weights, hashes: Mapping[str, str]) -> dict[str, str]:
    """Content hashes of all tensors by their own names. A tensor that was stored transposed is read again.

    hashes: of what was streamed, by initializer.
    """
    own = {tensor.name: _hash_bytes(tensor.data) for tensor in weights.inline}
    for stored, name in weights.names.items():
        is_unchanged = weights.images[stored] is checkpoint[name]
        if is_unchanged and stored in hashes:
            own[name] = hashes[stored]
        elif name not in own:
            own[name] = content_hash(checkpoint[name])
    tied = checkpoint.tied_to
    return {name: own[tied.get(name, name)] for name in checkpoint.all_tensors}


def _hash_bytes(data: bytes) -> str:
    content = ContentHash()
    content.update(data)
    return content.hexdigest()
