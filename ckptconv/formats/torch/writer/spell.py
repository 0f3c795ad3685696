"""Pickling tensors for torch.load. `values.composites` describes how quantized and sparse ones are pickled."""

from __future__ import annotations

from struct import unpack
from typing import TYPE_CHECKING

from ckptconv.core.arrays import TORCH_NAMES
from ckptconv.core.composite import INDICES, PER_CHANNEL, PER_TENSOR, VALUES, Quantized, Sparse, problem
from ckptconv.core.indices import check_indices
from ckptconv.core.metadata import TensorRef, TorchSize, TorchValue, nodes_of
from ckptconv.core.strided import contiguous_strides
from ckptconv.core.tensor import infos_of
from ckptconv.errors import CorruptFileError, UnsupportedError
from ckptconv.formats.torch.dtypes import QUANTIZED_STORAGE_BY_DTYPE, STORAGE_CLASS_BY_DTYPE, UNTYPED
from ckptconv.formats.torch.writer.emit import StorageRef

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.dtypes import DType
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.torch.writer.emit import Emitter
    from ckptconv.formats.torch.writer.storages import View

    Part = Callable[[Emitter, str], None]


def check_composites(checkpoint: Checkpoint) -> None:
    """Refuse what torch would accept unchecked: parts that do not fit together, indices out of range.

    Reads all indices. Raises CorruptFileError.
    """
    tensors = checkpoint.all_tensors
    infos = infos_of(tensors) if checkpoint.composites else {}
    for name, composite in checkpoint.composites.items():
        if (wrong := problem(composite, infos)) is not None:
            raise CorruptFileError(f"tensor {name!r}: {wrong}", hint="do not trust it")
        if isinstance(composite, Sparse):
            check_indices(name, composite, tensors)
    _check_storages(checkpoint)


def _check_storages(checkpoint: Checkpoint) -> None:
    """Refuse quantized integers that share a storage with other tensors: their storages have a class of their own."""
    integers = {
        composite.parts[VALUES]: composite.dtype
        for composite in checkpoint.composites.values()
        if isinstance(composite, Quantized)
    }
    known: dict[Hashable, tuple[DType | None, str]] = {}
    for name, tensor in checkpoint.all_tensors.items() if integers else ():
        key = tensor.alias if tensor.placement is None else tensor.placement.storage.key
        dtype = integers.get(name)
        if key is not None and known.setdefault(key, (dtype, name))[0] is not dtype:
            raise UnsupportedError(
                f"{name!r} shares its storage with {known[key][1]!r}, and one of them is quantized otherwise",
                hint="clone() it before saving",
            )


def in_the_pickle(checkpoint: Checkpoint) -> set[str]:
    """Scales and zero points that become numbers in the pickle, and need no storage."""
    numbers = {
        part
        for composite in checkpoint.composites.values()
        if isinstance(composite, Quantized) and composite.axis is None
        for role, part in composite.parts.items()
        if role != VALUES
    }
    if not numbers:
        return numbers
    return numbers - {node.name for node in nodes_of(checkpoint.root, TensorRef)}


def dense_function(dtype: DType) -> str:
    """The function in ``torch._utils`` that rebuilds a dense tensor of this type."""
    return "_rebuild_tensor_v2" if dtype in STORAGE_CLASS_BY_DTYPE else "_rebuild_tensor_v3"


def spell_dense(emitter: Emitter, view: View, nbytes: int, *, requires_grad: bool = False) -> None:
    """Emit the arguments of `dense_function`; `view` is on a storage of `nbytes`."""
    cls = STORAGE_CLASS_BY_DTYPE.get(view.dtype)
    emitter.op(b"(")
    if cls is not None:
        emitter.node(StorageRef(("torch", cls), str(view.key), nbytes * 8 // view.dtype.bits))
    else:
        emitter.node(StorageRef(("torch.storage", UNTYPED), str(view.key), nbytes))
    emitter.integer(view.offset)
    emitter.node(view.shape)
    emitter.node(view.strides)
    emitter.node(requires_grad)
    emitter.call("collections", "OrderedDict")
    if cls is None:
        emitter.node(TorchValue("dtype", TORCH_NAMES[view.dtype]))
    if view.conj or view.neg:
        emitter.node({key: True for key, on in (("conj", view.conj), ("neg", view.neg)) if on})
    emitter.op(b"t")


def spell_quantized(
    emitter: Emitter, composite: Quantized, tensors: Mapping[str, LazyTensor], view: View, nbytes: int, part: Part
) -> None:
    """Emit the arguments of ``_rebuild_qtensor``; `view` is that of the integers, on a storage of `nbytes`.

    Reads the scale and the zero point if there is only one of each.
    """
    packed = composite.dtype.bits < 8
    strides = contiguous_strides(composite.shape) if packed else view.strides
    cls = QUANTIZED_STORAGE_BY_DTYPE[composite.dtype]
    emitter.op(b"(")
    emitter.node(StorageRef(("torch", cls), str(view.key), nbytes * 8 // view.dtype.bits))
    emitter.integer(view.offset)
    emitter.node(composite.shape)
    emitter.node(strides)
    if composite.scheme == PER_TENSOR:
        numbers = (bytes(tensors[composite.parts[role]].read()) for role in ("scale", "zero_point"))
        scale, zero_point = (unpack(code, data)[0] for code, data in zip(("<d", "<q"), numbers, strict=True))
        emitter.node((TorchValue("qscheme", PER_TENSOR), scale, zero_point))
    else:
        emitter.op(b"(")
        emitter.constant(PER_CHANNEL)  # torch writes this for float zero points too, and tells them by their type
        part(emitter, composite.parts["scale"])
        part(emitter, composite.parts["zero_point"])
        emitter.node(composite.axis)
        emitter.op(b"t")
    emitter.node(False)
    emitter.call("collections", "OrderedDict")
    emitter.op(b"t")


def spell_sparse(emitter: Emitter, composite: Sparse, part: Part) -> None:
    """Emit the arguments of ``_rebuild_sparse_tensor``."""
    emitter.op(b"(")
    emitter.node(TorchValue("layout", composite.layout))
    emitter.op(b"(")
    for role in (*INDICES[composite.layout], VALUES):
        part(emitter, composite.parts[role])
    emitter.node(TorchSize(composite.shape))
    if composite.layout == "sparse_coo":
        emitter.node(composite.coalesced)
    emitter.op(b"tt")
