"""Hyperparameters and checks that several architectures share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.formats.gguf.hub.config import unsupported
from ckptconv.formats.gguf.hub.documents import bad

if TYPE_CHECKING:
    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

    Entries = dict[str, Typed]

_SCALES = {
    "attention_multiplier": "attention.scale", "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale", "logits_scaling": "logit_scale",
}  # fmt: skip


def rotary(config: Config, part: float = 1.0) -> Entries:
    """The number of rotary dimensions; `part` of a head if the configuration states none."""
    return {"rope.dimension_count": ("uint32", int(config.partial_rotary(part) * config.head_width))}


def mrope_sections(config: Config, default: list[int] | None = None) -> list[int]:
    """The rotary dimensions of the three axes of positions, and 0 for llama.cpp's fourth. Raises CorruptFileError."""
    stated = config.rope().get("mrope_section", default)
    if not isinstance(stated, list) or len(stated) != 3 or any(type(part) is not int or part < 0 for part in stated):
        raise bad(f"{CONFIG}: mrope_section is {str(stated)[:40]!r}, and no three whole numbers")
    return [*stated, 0]


def granite(config: Config) -> Entries:
    """Granite's scales and rotary dimensions. Raises UnsupportedError for a head width other than width / heads."""
    if config.head_width != config.width // config.heads:
        raise unsupported("granite", "head_dim", config.head_width, "heads are as wide as all of them by their number")
    entries: Entries = {new: ("float32", config.number(key)) for key, new in _SCALES.items() if config.has(key)}
    return entries | rotary(config)


def layer_types(layers: int, period: int, name: str = "sliding_attention") -> list[str]:
    """The kind of attention of each layer: full in the last layer of each period, `name` in the others."""
    return [name if (layer + 1) % period else "full_attention" for layer in range(layers)]


def check_layer_types(arch: str, config: Config, period: int, name: str = "sliding_attention") -> None:
    """Raise UnsupportedError if the kinds of attention alternate in another way than llama.cpp's."""
    stated = config.items("layer_types")
    if stated is not None and stated != layer_types(config.layers, period, name):
        why = f"of {period} layers the last attends to all, the others to a window"
        raise unsupported(arch, "layer_types", stated, why)


def check_value(arch: str, config: Config, key: str, wanted: object, why: str) -> None:
    """Raise UnsupportedError if the configuration states another value than the one that llama.cpp hard-codes."""
    if config.has(key) and config.get(key) != wanted:
        raise unsupported(arch, key, config.get(key), why)
