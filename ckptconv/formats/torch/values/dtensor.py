"""DTensors in a pickle: a tensor that several processes hold together, as each of them saves it.

    DTensor            made by torch._utils._rebuild_wrapper_subclass, whose size is that of the whole
      _local_tensor    what this process has of it
      _spec            a DTensorSpec: placements, one for each dimension of the mesh; the DeviceMesh; shape and type

Where a process has all of it (a mesh of one, Replicate), what it has is the tensor, and how it lay on devices is not
kept, as of any tensor. Else it is a part, under its own name (`w._local_tensor`), which is said: the other processes
saved theirs elsewhere.

Source: torch/distributed/tensor/_api.py, _dtensor_spec.py, placement_types.py; torch/distributed/device_mesh.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.text import plural
from ckptconv.formats.torch.pickle import Thing
from ckptconv.formats.torch.values.stubs import TensorStub, WrappedTensor, exact_flag

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.formats.torch.pickle import Value

_D = "torch.distributed."
CLASSES = frozenset(f"{_D}{module}.DTensor" for module in ("tensor", "tensor._api", "_tensor", "_tensor.api"))

_PLACED = frozenset(["Shard", "_StridedShard", "Replicate"])
"""Placements with which a process has elements of the tensor. With ``Partial`` it has a summand of each."""

PARTS = CLASSES | {
    f"{_D}{module}.{name}" for module, names in {
        "_mesh_layout": "_FlatLayout _MeshLayout",
        "_tensor._dtensor_spec": "DTensorSpec TensorMeta",
        "_tensor.placement_types": "DTensorSpec Replicate Shard TensorMeta",
        "device_mesh": "DeviceMesh",
        "tensor._dtensor_spec": "DTensorSpec ShardOrderEntry TensorMeta",
        "tensor.placement_types": "Replicate Shard _StridedShard",
    }.items() for name in names.split()
}  # fmt: skip
"""The classes that a DTensor is made of, in torch 2.2 to 2.13: records of numbers."""


def whole_of(made: WrappedTensor, attributes: Mapping[str, Value]) -> TensorStub | None:
    """The tensor itself, where it is a DTensor of which the process has all; `attributes` are those of the wrapper."""
    local = attributes.get("_local_tensor")
    if made.name not in CLASSES or not isinstance(local, TensorStub) or len(made.args) != 7:
        return None
    if local.shape != made.args[1] or not _are_placed(attributes.get("_spec")):
        return None
    return replace(local, requires_grad=exact_flag(made.args[6]))


def _are_placed(spec: Value) -> bool:
    """Whether a ``_spec`` says that what a process has are elements of the whole."""
    state = spec.state if isinstance(spec, Thing) else None
    placements = state.get("placements") if isinstance(state, dict) else None
    return isinstance(placements, (tuple, list)) and all(
        isinstance(one, Thing) and one.name in PARTS and one.name.rpartition(".")[2] in _PLACED for one in placements
    )


def is_part(thing: Thing) -> bool:
    """Whether an object is one that a DTensor is made of, and nothing that is called."""
    return thing.name in PARTS and thing.how != "called"


def parts_told(things: Iterable[Thing]) -> list[Finding]:
    """A warning where the file has a part alone of tensors."""
    found = [thing for thing in things if isinstance(thing, WrappedTensor) and thing.name in CLASSES]
    if not found:
        return []
    size = found[0].args[1] if len(found[0].args) > 1 else None
    whole = f", the first one's whole is {list(size)}" if isinstance(size, tuple) else ""
    message = (
        f"{plural(len(found), 'tensor is a part', 'tensors are parts')} of distributed ones (DTensor), as one process "
        f"has them{whole}: the rest is in the other processes' files"
    )
    hint = "torch.distributed.checkpoint.save writes a folder that is read as a whole"
    return [Finding("part", "warning", "", message, hint=hint)]
