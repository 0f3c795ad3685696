"""The sizes of NF4's blocks, quantized too: those of 256 blocks, less the mean of all, become the nearest of 256.

The mean is rounded once; bitsandbytes adds up in F32, whose last bits depend on the processor. Its kernel for CPUs
looks the nearest of the 256 up by a number of 16 bits, which now and then is the one beside it; that of torch's own
operations does not, and neither does ckptconv.

Sources: as of `normal`.
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
"""Of the longest F32 in JSON."""

_GROUPS = 8
"""Groups of sizes that are computed at a time: of 131,072 elements."""


@dataclass
class Sizes:
    """The sizes of a weight's blocks, as far as they are quantized too; none is known before something is read.

    blocks: a row of elements each.
    """

    matrix: Blocks
    blocks: int
    known: float | None = field(default=None, init=False)
    lock: Lock = field(default_factory=Lock, init=False)

    @property
    def groups(self) -> int:
        """How many groups of sizes there are; the last may have fewer."""
        return -(-self.blocks // NESTED)

    @property
    def mean(self) -> float:
        """That of all sizes, as F32; the first that asks reads the weight."""
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
        """Codes of the sizes in groups, and the largest size among them less the mean, of some groups at a time."""
        import numpy as np

        mean = np.float32(self.mean)
        for at in range(first, last, _GROUPS):
            with np.errstate(all="ignore"):
                less = self._sizes(at, min(at + _GROUPS, last)) - mean
                filled = np.zeros(-(-less.size // NESTED) * NESTED, np.float32)
                filled[: less.size] = less
                rows = filled.reshape(-1, NESTED)
                largest = np.abs(rows).max(axis=1)
                yield nearest(rows, largest, dynamic_map()).reshape(-1)[: less.size], largest

    def codes(self, start: int, stop: int) -> memoryview:
        """A range of the codes' image."""
        first = start // NESTED
        made = b"".join(codes.tobytes() for codes, _ in self.quantized(first, -(-stop // NESTED)))
        return memoryview(made)[start - first * NESTED : stop - first * NESTED]

    def scales(self, start: int, stop: int) -> memoryview:
        """A range of the image of the groups' largest sizes, in F32."""
        first = start // 4
        made = b"".join(scales.astype("<f4").tobytes() for _, scales in self.quantized(first, -(-stop // 4)))
        return memoryview(made)[start - first * 4 : stop - first * 4]


def state(dtype: str, shape: Sequence[int]) -> str:
    """What bitsandbytes says of a weight, in JSON."""
    said: dict[str, Json] = {"quant_type": "nf4", "blocksize": BLOCK, "dtype": dtype, "shape": list(shape)}
    return json.dumps(said)


@dataclass(frozen=True, slots=True)
class NestedState:
    """Reads ranges of what it says of a weight whose sizes are quantized too. That has the mean in it, which is not
    known before it is read, and as many spaces behind it as make the length known.
    """

    text: str
    sizes: Sizes

    @classmethod
    def of(cls, dtype: str, shape: Sequence[int], sizes: Sizes) -> NestedState:
        """Of a weight of that type and shape."""
        more: dict[str, Json] = {"nested_blocksize": NESTED, "nested_dtype": "float32"}
        said = json.loads(state(dtype, shape)) | more
        return cls(json.dumps(said)[:-1] + ', "nested_offset": ', sizes)

    @property
    def length(self) -> int:
        """Bytes of it."""
        return len(self.text) + DIGITS + 1

    def __call__(self, start: int, stop: int) -> memoryview:
        made = f"{self.text}{json.dumps(self.sizes.mean)}}}".encode().ljust(self.length)
        return memoryview(made)[start:stop]
