"""Adapters of mlx-lm: adapters.safetensors, and an adapter_config.json beside it.

    M.lora_a, M.lora_b [, M.m]     W + scale · (lora_a · lora_b)ᵀ, inputs × r and r × outputs; m: DoRA's norms of rows
    of an embedding                W + scale · lora_a · lora_b, rows × r and r × columns
    of a stack of experts          W[e] + scale · lora_b[e] · lora_a[e], E × outputs × r and E × r × inputs

    {"fine_tune_type": "lora" | "dora" | "full", "num_layers": 16, "lora_parameters": {"rank": 8, "scale": 20.0, …}}

The scale is a number by itself, not alpha over rank. With fine_tune_type full, the file has weights that replace the
base's. A square matrix is taken for an embedding if its name says so.

Source: mlx-lm 0.32, mlx_lm/tuner/lora.py, dora.py and utils.py (`load_adapters`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.edits.adapters.deltas import Stacked
from ckptconv.edits.adapters.matrices import Factor
from ckptconv.edits.adapters.names import MLX_PARTS
from ckptconv.edits.adapters.patterns import finite
from ckptconv.errors import CorruptFileError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.edits.adapters.deltas import LowRank
    from ckptconv.edits.adapters.factors import Factors

    Shape = tuple[int, ...]

TYPES = ("lora", "dora", "full")

_EMBEDDINGS = ("embed", "wte", "wpe")


def is_config(config: Mapping[str, object]) -> bool:
    """Whether a configuration is mlx-lm's."""
    return "lora_parameters" in config or config.get("fine_tune_type") in TYPES


def kind(config: Mapping[str, object]) -> str:
    """The type of fine-tuning. Raises UnsupportedError for an unknown one."""
    found = config.get("fine_tune_type", "lora")
    if not isinstance(found, str) or found not in TYPES:
        raise UnsupportedError(
            f"adapters of mlx-lm's type {str(found)[:80]!r} are not merged", hint=f"those of {', '.join(TYPES)} are"
        )
    return found


def scale(config: Mapping[str, object]) -> float | None:
    """What the product is multiplied by; None if it is not stated. Raises CorruptFileError if it is not a number."""
    parameters = config.get("lora_parameters")
    if not isinstance(parameters, dict) or "scale" not in parameters:
        return None
    number = finite(parameters["scale"])
    if number is None:
        raise CorruptFileError(
            "the configuration's scale is not a number that is finite", hint="lora_parameters has it, as in 20.0"
        )
    return number


def fits(module: Factors, shape: Shape) -> bool:
    """Whether the factors fit a weight of that shape, as a layer or as an embedding."""
    return any(_orientations(module, shape))


def product(module: Factors, shape: Shape) -> LowRank | Stacked:
    """What is added, without the scale. Raises EditError where the factors do not fit."""
    linear, embedding = _orientations(module, shape)
    first, second = (module.parts[part].info.shape for part in MLX_PARTS)
    if not linear and not embedding:
        raise module.misfit(shape, f"the adapter has factors of {list(first)} and {list(second)}")
    if len(shape) == 3:
        module.check_held(first[1] * first[2])
        left = Factor(module.parts["lora_b"], (second[0] * second[1], second[2]))
        return Stacked(left, Factor(module.parts["lora_a"], (first[0] * first[1], first[2])), shape[0])
    own_name = module.name.rpartition(".")[2]
    if embedding and (not linear or any(word in own_name for word in _EMBEDDINGS)):
        return module.low_rank(module.matrix("lora_a"), module.matrix("lora_b"))
    return module.low_rank(module.transposed("lora_b"), module.transposed("lora_a"))


def _orientations(module: Factors, shape: Shape) -> tuple[bool, bool]:
    """Whether the factors fit that shape as a layer or experts, and as an embedding."""
    if any(part not in module.parts for part in MLX_PARTS):
        return True, False  # `Module.check` reports it
    first, second = (module.parts[part].info.shape for part in MLX_PARTS)
    if len(first) != len(shape) or len(second) != len(shape) or 0 in (*first, *second):
        return False, False
    if len(shape) == 3:
        return (*second[:2], first[2]) == shape and (first[0], first[1]) == (second[0], second[2]), False
    if len(shape) != 2 or first[1] != second[0]:
        return False, False
    return (second[1], first[0]) == shape, (first[0], second[1]) == shape
