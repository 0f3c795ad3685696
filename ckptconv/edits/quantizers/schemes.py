"""The schemes of ``--quantize``, and what each makes of a linear layer's weight [R, C]:

    fp8         weight F8_E4M3 [R, C]; weight_scale [R, 1], of the weight's own type
    fp8-block   weight F8_E4M3 [R, C]; weight_scale_inv F32 [R / 128, C / 128]
    int8        weight I8 [R, C]; weight_scale [R, 1], of the weight's own type
    int8-a16    weight_packed I32 [R, C / 4]; weight_scale [R, C / 128], of the weight's own type; weight_shape I64 [2]
    int4        weight_packed I32 [R, C / 8]; the rest as int8-a16
    int4-asym   as int4; and weight_zero_point I32 [R / 8, C / 128]
    nf4         weight U8 [R · C / 2, 1]; weight.absmax F32 [R · C / 64]; weight.quant_map F32 [16]; a state
    nf4-double  as nf4, weight.absmax U8; weight.nested_absmax F32 [R · C / 64 / 256]; .nested_quant_map F32 [256]
    mlx-4bit    weight U32 [R, C / 8]; scales and biases [R, C / 64], of the weight's own type
    mlx-8bit    weight U32 [R, C / 4]; the rest as mlx-4bit

A value is its code minus a zero point, times its scale; with MLX, plus the bias; NF4's code is looked up first. The
bits are those that the libraries compute on a CPU, except for what `nested` says:

fp8: llm-compressor's FP8_DYNAMIC, which compressed-tensors stores as float-quantized. The scale is the largest absolute
value in a row over 448, in the weight's type, or that type's epsilon if it is 0. The quotient of weight and scale is
rounded to that type, a zero point of 0 is added, and the sum is rounded to F8_E4M3.

int8: its W8A8, stored as int-quantized; int8-a16, int4, int4-asym: its W8A16, W4A16 and W4A16_ASYM, as pack-quantized
(`integers`). Zero points are packed along rows; the last word is padded with 0.

nf4, nf4-double: bitsandbytes' quantize_4bit, blocks of 64, without and with compress_statistics (`normal`, `nested`).
The state is ``weight.quant_state.bitsandbytes__nf4``, JSON as U8.

fp8-block: transformers' FineGrainedFP8, for the layout of DeepSeek-V3. F32 values are multiplied by 448 times the
reciprocal of the largest absolute value in a block, and rounded; the scale is the reciprocal of that factor, and 1 for
a block of zeros. (If a whole block is below 1.4e-36, transformers makes it NaN, and ckptconv zeros.)

mlx-4bit, mlx-8bit: mx.quantize in mode affine, groups of 64, the first of several codes in the low bits of a word.

Refused: everything but matrices of F32, F16 and BF16; for fp8-block, rows or columns that are not multiples of 128,
which transformers leaves alone too; for MLX, columns that are not a multiple of 64, as in mlx-lm; for packed integers,
columns that are not a multiple of 128; for NF4, elements that are not a multiple of 64.

Sources: compressed-tensors 0.20, quantization/utils/helpers.py (`calculate_qparams`), quantization/lifecycle/
forward_helpers.py, quantization/quant_scheme.py, compressors/pack_quantized; transformers 5.24, integrations/
finegrained_fp8.py (`Fp8Quantize`), utils/quantization_config.py; mlx 0.32.4, mlx/backend/cpu/quantized.cpp;
mlx-lm 0.32, mlx_lm/utils.py (the configuration).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.core.text import plural
from ckptconv.edits.quantized.parts import FLOATS
from ckptconv.edits.quantizers import configs
from ckptconv.edits.quantizers.coded import MOST_COLUMNS, Codes
from ckptconv.edits.quantizers.integers import Even, Uneven
from ckptconv.edits.quantizers.normal import BLOCK, Normal
from ckptconv.edits.quantizers.rules import Affine, ByBlock, ByRow
from ckptconv.edits.quantizers.stored import NESTED_PARTS, NF4_PARTS, SHAPE, Part, Weight, below, shared

if TYPE_CHECKING:
    from ckptconv.core.tensor import LazyTensor, TensorInfo
    from ckptconv.edits.quantizers.coded import Rule
    from ckptconv.edits.quantizers.configs import Config


@dataclass(frozen=True, slots=True)
class Scheme:
    """One way to store a weight.

    codes:   the type of the codes, of `bits` bits each; end: what their name has after the weight's.
    parts:   what is stored beside them.
    height, width: of the blocks of elements that share these parts; 0 for a whole row.
    flat:    rows follow one another as one, and the codes are a column.
    config:  what a configuration says about it.
    experts: why experts that are modules of their own are not quantized; "" if they are.
    caution, experts_caution: what to know about loading it, and about loading experts.
    """

    name: str
    rule: Rule
    codes: DType
    bits: int
    parts: tuple[Part, ...]
    height: int
    width: int
    config: Config
    end: str = ""
    flat: bool = False
    experts: str = ""
    caution: str = ""
    experts_caution: str = ""

    @property
    def takes_experts(self) -> bool:
        """Whether experts that are modules of their own are quantized too."""
        return not self.experts and not self.name.startswith("mlx")

    def names(self, weight: str) -> tuple[str, ...]:
        """The names of the tensors that a weight is stored as."""
        return weight + self.end, *(part.name(weight) for part in self.parts)

    def unfit(self, info: TensorInfo) -> str:
        """Why a tensor cannot be stored this way: ``has 1 dimension``; "" if it can."""
        if info.dtype not in FLOATS:
            return f"is {info.dtype}, and not F32, F16 or BF16"
        if len(info.shape) != 2:
            return f"has {plural(len(info.shape), 'dimension')}"
        rows, columns = info.shape
        if not info.numel or columns > MOST_COLUMNS:
            return f"has rows of {columns:,}" if info.numel else "has no elements"
        if self.flat:
            whole = info.numel % self.width == 0
            return "" if whole else f"has {info.numel:,} elements, no whole number of blocks of {self.width}"
        if rows % self.height or (self.width and columns % self.width):
            return f"is {rows:,} × {columns:,}, no whole number of blocks of {self.height} × {self.width}"
        return ""


def _packed(name: str, bits: int, *zeros: Part) -> Scheme:
    weights = configs.numbers(bits, "group", symmetric=not zeros, group=128)
    config, parts = configs.compressed("pack-quantized", weights, None), (shared("_scale"), SHAPE, *zeros)
    rule: Rule = Uneven(bits) if zeros else Even(bits)
    kept, caution = (_NO_ZEROS, _ZEROS) if zeros else ("", "")
    return Scheme(name, rule, DType.I32, bits, parts, 1, 128, config, "_packed", experts=kept, caution=caution)


def _eight(name: str, rule: Rule, codes: DType, form: str) -> Scheme:
    floats = codes.kind == "float"
    weights, inputs = (configs.numbers(8, strategy, floats=floats) for strategy in ("channel", "token"))
    config, caution = configs.compressed(form, weights, inputs), "" if floats else _EXPERTS
    return Scheme(name, rule, codes, 8, (shared("_scale"),), 1, 0, config, experts_caution=caution)


def _nf4(name: str, parts: tuple[Part, ...], *, double: bool) -> Scheme:
    config = configs.nf4(double=double)
    return Scheme(name, Normal(), DType.U8, 4, parts, 1, BLOCK, config, flat=True, experts=_STACKED)


def _mlx(bits: int) -> Scheme:
    parts = shared("scales"), shared("biases", 1)
    return Scheme(f"mlx-{bits}bit", Affine(bits), DType.U32, bits, parts, 1, 64, configs.mlx(bits))


_NO_ZEROS = "of which neither transformers nor vLLM takes zero points"
_STACKED = "which transformers stacks with the others, and bitsandbytes leaves as it is then"
_ZEROS = "transformers 5.24 loads zero points with CompressedTensorsConfig(dequantize=True) alone"
_EXPERTS = "transformers 5.24 does not load experts of this scheme, which is vLLM's; those of int8-a16 it does"
_INVERSE = (shared("_scale_inv", 0, DType.F32),)

SCHEMES = {
    scheme.name: scheme
    for scheme in (
        _eight("fp8", ByRow(), DType.F8_E4M3, "float-quantized"),
        Scheme("fp8-block", ByBlock(), DType.F8_E4M3, 8, _INVERSE, 128, 128, configs.blocks),
        _eight("int8", Even(8, signed=True), DType.I8, "int-quantized"),
        _packed("int8-a16", 8), _packed("int4", 4), _packed("int4-asym", 4, below("_zero_point", 1)),
        _nf4("nf4", NF4_PARTS, double=False),
        _nf4("nf4-double", NESTED_PARTS, double=True),
        _mlx(4), _mlx(8),
    )
}  # fmt: skip
"""By the name that users type."""


def coded(tensor: LazyTensor, scheme: Scheme) -> list[LazyTensor]:
    """The codes of a weight, and its other parts, unread. Raises ValueError if the weight does not fit."""
    if why := scheme.unfit(tensor.info):
        raise ValueError(f"it {why}, and cannot be {scheme.name}")
    rows, columns = tensor.info.shape
    weight = Weight(tensor, scheme.rule, scheme.height, scheme.width or columns, scheme.flat)
    row = weight.shape[1] * scheme.bits // 8
    codes = Codes(tensor, scheme.codes, weight.matrix(), row, scheme.name)
    shape = (weight.shape[0] * row, 1) if scheme.flat else (rows, row * 8 // scheme.codes.bits)
    return [weight.part(scheme.codes, shape, codes), *(part.make(weight) for part in scheme.parts)]
