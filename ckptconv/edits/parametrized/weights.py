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
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.edits.computed import BLOCK
from ckptconv.edits.parametrized.find import axes_of_spectral
from ckptconv.edits.scaled import FLOATS, index_along, product, wide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ckptconv.core.arrays import Array
    from ckptconv.core.spelling import Json
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.scaled import Factors

MOST_HELD = 1 << 25
"""Elements of g, u or v, which are held in memory."""


@dataclass(frozen=True, slots=True)
class Mask:
    """The mask's own elements."""

    mask: LazyTensor

    def of(self, first: int, last: int) -> Array:
        """These elements."""
        return wide(self.mask, first, last)


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
        return index_along(self.axis, self.v.info.shape, first, last)

    @cached_property
    def _factors(self) -> Array:
        import numpy as np

        given = wide(self.g, 0, self.g.info.numel)
        squares = np.zeros(given.size)
        for first, last in _blocks(self.v.info.numel):
            values = np.square(wide(self.v, first, last))
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

        u, v = (wide(vector, 0, vector.info.numel) for vector in (self.u, self.v))
        sums = np.zeros(len(self.axes))
        for first, last in _blocks(self.weight.info.numel):
            values = wide(self.weight, first, last)
            for i, axis in enumerate(self.axes):
                shape = self.weight.info.shape
                rows, others = index_along(axis, shape, first, last), _index_across(axis, shape, first, last)
                sums[i] += np.dot(values * u[rows], v[others])
        return np.asarray(1 / sums[np.argmax(np.abs(sums))])


def _index_across(axis: int, shape: tuple[int, ...], first: int, last: int) -> Array:
    """The index of each element [first, last) among those of all other dimensions, in their order."""
    import numpy as np

    inner = prod(shape[axis + 1 :])
    places = np.arange(first, last)
    return places // (inner * shape[axis]) * inner + places % inner


def _blocks(numel: int) -> Iterator[tuple[int, int]]:
    for first in range(0, numel, BLOCK):
        yield first, min(first + BLOCK, numel)


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
    return product(tensors[0], make(*tensors, axis), tuple(tensors[1:]), tensors[0].info.dtype)


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
