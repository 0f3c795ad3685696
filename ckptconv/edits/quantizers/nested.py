"""The largest values of NF4's blocks ("sizes"), quantized too: in groups of 256, minus the mean of all, to one of 256
values.

The mean is rounded once; bitsandbytes adds up in F32, whose last bits depend on the processor. Its kernel for CPUs
finds the nearest of the 256 values by a 16-bit number, and now and then takes the one beside it; torch's own operations
do not, and neither does ckptconv.

Sources: as in `normal`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from math import fsum
from threading import Lock
from typing import TYPE_CHECKING

from ckptconv.edits.quantizers.normal import BLOCK, dynamic_map, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ckptconv.core.arrays import Array
    from ckptconv.core.spelling import Json
    from ckptconv.edits.quantizers.coded import Blocks

NESTED = 256

DIGITS = 24
"""Characters of the longest F32 in JSON."""

_GROUPS = 8
"""How many groups of sizes are computed at a time, from 131,072 elements."""


@dataclass
class Sizes:
    """The sizes of a weight's blocks, to be quantized. Nothing is known until something is read.

    blocks: the number of blocks, each of which is a row of elements.
    """

    matrix: Blocks
    blocks: int
    known: float | None = field(default=None, init=False)
    lock: Lock = field(default_factory=Lock, init=False)

    @property
    def groups(self) -> int:
        """The number of groups of sizes; the last may be smaller."""
        return -(-self.blocks // NESTED)

    @property
    def mean(self) -> float:
        """The mean of all sizes, as F32. The first call reads the weight."""
        import numpy as np

        with self.lock:
            if self.known is None:
                with np.errstate(all="ignore"):
                    self.known = float(np.float32(fsum(size for sizes in self._all() for size in sizes) / self.blocks))
            return self.known

    def _all(self) -> Iterator[list[float]]:
        for at in range(0, self.groups, _GROUPS):
            yield self._sizes(at, min(at + _GROUPS, self.groups)).tolist()

    def _sizes(self, first: int, last: int) -> Array:
        start = first * NESTED
        found: Array = self.matrix.shared(start, min(last * NESTED, self.blocks) - start)[0].reshape(-1)
        return found

    def quantized(self, first: int, last: int) -> Iterator[tuple[Array, Array]]:
        """For some groups at a time, the codes of their sizes, and their largest difference from the mean."""
        import numpy as np

        mean = np.float32(self.mean)
        for at in range(first, last, _GROUPS):
            with np.errstate(all="ignore"):
                differences = self._sizes(at, min(at + _GROUPS, last)) - mean
                padded = np.zeros(-(-differences.size // NESTED) * NESTED, np.float32)
                padded[: differences.size] = differences
                rows = padded.reshape(-1, NESTED)
                largest = np.abs(rows).max(axis=1)
                yield nearest(rows, largest, dynamic_map()).reshape(-1)[: differences.size], largest

    def codes(self, start: int, stop: int) -> memoryview:
        """A range of the bytes of the codes."""
        first = start // NESTED
        result = b"".join(codes.tobytes() for codes, _ in self.quantized(first, -(-stop // NESTED)))
        return memoryview(result)[start - first * NESTED : stop - first * NESTED]

    def scales(self, start: int, stop: int) -> memoryview:
        """A range of the bytes of the groups' largest differences, in F32."""
        first = start // 4
        result = b"".join(scales.astype("<f4").tobytes() for _, scales in self.quantized(first, -(-stop // 4)))
        return memoryview(result)[start - first * 4 : stop - first * 4]


def state(dtype: str, shape: Sequence[int]) -> str:
    """What bitsandbytes says about a weight, in JSON."""
    quant_state: dict[str, Json] = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": dtype, "shape": list(shape)}
    return json.dumps(quant_state)


@dataclass(frozen=True, slots=True)
class NestedState:
    """A reader of what bitsandbytes says about a weight whose sizes are quantized.

    That includes the mean, which is unknown until it is read; spaces after it keep the length fixed.
    """

    text: str
    sizes: Sizes

    @classmethod
    def of(cls, dtype: str, shape: Sequence[int], sizes: Sizes) -> NestedState:
        """The state of a weight of that type and shape."""
        more: dict[str, Json] = {"nested_blocksize": NESTED, "nested_dtype": "float32"}
        document = json.loads(state(dtype, shape)) | more
        return cls(json.dumps(document)[:-1] + ', "nested_offset": ', sizes)

    @property
    def length(self) -> int:
        """The number of bytes."""
        return len(self.text) + DIGITS + 1

    def __call__(self, start: int, stop: int) -> memoryview:
        result = f"{self.text}{json.dumps(self.sizes.mean)}}}".encode().ljust(self.length)
        return memoryview(result)[start:stop]
