"""Weights that are computed of several tensors while they are read, in F64 and rounded once to the first one's type.

    pruned          orig, mask     their product; where a mask is 0 or 1, exact
    weight_norm     v, g           v · g / ‖v‖, with a norm for each index of `axis`; without one, a norm of the whole
    spectral_norm   orig, u, v     orig / (u · orig v), with `axis` as the rows of the matrix. Without one, that whose
                                   u · orig v is the largest: u and v were made so that it is, for one of them

torch computes in the tensor's own type, so its results may be a few units in the last place away. Norms take one more
pass over the tensor, when it is first read. Memory: for a block, g, u and v.

Sources: torch/_weight_norm (aten/src/ATen/native/WeightNorm.cpp), torch/nn/utils/spectral_norm.py, parametrizations.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, TensorInfo, depends_of
from ckptconv.edits.computed import BLOCK, Computed
from ckptconv.edits.parametrized.find import axes_of_spectral
from ckptconv.edits.rounding import Loss, cast_array, rounded_once

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ckptconv.core.arrays import Array
    from ckptconv.core.spelling import Json

FLOATS = (DType.F64, DType.F32, DType.F16, DType.BF16)
"""The types in which torch computes."""

MOST_HELD = 1 << 25
"""Elements of g, u or v, which are held in memory."""


class Factors(Protocol):
    """What the elements of a tensor are multiplied by."""

    def of(self, first: int, last: int) -> Array:
        """The factors of the elements [first, last), or one for all of them, in F64."""


@dataclass(frozen=True, slots=True)
class Mask:
    """The mask's own elements."""

    mask: LazyTensor

    def of(self, first: int, last: int) -> Array:
        """These elements."""
        return _wide(self.mask, first, last)


@dataclass(eq=False)
class Norms:
    """g / ‖v‖, for each index of a dimension, or for the whole."""

    v: LazyTensor
    g: LazyTensor
    axis: int | None
    lock: Lock = field(default_factory=Lock, init=False)

    def of(self, first: int, last: int) -> Array:
        """The factors of these elements."""
        with self.lock:
            factors = self._factors
        result: Array = factors[self._index(first, last)]
        return result

    def _index(self, first: int, last: int) -> Array:
        import numpy as np

        if self.axis is None:
            return np.zeros(last - first, np.int64)
        return _index_along(self.axis, self.v.info.shape, first, last)

    @cached_property
    def _factors(self) -> Array:
        import numpy as np

        given = _wide(self.g, 0, self.g.info.numel)
        squares = np.zeros(given.size)
        for first, last in _blocks(self.v.info.numel):
            values = np.square(_wide(self.v, first, last))
            squares += np.bincount(self._index(first, last), values, given.size)
        return given / np.sqrt(squares)


@dataclass(eq=False)
class Spectral:
    """1 / σ, where σ is u · W v of the matrix W that has dimension `axes[i]` as its rows, the largest of these."""

    weight: LazyTensor
    u: LazyTensor
    v: LazyTensor
    axes: Sequence[int]
    lock: Lock = field(default_factory=Lock, init=False)

    def of(self, first: int, last: int) -> Array:
        """The one factor."""
        with self.lock:
            return self._factor

    @cached_property
    def _factor(self) -> Array:
        import numpy as np

        u, v = (_wide(vector, 0, vector.info.numel) for vector in (self.u, self.v))
        sums = np.zeros(len(self.axes))
        for first, last in _blocks(self.weight.info.numel):
            values = _wide(self.weight, first, last)
            for i, axis in enumerate(self.axes):
                shape = self.weight.info.shape
                rows, others = _index_along(axis, shape, first, last), _index_across(axis, shape, first, last)
                sums[i] += np.dot(values * u[rows], v[others])
        return np.asarray(1 / sums[np.argmax(np.abs(sums))])


def _index_along(axis: int, shape: tuple[int, ...], first: int, last: int) -> Array:
    """The index of each element [first, last) along a dimension."""
    import numpy as np

    inner = prod(shape[axis + 1 :])
    return np.arange(first, last) // inner % shape[axis]


def _index_across(axis: int, shape: tuple[int, ...], first: int, last: int) -> Array:
    """The index of each element [first, last) among those of all other dimensions, in their order."""
    import numpy as np

    inner = prod(shape[axis + 1 :])
    places = np.arange(first, last)
    return places // (inner * shape[axis]) * inner + places % inner


def _blocks(numel: int) -> Iterator[tuple[int, int]]:
    for first in range(0, numel, BLOCK):
        yield first, min(first + BLOCK, numel)


def _wide(tensor: LazyTensor, first: int, last: int) -> Array:
    import numpy as np

    return tensor.elements(first, last).astype(np.float64)


@dataclass
class ProductReader(Computed):
    """A reader of a tensor with every element multiplied by its factor. `parts`: what the factors come of."""

    factors: Factors
    parts: tuple[LazyTensor, ...]

    def cast_to(self, dtype: DType) -> LazyTensor:
        """The same weight, rounded to another type instead."""
        return _product(self.source, self.factors, self.parts, dtype)

    def __call__(self, start: int, stop: int) -> memoryview:
        unit = self.dtype.bits // 8
        first, last = start // unit, -(-stop // unit)
        result = b"".join(self._block(low, min(low + BLOCK, last)) for low in range(first, last, BLOCK))
        return memoryview(result)[start - first * unit : stop - first * unit]

    def _block(self, first: int, last: int) -> bytes:
        import numpy as np

        from ckptconv.core.arrays import to_bytes

        before = _wide(self.source, first, last)
        with np.errstate(all="ignore"):  # what overflows is counted below
            values = before * self.factors.of(first, last)
        lost = int(np.count_nonzero(np.isfinite(before) & ~np.isfinite(values)))
        if self.dtype is self.source.info.dtype:
            result, overflowed = rounded_once(values, self.dtype)
            loss = Loss(overflowed)
        else:
            result, loss = cast_array(values, DType.F64, self.dtype)
        loss.overflowed += lost
        self.note(first, last, loss)
        return to_bytes(result, self.dtype)


def plain_weight(tensors: Sequence[LazyTensor], details: Mapping[str, Json]) -> LazyTensor:
    """The weight that is computed of these tensors. Reads none of them. `details`: the scheme, and an axis.

    Raises ValueError, saying what does not fit.
    """
    scheme = details.get("scheme")
    if scheme not in _MAKERS:
        raise ValueError(f"there is no scheme {scheme!r}, but {', '.join(_MAKERS)}")
    count, make = _MAKERS[str(scheme)]
    if len(tensors) != count:
        raise ValueError(f"{scheme} takes {count} tensors, and not {len(tensors)}")
    for tensor in tensors:
        if tensor.info.dtype not in FLOATS and not (scheme == "pruned" and tensor.info.dtype is DType.BOOL):
            raise ValueError(f"{tensor.info.dtype} is not computed with")
    axis = details.get("axis")
    if axis is not None and (type(axis) is not int or not 0 <= axis < len(tensors[0].info.shape)):
        raise ValueError(f"there is no dimension {axis!r} in {list(tensors[0].info.shape)}")
    return _product(tensors[0], make(*tensors, axis), tuple(tensors[1:]), tensors[0].info.dtype)


def _product(source: LazyTensor, factors: Factors, parts: tuple[LazyTensor, ...], dtype: DType) -> LazyTensor:
    info = TensorInfo.of(dtype, source.info.shape)
    return LazyTensor(info, ProductReader(source, dtype, factors, parts), depends=depends_of([source, *parts]))


def _pruned(orig: LazyTensor, mask: LazyTensor, axis: int | None) -> Factors:
    if axis is not None:
        raise ValueError("pruned takes no axis")
    if mask.info.shape != orig.info.shape:
        raise ValueError(f"a mask of {list(mask.info.shape)} is not for {list(orig.info.shape)}")
    return Mask(mask)


def _weight_norm(v: LazyTensor, g: LazyTensor, axis: int | None) -> Factors:
    count = 1 if axis is None else v.info.shape[axis]
    _check_held(g, count, "g")
    return Norms(v, g, axis)


def _spectral_norm(orig: LazyTensor, u: LazyTensor, v: LazyTensor, axis: int | None) -> Factors:
    shape = orig.info.shape
    fits = axes_of_spectral(shape, u.info.shape, v.info.shape)
    axes = fits if axis is None else tuple(set(fits) & {axis})
    if not axes:
        raise ValueError(f"u of {list(u.info.shape)} and v of {list(v.info.shape)} are not for {list(shape)}")
    _check_held(u, u.info.numel, "u")
    _check_held(v, v.info.numel, "v")
    return Spectral(orig, u, v, axes)


def _check_held(tensor: LazyTensor, count: int, role: str) -> None:
    if tensor.info.numel != count:
        raise ValueError(f"{role} has {tensor.info.numel:,} elements, and not {count:,}")
    if count > MOST_HELD:
        raise ValueError(f"{role} has {count:,} elements, and more than {MOST_HELD:,} are not held in memory")


_MAKERS: dict[str, tuple[int, Callable[..., Factors]]] = {
    "pruned": (2, _pruned), "weight_norm": (2, _weight_norm), "spectral_norm": (3, _spectral_norm),
}  # fmt: skip
"""For each scheme, how many tensors it takes, and what makes its factors of them and an axis."""
