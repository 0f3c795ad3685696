"""What is stored of a weight beside its codes, unread: scales, zero points, a shape, tables, bitsandbytes' state."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, TensorInfo, in_memory
from ckptconv.edits.quantized.elements import NF4
from ckptconv.edits.quantizers.coded import Blocks, Rule, Shared, SharedBelow
from ckptconv.edits.quantizers.configs import NAMES
from ckptconv.edits.quantizers.nested import NestedState, Sizes, state
from ckptconv.edits.quantizers.normal import dynamic_map
from ckptconv.edits.views import reshaped

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.tensor import RangeReader


@dataclass
class Weight:
    """A weight to quantize, in blocks of `height` × `width` elements.

    flat: its elements are taken as a single row, which is cut into blocks.
    """

    tensor: LazyTensor
    rule: Rule
    height: int
    width: int
    flat: bool

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns; a flat weight has a row for each block."""
        rows, columns = self.tensor.info.shape
        return (rows * columns // self.width, self.width) if self.flat else (rows, columns)

    @property
    def grid(self) -> tuple[int, int]:
        """The number of blocks below each other, and side by side."""
        rows, columns = self.shape
        return rows // self.height, columns // self.width

    def matrix(self) -> Blocks:
        """Its blocks, for one reader."""
        source = reshaped(self.tensor, self.shape) if self.flat else self.tensor
        return Blocks(source, self.rule, self.height, self.width)

    @cached_property
    def sizes(self) -> Sizes:
        """The sizes of NF4's blocks, shared by the readers that need their mean."""
        return Sizes(self.matrix(), self.shape[0])

    def part(self, dtype: DType, shape: tuple[int, ...], reader: RangeReader) -> LazyTensor:
        """A tensor that is computed from it."""
        return LazyTensor(TensorInfo.of(dtype, shape), reader, depends=self.tensor.depends)


@dataclass(frozen=True, slots=True)
class Part:
    """Something that is stored beside the codes.

    end: what its name has after the weight's if it starts with ``_`` or ``.``, else its name inside the module.
    """

    end: str
    make: Callable[[Weight], LazyTensor]

    def name(self, weight: str) -> str:
        """Its name, beside that weight."""
        return weight + self.end if self.end[0] in "_." else f"{weight.rpartition('.')[0]}.{self.end}"


def shared(end: str, index: int = 0, dtype: DType | None = None) -> Part:
    """The `index`-th number that each block shares, in a type, or in the weight's."""

    def make(weight: Weight) -> LazyTensor:
        kept = dtype or weight.tensor.info.dtype
        shape = weight.grid[:1] if weight.flat else weight.grid
        return weight.part(kept, shape, Shared(weight.matrix(), index, kept))

    return Part(end, make)


def below(end: str, index: int) -> Part:
    """The `index`-th number of each block, a 4-bit integer; a word has those of eight rows."""

    def make(weight: Weight) -> LazyTensor:
        lines, across = weight.grid
        return weight.part(DType.I32, (-(-lines // 8), across), SharedBelow(weight.matrix(), index))

    return Part(end, make)


def _shape(weight: Weight) -> LazyTensor:
    import numpy as np

    return in_memory(TensorInfo.of(DType.I64, (2,)), np.array(weight.shape, "<i8").tobytes())


SHAPE = Part("_shape", _shape)


def _table(end: str, values: Callable[[], object], length: int) -> Part:
    def make(weight: Weight) -> LazyTensor:
        import numpy as np

        return in_memory(TensorInfo.of(DType.F32, (length,)), np.array(values(), "<f4").tobytes())

    return Part(end, make)


def _state(weight: Weight) -> LazyTensor:
    data = state(NAMES[weight.tensor.info.dtype], weight.tensor.info.shape).encode()
    return in_memory(TensorInfo.of(DType.U8, (len(data),)), data)


def _nested_state(weight: Weight) -> LazyTensor:
    reader = NestedState.of(NAMES[weight.tensor.info.dtype], weight.tensor.info.shape, weight.sizes)
    return weight.part(DType.U8, (reader.length,), reader)


_QUANT_MAP, _STATE = _table(".quant_map", lambda: NF4, len(NF4)), ".quant_state.bitsandbytes__nf4"

NF4_PARTS = (shared(".absmax", 0, DType.F32), _QUANT_MAP, Part(_STATE, _state))

NESTED_PARTS = (
    Part(".absmax", lambda weight: weight.part(DType.U8, (weight.sizes.blocks,), weight.sizes.codes)),
    _QUANT_MAP,
    Part(".nested_absmax", lambda weight: weight.part(DType.F32, (weight.sizes.groups,), weight.sizes.scales)),
    _table(".nested_quant_map", dynamic_map, 256),
    Part(_STATE, _nested_state),
)
