"""What ``--quantize`` makes of a linear layer's weight [R, C], by scheme:

    fp8        weight F8_E4M3 [R, C]; weight_scale [R, 1], of the weight's own type
    fp8-block  weight F8_E4M3 [R, C]; weight_scale_inv F32 [R / 128, C / 128]

A value is its code times its scale. The bits are those of the libraries on a CPU:

fp8: llm-compressor's FP8_DYNAMIC, which compressed-tensors stores as float-quantized: the largest size in a row by 448,
in the weight's type, or that type's epsilon where that is 0; the quotient of weight and scale is rounded to that type,
a zero point of 0 added, and the sum rounded to F8_E4M3.

fp8-block: transformers' FineGrainedFP8, for the layout of DeepSeek-V3: the reciprocal of the largest size in a block,
times 448, by which F32 values are multiplied and then rounded; the scale is the reciprocal of that, and 1 for a block
of zeros. (Where all of a block is below 1.4e-36, transformers makes NaN of it, and ckptconv zeros.)

Refused: other than matrices of F32, F16 and BF16; for fp8-block rows or columns that are no multiples of 128, which
transformers leaves as they are too.

Sources: compressed-tensors 0.20, quantization/utils/helpers.py (`calculate_qparams`), quantization/lifecycle/
forward_helpers.py, quantization/quant_scheme.py; transformers 5.24, integrations/finegrained_fp8.py (`Fp8Quantize`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.core.text import plural
from ckptconv.edits.quantized.parts import FLOATS
from ckptconv.edits.quantizers.coded import MOST_COLUMNS, Blocks, Codes, Scales
from ckptconv.edits.rounding import cast_array

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.arrays import Array
    from ckptconv.core.spelling import Json
    from ckptconv.edits.quantizers.coded import Rule

LARGEST = 448.0
"""Of F8_E4M3."""

EPSILON = {DType.F32: 2.0**-23, DType.F16: 2.0**-10, DType.BF16: 2.0**-7}


def _cast(values: Array, dtype: DType) -> Array:
    import numpy as np

    return cast_array(np.ascontiguousarray(values).reshape(-1), DType.F32, dtype)[0].reshape(values.shape)


def _rounded(values: Array, dtype: DType) -> Array:
    """F32 as far as another type keeps it."""
    import numpy as np

    return values if dtype is DType.F32 else _cast(values, dtype).astype(np.float32)


def _eighths(values: Array) -> tuple[Array, Array]:
    import numpy as np

    codes = _cast(values, DType.F8_E4M3)
    return codes, codes.astype(np.float32)


class _Channel:
    """A scale in the weight's type, by which values are divided."""

    def factors(self, sizes: Array, dtype: DType) -> tuple[Array, Array]:
        scales = _rounded(sizes / sizes.dtype.type(LARGEST), dtype)
        scales[scales == 0] = EPSILON[dtype]
        return scales, scales

    def codes(self, values: Array, factors: Array, dtype: DType) -> tuple[Array, Array]:
        made = _rounded(values / factors, dtype)
        made += 0  # a zero point, by which -0 becomes 0
        return _eighths(made)


class _Block:
    """A scale in F32, by whose reciprocal values are multiplied."""

    def factors(self, sizes: Array, dtype: DType) -> tuple[Array, Array]:
        import numpy as np

        factors = np.float32(1) / sizes * np.float32(LARGEST)
        factors[np.isinf(factors)] = 1
        return np.float32(1) / factors, factors

    def codes(self, values: Array, factors: Array, dtype: DType) -> tuple[Array, Array]:
        return _eighths(values * factors)


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to store a weight.

    scale:  what the scale's name has behind the weight's. scale_dtype: its type, None for the weight's.
    height, width: of the elements that share a scale; 0 is all of a row.
    config: what a configuration says of it, given the modules that stay as they are.
    """

    name: str
    summary: str
    rule: Rule
    scale: str
    scale_dtype: DType | None
    height: int
    width: int
    config: Callable[[list[str]], dict[str, Json]]

    def unfit(self, info: TensorInfo) -> str:
        """Why a tensor cannot be stored so: ``has 1 dimension``; "" where it can."""
        if info.dtype not in FLOATS:
            return f"is {info.dtype}, and not F32, F16 or BF16"
        if len(info.shape) != 2:
            return f"has {plural(len(info.shape), 'dimension')}"
        rows, columns = info.shape
        if not info.numel or columns > MOST_COLUMNS:
            return f"has rows of {columns:,}" if info.numel else "has no elements"
        if rows % self.height or (self.width and columns % self.width):
            return f"is {rows:,} × {columns:,}, no whole number of blocks of {self.height} × {self.width}"
        return ""


def _fp8_config(ignored: list[str]) -> dict[str, Json]:
    eighth: dict[str, Json] = {"num_bits": 8, "type": "float", "symmetric": True}
    group: dict[str, Json] = {
        "targets": ["Linear"],
        "weights": {**eighth, "strategy": "channel", "dynamic": False},
        "input_activations": {**eighth, "strategy": "token", "dynamic": True},
        "output_activations": None,
        "format": "float-quantized",
    }
    return {
        "quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": [*ignored], "kv_cache_scheme": None,
    }  # fmt: skip


def _block_config(ignored: list[str]) -> dict[str, Json]:
    return {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
        "modules_to_not_convert": [*ignored],
    }  # fmt: skip


SCHEMES = {
    one.name: one
    for one in (
        Scheme("fp8", "8-bit floats, a scale for each row", _Channel(), "_scale", None, 1, 0, _fp8_config),
        Scheme(
            "fp8-block", "8-bit floats, a scale for each block of 128 × 128", _Block(), "_scale_inv", DType.F32,
            128, 128, _block_config,
        ),
    )
}  # fmt: skip
"""By what people type."""


def coded(tensor: LazyTensor, scheme: Scheme) -> tuple[LazyTensor, LazyTensor]:
    """The codes and the scales of a weight, unread. Raises ValueError where it does not fit."""
    if why := scheme.unfit(tensor.info):
        raise ValueError(f"it {why}, and cannot be {scheme.name}")
    rows, columns = tensor.info.shape
    dtype = scheme.scale_dtype or tensor.info.dtype
    width = scheme.width or columns
    codes = Codes(tensor, DType.F8_E4M3, Blocks(tensor, scheme.rule, scheme.height, width), scheme.name)
    scales = Scales(Blocks(tensor, scheme.rule, scheme.height, width), dtype)
    return (
        LazyTensor(TensorInfo.of(DType.F8_E4M3, (rows, columns)), codes, depends=tensor.depends),
        LazyTensor(TensorInfo.of(dtype, (rows // scheme.height, columns // width)), scales, depends=tensor.depends),
    )  # fmt: skip
