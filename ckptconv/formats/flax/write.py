"""Writer of Flax's msgpack, ``flax_model.msgpack``.

A tree that is Flax's own, as its files and Orbax' give it, is written as it is, byte for byte as
``flax.serialization.msgpack_serialize`` does. Otherwise the tree is made of the names, and what msgpack cannot say,
such as a tuple, that a mapping was an OrderedDict or that two names share one tensor, is in our record: a text under
the key ``ckptconv`` at the root. With ``--bare`` it is there only where a tensor needs it.
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
from ckptconv.formats.flax.growing import UnsayableError, grown
from ckptconv.formats.flax.nesting import flattened, nested
from ckptconv.formats.flax.packed import Unpacked
from ckptconv.formats.flax.packing import Between, packed
from ckptconv.formats.flax.stored import accepted, is_accepted, stored_as
from ckptconv.formats.flax.tree import plant
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

OWN = ("flax", "orbax")
"""Formats whose trees are Flax's, in which a key may have dots."""


@dataclass(slots=True)
class _Planned:
    """The tree that is to be written, but for the record; without a `plan` there is none.

    names: of the arrays, in the order in which they stand in the tree.
    """

    value: Value
    names: list[str]
    plan: Plan | None = None

    def with_record(self, digest: str) -> Value:
        """The whole tree."""
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
    made = _planned(checkpoint, plain=options.plain)
    file = packed(made.with_record(PLACEHOLDER))
    target.reserve(file.size)
    jobs, place = [], 0
    for name, tensor in zip(made.names, file.tensors, strict=True):
        jobs.append(Job(name, _in_whole_bytes(tensor), place))
        place += jobs[-1].tensor.info.nbytes
    keeps_record = made.plan is not None
    sums = Streamer(Between(target, file.runs), crc=False, content=keeps_record, progress=options.progress).run(jobs)
    digest = None
    if made.plan is not None:
        hashes = {
            name: content_hash(tensor) if tensor.info.dtype.bits < 8 else one.content
            for name, tensor, one in zip(flattened(made.value)[0], file.tensors, sums, strict=True)
        }
        digest = made.plan.digest(checkpoint, hashes)
        file = packed(made.with_record(digest))
    for place, head in file.heads:
        target.write_at(place, head)
    return WriteResult(file.size, digest)


def _planned(checkpoint: Checkpoint, *, plain: bool) -> _Planned:
    value = _own_tree(checkpoint, plain=plain)
    if value is not None:
        called = {id(tensor): name for name, tensor in checkpoint.all_tensors.items()}
        return _Planned(value, [called[id(tensor)] for tensor in packed(value).tensors])
    made = plan(checkpoint, accepted, stored_as)
    value = nested({name: replace(tensor, info=made.infos[name]) for name, tensor in made.stored.items()})
    names = [made.record.own_name(stored) for stored in flattened(value)[0]]
    own = [made.record.own_name(stored) for stored in made.stored]
    made.record.order = own if own != names else []
    return _Planned(value, names, made)


def _own_tree(checkpoint: Checkpoint, *, plain: bool) -> Value | None:
    """The tree that says it all, as its reader would give the very same back; None where there is none.

    `plain`: the tensors alone have to be the same.
    """
    tensors = checkpoint.all_tensors
    if not tensors or checkpoint.ties or checkpoint.composites or not all(map(is_accepted, tensors)):
        return None
    if any(stored_as(tensor.info) != tensor.info for tensor in tensors.values()):
        return None
    if plain:
        value: Value = nested(tensors)
        tree = plant(value)
        return value if tree.model.keys() == checkpoint.keys() and not tree.extras else None
    if not is_unnoted(checkpoint):
        return None
    try:
        value = grown(checkpoint, dots=checkpoint.notes.source in OWN)
    except UnsayableError:
        return None
    if not isinstance(value, (dict, LazyTensor)):
        return None
    tree = plant(value)
    is_same = [*tree.model] == [*checkpoint] and [*tree.extras] == [*checkpoint.extras]
    return value if is_same and same(tree.root, checkpoint.root) else None


def _in_whole_bytes(tensor: LazyTensor) -> LazyTensor:
    """The elements as they are written, those under 8 bits with a byte for each."""
    info = tensor.info
    if info.dtype.bits >= 8:
        return tensor
    reader = Unpacked(tensor.read, info.dtype, info.numel)
    return LazyTensor(TensorInfo.of(DType.U8, (info.numel,)), reader, depends=tensor.depends)
