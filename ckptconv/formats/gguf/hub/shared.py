"""What several of llama.cpp's architectures have: how far heads are turned, Granite's scales, kinds of layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.arch.statements import CONFIG
from ckptconv.formats.gguf.hub.config import unlike
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
    """How much of a head is turned; `part` of it where the configuration says nothing."""
    return {"rope.dimension_count": ("uint32", int(config.partial_rotary(part) * config.head_width))}


def sections(config: Config, default: list[int] | None = None) -> list[int]:
    """How heads are turned in three directions, and llama.cpp's fourth. Raises CorruptFileError."""
    said = config.rope().get("mrope_section", default)
    if not isinstance(said, list) or len(said) != 3 or any(type(part) is not int or part < 0 for part in said):
        raise bad(f"{CONFIG}: mrope_section is {str(said)[:40]!r}, and no three whole numbers")
    return [*said, 0]


def granite(config: Config) -> Entries:
    """Its scales. Raises UnsupportedError for heads of another width."""
    if config.head_width != config.width // config.heads:
        raise unlike("granite", "head_dim", config.head_width, "heads are as wide as all of them by their number")
    found: Entries = {new: ("float32", config.number(key)) for key, new in _SCALES.items() if config.has(key)}
    return found | rotary(config)


def kinds(layers: int, period: int, name: str = "sliding_attention") -> list[str]:
    """Kinds of attention, of which every last of a period attends to all."""
    return [name if (layer + 1) % period else "full_attention" for layer in range(layers)]


def check_kinds(arch: str, config: Config, period: int, name: str = "sliding_attention") -> None:
    """Raise UnsupportedError for layers that are mixed otherwise than llama.cpp mixes them."""
    said = config.items("layer_types")
    if said is not None and said != kinds(config.layers, period, name):
        raise unlike(arch, "layer_types", said, f"of {period} layers the last attends to all, the others to a window")


def check_said(arch: str, config: Config, key: str, wanted: object, why: str) -> None:
    """Raise UnsupportedError where the configuration says another value than llama.cpp takes for granted."""
    if config.has(key) and config.get(key) != wanted:
        raise unlike(arch, key, config.get(key), why)
