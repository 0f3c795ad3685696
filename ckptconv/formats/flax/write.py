"""Writer of Flax's msgpack, ``flax_model.msgpack``.

A tree that msgpack can express, as one from a file of Flax or Orbax, is written byte for byte as
``flax.serialization.msgpack_serialize`` writes it. Otherwise the tree is made from the tensors' names, and what msgpack
cannot express (a tuple, an OrderedDict, a tie) is in our record, a text under the key ``ckptconv`` at the root. With
``--bare``, the record is written only if a tensor needs it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ckptconv.core import record as records
from ckptconv.core.dtypes import DType
from ckptconv.core.spelling import same
from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.errors import LimitError
from ckptconv.formats.base import WriteResult
from ckptconv.formats.flax.metadata import InexactError, tree_from_metadata
from ckptconv.formats.flax.nesting import flatten, tree_from_names
from ckptconv.formats.flax.packed import Unpacked
from ckptconv.formats.flax.packing import ElementTarget, lay_out
from ckptconv.formats.flax.stored import accepted, is_accepted, stored_as
from ckptconv.formats.flax.tree import split_tree
from ckptconv.formats.targets.plan import is_unnoted, plan
from ckptconv.io.digest import PLACEHOLDER, content_hash
from ckptconv.io.limits import MAX_SAFETENSORS_HEADER
from ckptconv.io.stream import Job, Streamer

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.base import WriteOptions
    from ckptconv.formats.flax.msgpack import Value
    from ckptconv.formats.targets.plan import Plan
    from ckptconv.io.target import Target

FLAX_SOURCES = ("flax", "orbax")
"""Formats whose trees may have keys with dots."""


@dataclass(slots=True)
class _PlannedTree:
    """The tree to be written, without the record.

    names: the names of the arrays, in the order of the tree.
    plan:  of a tree with a record; None if there is none.
    """

    value: Value
    names: list[str]
    plan: Plan | None = None

    def with_record(self, digest: str) -> Value:
        """The tree with its record, if it has one. Raises LimitError."""
        if self.plan is None:
            return self.value
        text = replace(self.plan.record, root=self.plan.root, digest=digest).spell(self.plan.infos)
        if len(text) > MAX_SAFETENSORS_HEADER:
            raise LimitError(
                f"the record would have {len(text):,} bytes; the limit is {MAX_SAFETENSORS_HEADER:,}",
                hint="--bare leaves the metadata out",
            )
        return {**self.value, records.KEY: text}


def write(checkpoint: Checkpoint, target: Target, options: WriteOptions) -> WriteResult:
    """Write the checkpoint. Raises LimitError, DamagedTensorError."""
    tree = _plan_tree(checkpoint, plain=options.plain)
    layout = lay_out(tree.with_record(PLACEHOLDER))
    target.reserve(layout.size)
    jobs, place = [], 0
    for name, tensor in zip(tree.names, layout.tensors, strict=True):
        jobs.append(Job(name, _in_whole_bytes(tensor), place))
        place += jobs[-1].tensor.info.nbytes
    elements = ElementTarget(target, layout.runs)
    has_record = tree.plan is not None
    sums = Streamer(elements, crc=False, content=has_record, progress=options.progress).run(jobs)
    digest = None
    if tree.plan is not None:
        hashes = {
            name: content_hash(tensor) if tensor.info.dtype.bits < 8 else tensor_sums.content
            for name, tensor, tensor_sums in zip(flatten(tree.value)[0], layout.tensors, sums, strict=True)
        }
        digest = tree.plan.digest(checkpoint, hashes)
        layout = lay_out(tree.with_record(digest))
    for place, head in layout.heads:
        target.write_at(place, head)
    return WriteResult(layout.size, digest)


def _plan_tree(checkpoint: Checkpoint, *, plain: bool) -> _PlannedTree:
    value = _tree_without_record(checkpoint, plain=plain)
    if value is not None:
        names = {id(tensor): name for name, tensor in checkpoint.all_tensors.items()}
        return _PlannedTree(value, [names[id(tensor)] for tensor in lay_out(value).tensors])
    tensor_plan = plan(checkpoint, accepted, stored_as)
    tensors = {name: replace(tensor, info=tensor_plan.infos[name]) for name, tensor in tensor_plan.stored.items()}
    value = tree_from_names(tensors)
    in_tree = [tensor_plan.record.own_name(stored) for stored in flatten(value)[0]]
    in_checkpoint = [tensor_plan.record.own_name(stored) for stored in tensor_plan.stored]
    tensor_plan.record.order = in_checkpoint if in_checkpoint != in_tree else []
    return _PlannedTree(value, in_tree, tensor_plan)


def _tree_without_record(checkpoint: Checkpoint, *, plain: bool) -> Value | None:
    """A tree from which a reader gets the same checkpoint, without a record; None if there is none.

    plain: only the model's tensors have to be the same.
    """
    tensors = checkpoint.all_tensors
    if not tensors or checkpoint.ties or checkpoint.composites or not all(map(is_accepted, tensors)):
        return None
    if any(stored_as(tensor.info) != tensor.info for tensor in tensors.values()):
        return None
    if plain:
        value: Value = tree_from_names(tensors)
        tree = split_tree(value)
        return value if tree.model.keys() == checkpoint.keys() and not tree.extras else None
    if not is_unnoted(checkpoint):
        return None
    try:
        value = tree_from_metadata(checkpoint, dots=checkpoint.notes.source in FLAX_SOURCES)
    except InexactError:
        return None
    if not isinstance(value, (dict, LazyTensor)):
        return None
    tree = split_tree(value)
    is_same = [*tree.model] == [*checkpoint] and [*tree.extras] == [*checkpoint.extras]
    return value if is_same and same(tree.root, checkpoint.root) else None


def _in_whole_bytes(tensor: LazyTensor) -> LazyTensor:
    """The elements as they are written, those of fewer than 8 bits as a byte each."""
    info = tensor.info
    if info.dtype.bits >= 8:
        return tensor
    reader = Unpacked(tensor.read, info.dtype, info.numel)
    return LazyTensor(TensorInfo.of(DType.U8, (info.numel,)), reader, depends=tensor.depends)
