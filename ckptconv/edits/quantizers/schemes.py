"""What ``--quantize`` makes of a linear layer's weight [R, C], by scheme:

    fp8        weight F8_E4M3 [R, C]; weight_scale [R, 1], of the weight's own type
    fp8-block  weight F8_E4M3 [R, C]; weight_scale_inv F32 [R / 128, C / 128]
    mlx-4bit   weight U32 [R, C / 8]; scales and biases [R, C / 64], of the weight's own type
    mlx-8bit   weight U32 [R, C / 4]; likewise

A value is its code times its scale, with MLX plus the bias. The bits are those of the libraries on a CPU:

fp8: llm-compressor's FP8_DYNAMIC, which compressed-tensors stores as float-quantized: the largest size in a row by 448,
in the weight's type, or that type's epsilon where that is 0; the quotient of weight and scale is rounded to that type,
a zero point of 0 added, and the sum rounded to F8_E4M3.

fp8-block: transformers' FineGrainedFP8, for the layout of DeepSeek-V3: the reciprocal of the largest size in a block,
times 448, by which F32 values are multiplied and then rounded; the scale is the reciprocal of that, and 1 for a block
of zeros. (Where all of a block is below 1.4e-36, transformers makes NaN of it, and ckptconv zeros.)

mlx-4bit, mlx-8bit: mx.quantize in mode affine, groups of 64, the first of several codes in the low bits of a word.

Refused: other than matrices of F32, F16 and BF16; for fp8-block rows or columns that are no multiples of 128, which
transformers leaves as they are too, and for MLX columns that are none of 64, as mlx-lm does.

Sources: compressed-tensors 0.20, quantization/utils/helpers.py (`calculate_qparams`), quantization/lifecycle/
forward_helpers.py, quantization/quant_scheme.py; transformers 5.24, integrations/finegrained_fp8.py (`Fp8Quantize`);
mlx 0.32.4, mlx/backend/cpu/quantized.cpp; mlx-lm 0.32, mlx_lm/utils.py (the configuration).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import LazyTensor, TensorInfo
from ckptconv.core.text import plural
from ckptconv.edits.quantized.config import KEYS, MLX_KEY
from ckptconv.edits.quantized.parts import FLOATS
from ckptconv.edits.quantizers.coded import MOST_COLUMNS, Blocks, Codes, Shared
from ckptconv.edits.quantizers.rules import Affine, ByBlock, ByRow

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.spelling import Json
    from ckptconv.edits.quantizers.coded import Rule


CONFIG_KEY = KEYS[0]


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to store a weight.

    codes: the type of its codes, of `bits` bits each. parts: what names of the others have behind the weight's, or
           behind the module's and a dot; shared_dtype: their type, None for the weight's.
    height, width: of the elements that share these; 0 is all of a row.
    config: what a configuration says of it, given the modules that stay as they are.
    """

    name: str
    rule: Rule
    codes: DType
    bits: int
    parts: tuple[str, ...]
    shared_dtype: DType | None
    height: int
    width: int
    config: Callable[[list[str]], dict[str, Json]]

    def names(self, weight: str) -> tuple[str, ...]:
        """The names of what a weight is stored as."""
        module = weight.rpartition(".")[0]
        return weight, *(weight + part if part.startswith("_") else f"{module}.{part}" for part in self.parts)

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
    said: dict[str, Json] = {
        "quant_method": "compressed-tensors", "format": "float-quantized", "quantization_status": "compressed",
        "config_groups": {"group_0": group}, "ignore": [*ignored], "kv_cache_scheme": None,
    }  # fmt: skip
    return {CONFIG_KEY: said}


def _block_config(ignored: list[str]) -> dict[str, Json]:
    said: dict[str, Json] = {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
        "modules_to_not_convert": [*ignored],
    }  # fmt: skip
    return {CONFIG_KEY: said}


def _mlx_config(bits: int) -> Callable[[list[str]], dict[str, Json]]:
    def config(_: list[str]) -> dict[str, Json]:
        said: dict[str, Json] = {"group_size": 64, "bits": bits, "mode": "affine"}
        return {MLX_KEY: said, CONFIG_KEY: said}

    return config


def _mlx(bits: int) -> Scheme:
    return Scheme(f"mlx-{bits}bit", Affine(bits), DType.U32, bits, ("scales", "biases"), None, 1, 64, _mlx_config(bits))


SCHEMES = {
    one.name: one
    for one in (
        Scheme("fp8", ByRow(), DType.F8_E4M3, 8, ("_scale",), None, 1, 0, _fp8_config),
        Scheme("fp8-block", ByBlock(), DType.F8_E4M3, 8, ("_scale_inv",), DType.F32, 128, 128, _block_config),
        _mlx(4), _mlx(8),
    )
}  # fmt: skip
"""By what people type."""


def coded(tensor: LazyTensor, scheme: Scheme) -> list[LazyTensor]:
    """The codes of a weight, and its other parts, unread. Raises ValueError where it does not fit."""
    if why := scheme.unfit(tensor.info):
        raise ValueError(f"it {why}, and cannot be {scheme.name}")
    rows, columns = tensor.info.shape
    dtype, width = scheme.shared_dtype or tensor.info.dtype, scheme.width or columns

    def matrix() -> Blocks:
        return Blocks(tensor, scheme.rule, scheme.height, width)

    row = columns * scheme.bits // 8
    codes = TensorInfo.of(scheme.codes, (rows, row * 8 // scheme.codes.bits))
    shared = TensorInfo.of(dtype, (rows // scheme.height, columns // width))
    return [
        LazyTensor(codes, Codes(tensor, scheme.codes, matrix(), row, scheme.name), depends=tensor.depends),
        *(
            LazyTensor(shared, Shared(matrix(), index, dtype), depends=tensor.depends)
            for index in range(len(scheme.parts))
        ),
    ]
