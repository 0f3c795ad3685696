"""Compares the raw bytes of tensors, on every core, in constant memory.

Two buffers of one chunk each are filled and compared by memcmp. numpy is imported only if a tensor is strided.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.checks.pool import PIECE
from ckptconv.io.checksum import CHUNK
from ckptconv.io.source import UNBUFFERED_READ
from ckptconv.io.stream import GATHER_BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptconv.checks.pool import Pool, Scratch
    from ckptconv.core.tensor import LazyTensor


def find_unequal(pairs: Sequence[tuple[LazyTensor, LazyTensor]], pool: Pool) -> set[int]:
    """The indices of the pairs whose images differ. Both images of a pair must have the same size.

    A pair is read up to its first difference.
    """
    unequal: set[int] = set()
    jobs = [
        (i, start, min(start + PIECE, a.info.nbytes))
        for i, (a, _) in enumerate(pairs)
        for start in range(0, a.info.nbytes, PIECE)
    ]

    def work(job: tuple[int, int, int], scratch: Scratch) -> None:
        i, start, stop = job
        if i in unequal:
            return
        if _is_equal(*pairs[i], start, stop, scratch):
            pool.advance(stop - start)
        else:
            unequal.add(i)

    pool.run(jobs, work, sum(a.info.nbytes for a, _ in pairs))
    return unequal


def _is_equal(a: LazyTensor, b: LazyTensor, start: int, stop: int, scratch: Scratch) -> bool:
    if a.span is None or b.span is None:
        return all(left == right for left, right in _gathered_blocks(a, b, start, stop, scratch))
    if stop - start <= UNBUFFERED_READ:
        one, other = (span.file.read_at(span.offset + start, stop - start) for span in (a.span, b.span))
        return one.tobytes() == other.tobytes()
    left, right = memoryview(scratch.left), memoryview(scratch.right)
    for at in range(start, stop, CHUNK):
        count = min(CHUNK, stop - at)
        a.span.file.read_into(left[:count], a.span.offset + at)
        b.span.file.read_into(right[:count], b.span.offset + at)
        # Python compares bytearrays by memcmp, but memoryviews element by element
        if count == CHUNK:
            if scratch.left != scratch.right:
                return False
        elif left[:count].tobytes() != right[:count].tobytes():
            return False
    return True


def _gathered_blocks(
    a: LazyTensor, b: LazyTensor, start: int, stop: int, scratch: Scratch
) -> Iterator[tuple[bytes, bytes]]:
    for at in range(start, stop, GATHER_BLOCK // 2):
        end = min(at + GATHER_BLOCK // 2, stop)
        with scratch.gathering:
            left, right = a.read(at, end), b.read(at, end)
        yield bytes(left), bytes(right)
