"""Checks the indices of a sparse tensor value by value, in constant memory.

torch takes indices from a file as they are (`_rebuild_sparse_tensor` checks nothing unless a switch is set), and its
kernels then read and write wherever they point. Here every rule of torch's own `_validate_sparse_*` functions is
checked before a sparse tensor is made or written:

    sparse_coo   0 ≤ index < size in every dimension; sorted and unique where the tensor says that it is coalesced
    the others   the lines start at 0, none has fewer than 0 entries or more than it has places, the last ends at N;
                 0 ≤ index < size; indices rise within a line
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ckptconv.core.composite import INDICES, Sparse, compressed
from ckptconv.errors import CorruptFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import numpy as np

    from ckptconv.core.tensor import LazyTensor

    Indices = np.ndarray[Any, np.dtype[Any]]

PIECE = 1 << 18
"""Indices that are checked at a time: 2 MiB of I64."""


def check_indices(name: str, sparse: Sparse, tensors: Mapping[str, LazyTensor]) -> None:
    """Read the indices of the sparse tensor `name` and check all of them; `tensors` has its parts.

    The parts' headers are right already (`composite.problem`). Raises CorruptFileError.
    """
    broken = next(
        (repeats for role in INDICES[sparse.layout] if (repeats := _repetition(tensors[sparse.parts[role]]))), None
    )
    if broken is None:
        broken = _coo(sparse, tensors) if sparse.layout == "sparse_coo" else _compressed(sparse, tensors)
    if broken is not None:
        raise CorruptFileError(f"the {sparse.layout} tensor {name!r} has bad indices: {broken}", hint="do not trust it")


def _repetition(tensor: LazyTensor) -> str | None:
    """What is wrong with indices that a view repeats: they could be more than can be read; None for others."""
    stored = sum(span.length for span in tensor.depends)
    return (
        f"{tensor.info.nbytes:,} bytes of them lie in {stored:,}"
        if tensor.depends and tensor.info.nbytes > stored
        else None
    )


def _coo(sparse: Sparse, tensors: Mapping[str, LazyTensor]) -> str | None:
    import numpy as np

    indices = tensors[sparse.parts["indices"]]
    dimensions, count = indices.info.shape
    last: Indices | None = None
    step = max(1, PIECE // max(1, dimensions))
    for start in range(0, count, step):
        stop = min(start + step, count)
        rows = [_part(indices, row * count + start, row * count + stop) for row in range(dimensions)]
        for row, (found, size) in enumerate(zip(rows, sparse.shape, strict=False)):
            if found.min() < 0 or found.max() >= size:
                return f"an index of dimension {row} is outside of 0 to {size - 1}"
        if not sparse.coalesced:
            continue
        piece = np.stack(rows) if rows else np.empty((0, stop - start), np.int64)
        joined = piece if last is None else np.concatenate([last, piece], axis=1)
        if not _rises(joined):
            return "they are said to be sorted and unique, and are not"
        last = piece[:, -1:]
    return None


def _rises(columns: Indices) -> bool:
    """Whether each column is greater than the one before it, by the first row that differs."""
    import numpy as np

    after = np.zeros(max(0, columns.shape[1] - 1), np.int8)
    for row in columns:
        undecided = after == 0
        after[undecided] = np.sign(row[1:] - row[:-1])[undecided]
    return bool((after > 0).all())


def _compressed(sparse: Sparse, tensors: Mapping[str, LazyTensor]) -> str | None:
    outer, inner = (tensors[sparse.parts[role]] for role in INDICES[sparse.layout])
    shape = compressed(sparse, {name: tensors[name].info for name in sparse.parts.values()})
    assert not isinstance(shape, str)  # `problem` has asked
    for batch in range(shape.batches):
        end = -1
        for starts in _pieces(outer, batch * (shape.groups + 1), (batch + 1) * (shape.groups + 1)):
            steps = starts[1:] - starts[:-1]
            if end < 0 and starts[0] != 0:
                return "the first line does not start at 0"
            if len(steps) and (steps.min() < 0 or steps.max() > shape.bound):
                return f"a line has fewer than 0 or more than {shape.bound} entries"
            if starts[-1] > shape.count:
                return f"a line ends at {starts[-1]}, and there are {shape.count} entries"
            if (broken := _lines(inner, batch * shape.count, starts, shape.bound)) is not None:
                return broken
            end = int(starts[-1])
        if end != shape.count:
            return f"the last line ends at {end}, and there are {shape.count} entries"
    return None


def _lines(inner: LazyTensor, base: int, starts: Indices, bound: int) -> str | None:
    """Check the entries of the lines that begin at `starts`, the last of which is where they end."""
    import numpy as np

    at, before = int(starts[0]), -1
    for found in _entries(inner, base + at, base + int(starts[-1])):
        if found.min() < 0 or found.max() >= bound:
            return f"an index is outside of 0 to {bound - 1}"
        previous = np.concatenate([np.array([before], found.dtype), found[:-1]])
        first = np.zeros(len(found), bool)
        inside = starts[(starts >= at) & (starts < at + len(found))] - at
        first[inside] = True
        if not ((found > previous) | first).all():
            return "the indices of a line do not rise"
        at, before = at + len(found), int(found[-1])
    return None


def _pieces(tensor: LazyTensor, start: int, stop: int) -> Iterator[Indices]:
    """The elements [start, stop), one at least, in pieces that each begin with the last element of the one before."""
    at = start
    while True:
        end = min(at + PIECE, stop)
        yield _part(tensor, at, end)
        if end == stop:
            return
        at = end - 1


def _entries(tensor: LazyTensor, start: int, stop: int) -> Iterator[Indices]:
    for at in range(start, stop, PIECE):
        yield _part(tensor, at, min(at + PIECE, stop))


def _part(tensor: LazyTensor, start: int, stop: int) -> Indices:
    """Elements [start, stop) of the image, as I64 whatever they are stored as: sums of I32 would overflow."""
    import numpy as np

    return tensor.elements(start, stop).astype(np.int64)
