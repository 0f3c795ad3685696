"""DTensors in a pickle: a tensor that is distributed over several processes, as one of them has saved it.

    DTensor            made by torch._utils._rebuild_wrapper_subclass, with the size of the whole tensor
      _local_tensor    this process's part
      _spec            a DTensorSpec: placements, one for each dimension of the mesh; the DeviceMesh; shape and type

If the process has the whole tensor (a mesh of one, Replicate), that is read as a plain tensor; its placement on devices
is not kept, as for any tensor. Otherwise it is a part, named as such (`w._local_tensor`), with a warning: the other
processes have saved their parts elsewhere.

Source: torch/distributed/tensor/_api.py, _dtensor_spec.py, placement_types.py; torch/distributed/device_mesh.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.text import plural
from ckptconv.formats.torch.pickle import UnbuiltObject
from ckptconv.formats.torch.values.stubs import TensorStub, WrappedTensor, exact_flag

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.formats.torch.pickle import Value

_D = "torch.distributed."
CLASSES = frozenset(f"{_D}{module}.DTensor" for module in ("tensor", "tensor._api", "_tensor", "_tensor.api"))

_PLACED = frozenset(["Shard", "_StridedShard", "Replicate"])
"""Placements with which a process has elements of the tensor. With ``Partial`` it has summands instead."""

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
"""The classes that make up a DTensor in torch 2.2 to 2.13. They hold only numbers."""


def whole_of(made: WrappedTensor, attributes: Mapping[str, Value]) -> TensorStub | None:
    """The plain tensor, if `made` is a DTensor that the process has as a whole; otherwise None. `attributes` are those
    of the wrapper.
    """
    local = attributes.get("_local_tensor")
    if made.name not in CLASSES or not isinstance(local, TensorStub) or len(made.args) != 7:
        return None
    if local.shape != made.args[1] or not _are_placed(attributes.get("_spec")):
        return None
    return replace(local, requires_grad=exact_flag(made.args[6]))


def _are_placed(spec: Value) -> bool:
    """Whether, by a ``_spec``, the process has elements of the tensor."""
    state = spec.state if isinstance(spec, UnbuiltObject) else None
    placements = state.get("placements") if isinstance(state, dict) else None
    return isinstance(placements, (tuple, list)) and all(
        isinstance(placement, UnbuiltObject)
        and placement.name in PARTS
        and placement.name.rpartition(".")[2] in _PLACED
        for placement in placements
    )


def is_part(obj: UnbuiltObject) -> bool:
    """Whether an object is a harmless part of a DTensor."""
    return obj.name in PARTS and obj.how != "called"


def local_part_findings(unbuilt: Iterable[UnbuiltObject]) -> list[Finding]:
    """A warning if the file has only parts of distributed tensors."""
    found = [obj for obj in unbuilt if isinstance(obj, WrappedTensor) and obj.name in CLASSES]
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
