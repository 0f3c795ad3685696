"""What a configuration says about quantized weights, as the libraries write it (`schemes`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import DType
from ckptconv.edits.quantized.config import KEYS, MLX_KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ckptconv.core.spelling import Json

    Config = Callable[[Sequence[str], DType], dict[str, Json]]
    """Takes the modules that are not quantized, and the type that the weights had."""

CONFIG_KEY = KEYS[0]

EXPERT = re.compile(r"(?<=\.experts)\.\d+(\..*)?$")
"""The end of an expert's module name, after the name of all experts."""

NAMES = {DType.F32: "float32", DType.F16: "float16", DType.BF16: "bfloat16"}
"""torch's names for types."""


def compressed(form: str, weights: dict[str, Json], inputs: dict[str, Json] | None) -> Config:
    """compressed-tensors: its format, its settings for the weights, and for inputs that are quantized at run time."""

    def config(ignored: Sequence[str], dtype: DType) -> dict[str, Json]:
        group: dict[str, Json] = {
            "targets": ["Linear"],
            "weights": {**weights, "dynamic": False},
            "input_activations": None if inputs is None else {**inputs, "dynamic": True},
            "output_activations": None,
            "format": form,
        }
        settings: dict[str, Json] = {
            "quant_method": "compressed-tensors", "version": "0.20.0", "format": form,
            "quantization_status": "compressed", "config_groups": {"group_0": group}, "ignore": [*ignored],
            "kv_cache_scheme": None, "global_compression_ratio": None,
        }  # fmt: skip
        return {CONFIG_KEY: settings}

    return config


def numbers(
    bits: int, strategy: str, *, floats: bool = False, symmetric: bool = True, group: int | None = None
) -> dict[str, Json]:
    """compressed-tensors' settings for a kind of number, and for which numbers share a scale."""
    kind = "float" if floats else "int"
    return {"num_bits": bits, "type": kind, "symmetric": symmetric, "strategy": strategy, "group_size": group}


def blocks(ignored: Sequence[str], dtype: DType) -> dict[str, Json]:
    """DeepSeek's and transformers' fp8."""
    settings: dict[str, Json] = {
        "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
        "modules_to_not_convert": [*ignored],
    }  # fmt: skip
    return {CONFIG_KEY: settings}


def nf4(*, double: bool) -> Config:
    """bitsandbytes: it computes in the type that the weights had. For experts, the module around them is named."""

    def config(ignored: Sequence[str], dtype: DType) -> dict[str, Json]:
        skipped = dict.fromkeys(EXPERT.sub("", name) for name in ignored)
        settings: dict[str, Json] = {
            "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False,
            "bnb_4bit_compute_dtype": NAMES[dtype], "bnb_4bit_quant_storage": "uint8", "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": double, "llm_int8_enable_fp32_cpu_offload": False,
            "llm_int8_has_fp16_weight": False, "llm_int8_skip_modules": [*skipped], "llm_int8_threshold": 6.0,
        }  # fmt: skip
        return {CONFIG_KEY: settings}

    return config


def mlx(number: int) -> Config:
    """MLX's affine, under both of its keys."""

    def config(_: Sequence[str], dtype: DType) -> dict[str, Json]:
        settings: dict[str, Json] = {"group_size": 64, "bits": number, "mode": "affine"}
        return {MLX_KEY: settings, CONFIG_KEY: settings}

    return config
