"""What a configuration says of weights that are quantized by a scheme, as the libraries write it (`schemes`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.edits.quantized.config import KEYS, MLX_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptconv.core.spelling import Json

    Config = Callable[[Sequence[str], DType], dict[str, Json]]
    """Of the modules that stay as they are, and the type that the weights had."""

CONFIG_KEY = KEYS[0]

EXPERT = re.compile(r"(?<=\.experts)\.\d+(\..*)?$")
"""What the name of an expert's module has behind that of all of them."""

NAMES = {DType.F32: "float32", DType.F16: "float16", DType.BF16: "bfloat16"}
"""What torch calls the types."""


def compressed(form: str, weights: dict[str, Json], inputs: dict[str, Json] | None) -> Config:
    """compressed-tensors: its format, what is said of the weights, and of inputs that are quantized as they come."""

    def config(ignored: Sequence[str], dtype: DType) -> dict[str, Json]:
        group: dict[str, Json] = {
            "targets": ["Linear"],
            "weights": {**weights, "dynamic": False},
            "input_activations": None if inputs is None else {**inputs, "dynamic": True},
            "output_activations": None,
            "format": form,
        }
        said: dict[str, Json] = {
            "quant_method": "compressed-tensors", "version": "0.20.0", "format": form,
            "quantization_status": "compressed", "config_groups": {"group_0": group}, "ignore": [*ignored],
            "kv_cache_scheme": None, "global_compression_ratio": None,
        }  # fmt: skip
        return {CONFIG_KEY: said}

    return config


def numbers(
    bits: int, strategy: str, *, floats: bool = False, symmetric: bool = True, group: int | None = None
) -> dict[str, Json]:
    """compressed-tensors' words for a kind of number, and for those that have a scale in common."""
    kind = "float" if floats else "int"
    return {"num_bits": bits, "type": kind, "symmetric": symmetric, "strategy": strategy, "group_size": group}


def blocks(ignored: Sequence[str], dtype: DType) -> dict[str, Json]:
    """DeepSeek's and transformers' fp8."""
    said: dict[str, Json] = {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
        "modules_to_not_convert": [*ignored],
    }  # fmt: skip
    return {CONFIG_KEY: said}


def nf4(*, double: bool) -> Config:
    """bitsandbytes: it computes in the type that the weights had. Of experts their modules' parent is named."""

    def config(ignored: Sequence[str], dtype: DType) -> dict[str, Json]:
        skipped = dict.fromkeys(EXPERT.sub("", name) for name in ignored)
        said: dict[str, Json] = {
            "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False,
            "bnb_4bit_compute_dtype": NAMES[dtype], "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": double, "llm_int8_enable_fp32_cpu_offload": False,
            "llm_int8_has_fp16_weight": False, "llm_int8_skip_modules": [*skipped], "llm_int8_threshold": 6.0,
        }  # fmt: skip
        return {CONFIG_KEY: said}

    return config


def mlx(number: int) -> Config:
    """MLX's affine, under both of its keys."""

    def config(_: Sequence[str], dtype: DType) -> dict[str, Json]:
        said: dict[str, Json] = {"group_size": 64, "bits": number, "mode": "affine"}
        return {MLX_KEY: said, CONFIG_KEY: said}

    return config
