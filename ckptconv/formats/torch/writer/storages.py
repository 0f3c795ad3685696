"""Which storages a .pth gets, and how each tensor views one.

Tensors that share a storage in the source share one again, with their offsets and strides. What no tensor reaches at
a storage's ends is left out. A storage that is mostly unreachable is not kept; its views become contiguous tensors.
Every other tensor gets its own storage, or one together with those that it is tied to.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.arrays import TORCH_NAMES
from ckptconv.core.dtypes import DType
from ckptconv.core.strided import contiguous_strides, extent, memory_order
from ckptconv.core.tensor import ByteSpan, LazyTensor, Placement, Storage, TensorInfo, in_file
from ckptconv.errors import UnsupportedError
from ckptconv.formats.torch.dtypes import PACKED
from ckptconv.io.gather import Gather

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Mapping

    from ckptconv.core.checkpoint import Checkpoint

MOSTLY_DEAD = 2
"""A storage is kept if it has at most this many times the elements that its views reach."""


@dataclass(frozen=True, slots=True)
class View:
    """A tensor as the pickle describes it. `key` is its storage's; `offset` and `strides` count elements of `dtype`."""

    key: int
    dtype: DType
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    conj: bool = False
    neg: bool = False


@dataclass(frozen=True, slots=True)
class Stored:
    """A storage to be written. `image` gives its bytes; `name` is for errors."""

    name: str
    image: LazyTensor


def plan_storages(checkpoint: Checkpoint, without: Container[str] = ()) -> tuple[dict[str, View], list[Stored]]:
    """A view for every tensor except those in `without`, and the storages, in the order of their first tensors."""
    tensors = {name: writable(tensor) for name, tensor in checkpoint.all_tensors.items() if name not in without}
    kept = _kept_storages(tensors)
    views: dict[str, View] = {}
    storages: list[Stored] = []
    keys: dict[Hashable, int] = {}
    for name, tensor in tensors.items():
        place = tensor.placement
        group = _group(name, tensor, kept)
        if group not in keys:
            keys[group] = len(storages)
            image = _slice(place.storage, *kept[place.storage.key]) if _is_kept(tensor, kept) and place else None
            strides = checkpoint.notes.strides.get(name)
            storages.append(Stored(name, image or _own_image(tensor, strides)))
        key = keys[group]
        if place is not None and _is_kept(tensor, kept):
            low, _ = kept[place.storage.key]
            offset = place.offset - low if 0 not in place.shape else 0
            views[name] = View(key, tensor.info.dtype, offset, place.shape, place.strides, place.conj, place.neg)
        else:
            shape = torch_shape(tensor.info)
            views[name] = View(
                key, tensor.info.dtype, 0, shape, _own_strides(tensor, checkpoint.notes.strides.get(name))
            )
    return views, storages


def writable(tensor: LazyTensor) -> LazyTensor:
    """The tensor, or its bytes as U8 if torch has no such element type (a loss that the user has agreed to)."""
    if tensor.info.dtype in TORCH_NAMES:
        return tensor
    return replace(tensor, info=TensorInfo.of(DType.U8, (tensor.info.nbytes,)), placement=None)


def torch_shape(info: TensorInfo) -> tuple[int, ...]:
    """The shape in torch's elements, which pack several logical ones narrower than a byte. Raises UnsupportedError if
    the last dimension does not fill whole elements.
    """
    packed = PACKED.get(info.dtype)
    if packed is None:
        return info.shape
    if not info.shape or info.shape[-1] % packed:
        raise UnsupportedError(
            f"torch holds {info.dtype} by {packed} along the last dimension, and one has the shape {list(info.shape)}",
            hint="--dtype 'NAME=F32' makes floats of it",
        )
    return (*info.shape[:-1], info.shape[-1] // packed)


def _kept_storages(tensors: Mapping[str, LazyTensor]) -> dict[Hashable, tuple[int, int]]:
    """The storages that are worth keeping, each with the range of its units that its views reach."""
    places: dict[Hashable, list[tuple[Placement, Hashable]]] = defaultdict(list)
    for tensor in tensors.values():
        if tensor.placement is not None:
            places[tensor.placement.storage.key].append((tensor.placement, tensor.alias))
    kept = {}
    for key, views in places.items():
        real = [place for place, _ in views if 0 not in place.shape]
        low = min((place.offset for place in real), default=0)
        high = max((place.offset + extent(place.shape, place.strides) for place in real), default=0)
        reached = {alias: _distinct(place) for place, alias in views}
        if high - low <= MOSTLY_DEAD * sum(reached.values()):
            kept[key] = low, high
    return kept


def _distinct(place: Placement) -> int:
    """The number of elements that a view reaches; those of an expanded dimension count once."""
    return prod(n if stride else min(n, 1) for n, stride in zip(place.shape, place.strides, strict=True))


def _is_kept(tensor: LazyTensor, kept: Mapping[Hashable, object]) -> bool:
    return tensor.placement is not None and tensor.placement.storage.key in kept


def _group(name: str, tensor: LazyTensor, kept: Mapping[Hashable, object]) -> Hashable:
    if tensor.placement is not None and _is_kept(tensor, kept):
        return "storage", tensor.placement.storage.key
    return tensor.identity(name)


def _slice(storage: Storage, low: int, high: int) -> LazyTensor:
    """Units [low, high) of a storage, as bytes."""
    nbytes = (high - low) * storage.unit
    info = TensorInfo.of(DType.U8, (nbytes,))
    if storage.swapped and storage.unit > 1:
        return _swapped_slice(storage, low, high, info)
    span = storage.span
    if nbytes != span.length:
        span = ByteSpan(span.file, span.offset + low * storage.unit * (nbytes > 0), nbytes)
    return in_file(info, span, depends=(storage.span,))


def _swapped_slice(storage: Storage, low: int, high: int, info: TensorInfo) -> LazyTensor:
    place = Placement(storage, low, (high - low,), (1,))
    return LazyTensor(info, Gather(place, storage.dtype), depends=(storage.span,))


def _own_strides(tensor: LazyTensor, noted: tuple[int, ...] | None) -> tuple[int, ...]:
    shape = torch_shape(tensor.info)
    return noted if noted is not None and _order(tensor, noted) is not None else contiguous_strides(shape)


def _order(tensor: LazyTensor, strides: tuple[int, ...]) -> tuple[int, ...] | None:
    """The permutation that gives a contiguous tensor these strides; None if there is none."""
    if tensor.span is None or tensor.info.dtype in PACKED or tensor.info.dtype.bits < 8:
        return None
    if len(strides) != len(tensor.info.shape):
        return None
    return memory_order(tensor.info.shape, strides)


def _own_image(tensor: LazyTensor, noted: tuple[int, ...] | None) -> LazyTensor:
    """The bytes of a tensor's own storage: its elements, permuted if that gives it the strides in the notes."""
    order = _order(tensor, noted) if noted is not None else None
    if order is None or tensor.span is None or noted == contiguous_strides(tensor.info.shape):
        return tensor
    unit = tensor.info.dtype.bits // 8
    plain = contiguous_strides(tensor.info.shape)
    storage = Storage(tensor.alias, tensor.span, unit, tensor.info.numel, tensor.info.dtype)
    place = Placement(storage, 0, tuple(tensor.info.shape[a] for a in order), tuple(plain[a] for a in order))
    info = TensorInfo.of(tensor.info.dtype, place.shape)
    return LazyTensor(info, Gather(place, tensor.info.dtype), depends=tensor.depends)
