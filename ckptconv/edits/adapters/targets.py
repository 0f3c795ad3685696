"""Finds the modules of the base that an adapter's modules change.

An adapter's module belongs to a component of a pipeline, or to the only one there is. Each component has one of a few
usual prefixes in the base:

    adapter                                       base
    base_model.model.model.layers.0…              model.layers.0…, layers.0…, or behind any prefix that they share
    unet.…, transformer.…, lora_unet_…            unet.…, transformer.…, model.diffusion_model.…, or its file alone
    text_encoder.…, lora_te_…, lora_te1_…         text_encoder.…, cond_stage_model.transformer.…, …
    text_encoder_2.…, lora_te2_…                  text_encoder_2.…, …

kohya's names have underscores for dots, so both sides are compared with underscores. For SDXL, kohya's scripts use the
names of the model's release (input_blocks), which `sgm` translates.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.edits.adapters.names import PEFT, plain_module
from ckptconv.edits.adapters.sgm import released_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Fits = Callable[[str, str], bool]

ENDS = (".weight", ".in_proj_weight", "")
"""What may follow a module's name in the name of its weight."""

_DENOISER = ("unet.", "transformer.", "model.diffusion_model.", "diffusion_model.", "")
_FIRST = (
    "text_encoder.", "cond_stage_model.transformer.", "cond_stage_model.model.", "conditioner.embedders.0.transformer.",
    "text_encoders.clip_l.transformer.", "",
)  # fmt: skip
_SECOND = (
    "text_encoder_2.", "conditioner.embedders.1.model.", "conditioner.embedders.0.model.",
    "text_encoders.clip_g.transformer.", "",
)  # fmt: skip
_THIRD = ("text_encoder_3.", "text_encoders.t5xxl.transformer.", "")

_LAYER = "text_model."
"""What CLIP's text encoders have in front of their names, up to transformers 4."""

COMPONENTS: Mapping[str, tuple[str, Sequence[str]]] = {
    "lora_unet_": ("the denoiser", _DENOISER), "lora_transformer_": ("the denoiser", _DENOISER),
    "lora_te1_": ("the text encoder", _FIRST), "lora_te2_": ("the second text encoder", _SECOND),
    "lora_te3_": ("the third text encoder", _THIRD), "lora_te_": ("the text encoder", _FIRST),
    "lycoris_": ("the network", ("", *_DENOISER[:-1])),
    "unet.": ("the denoiser", _DENOISER), "transformer.": ("the denoiser", _DENOISER),
    "model.diffusion_model.": ("the denoiser", _DENOISER), "diffusion_model.": ("the denoiser", _DENOISER),
    "text_encoder_3.": ("the third text encoder", _THIRD), "text_encoder_2.": ("the second text encoder", _SECOND),
    "text_encoder.": ("the text encoder", _FIRST),
}  # fmt: skip
"""The start of an adapter's names → the component, and the prefixes that it may have in the base."""


MOST_PLACES, MOST_ASKED = 32, 64
"""The most prefixes that are tried for all modules; and if there are more, how many modules choose among them."""


@dataclass(slots=True)
class Found:
    """Where an adapter's modules are in the base.

    names:   the adapter's module → the base's weight.
    missing: modules that the base should have and does not.
    absent:  components that the base does not have at all → their modules.
    prefix:  what the base's names have in front of the adapter's; or, with a minus in front, the other way round.
    """

    names: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    absent: dict[str, list[str]] = field(default_factory=dict)
    prefix: str = ""


def find(modules: Iterable[str], tensors: Sequence[str], fits: Fits) -> Found:
    """Finds the weight of each module. fits: whether a module's shapes may fit a weight."""
    base = _Base(tensors)
    grouped: dict[str, dict[str, str]] = defaultdict(dict)
    for module in modules:
        start, inner = _component(module, base)
        grouped[start][module] = inner
    result = Found()
    for start, inside in grouped.items():
        found, prefix = _best_prefix(inside, start, base, fits)
        result.names |= found
        result.prefix = result.prefix or prefix
        lost = [module for module in inside if module not in found]
        if lost and not found and start and not base.has(COMPONENTS[start][1]):
            result.absent[COMPONENTS[start][0]] = lost
        else:
            result.missing += lost
    if not result.names and fits is not _fits_any:  # nothing at all is there: then names alone decide
        return find([module for inside in grouped.values() for module in inside], tensors, _fits_any)
    if not result.names:
        result.missing += [module for lost in result.absent.values() for module in lost]
        result.absent = {}
    return result


def _fits_any(module: str, name: str) -> bool:
    return True


def _component(module: str, base: _Base) -> tuple[str, str]:
    """What a module's name starts with (a key of `COMPONENTS`, or ""), and the rest of it."""
    if module.startswith(PEFT):
        return "", plain_module(module)
    if any(module + end in base.weights for end in ENDS):
        return "", module
    start = next((each for each in COMPONENTS if module.startswith(each)), "")
    return start, module[len(start) :].removeprefix("base_model.model.")


class _Base:
    """The base's names, also with underscores instead of dots."""

    def __init__(self, tensors: Sequence[str]) -> None:
        self.weights = set(tensors)
        self.flat: dict[str, str] = {}
        for name in tensors:
            if name.endswith(".weight"):
                self.flat.setdefault(_flat(name.removesuffix(".weight")), name)
        self.released: dict[str, str] | None = None

    def has(self, prefixes: Sequence[str]) -> bool:
        """Whether the base has a component, by its usual prefixes."""
        usual = tuple(prefix for prefix in prefixes if prefix)
        return any(name.startswith(usual) for name in self.weights)

    def weight_of(self, module: str, prefix: str, *, flat: bool) -> str:
        """The weight of a module behind a prefix; "" if there is none."""
        if not flat:
            return next((prefix + module + end for end in ENDS if prefix + module + end in self.weights), "")
        return self.flat.get(_flat(prefix) + module, "") or self._released(module, prefix)

    def _released(self, module: str, prefix: str) -> str:
        if self.released is None:
            self.released = {_flat(name): one for name, one in released_names(self.weights).items()}
        found = self.released.get(module, "")
        return found if found.startswith(prefix) else ""


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _best_prefix(inside: Mapping[str, str], start: str, base: _Base, fits: Fits) -> tuple[dict[str, str], str]:
    """The weights of a component's modules under the prefix that fits most of them, and that prefix."""
    flat = start.endswith("_")
    best: dict[str, str] = {}
    chosen, score = "", (0, 0)
    for cut, prefix in _most_likely(_places(start, inside, base), inside, base):
        named = {module: base.weight_of(inner.removeprefix(cut), prefix, flat=flat) for module, inner in inside.items()}
        found = {module: name for module, name in named.items() if name}
        fitting = sum(fits(module, name) for module, name in found.items())
        if (fitting, len(found)) > score and (fitting or prefix.removesuffix(_LAYER) or not start):
            best, chosen, score = found, f"-{cut}" if cut else prefix, (fitting, len(found))
    return best, "" if start else chosen


def _most_likely(places: list[tuple[str, str]], inside: Mapping[str, str], base: _Base) -> list[tuple[str, str]]:
    """The places with the most of the first modules: with very many places, trying all modules in all is too slow."""
    if len(places) <= MOST_PLACES:
        return places
    asked = list(inside.values())[:MOST_ASKED]

    def lacking(place: tuple[str, str]) -> int:
        cut, prefix = place
        return sum(not base.weight_of(inner.removeprefix(cut), prefix, flat=False) for inner in asked)

    return sorted(places, key=lacking)[:MOST_PLACES]


def _places(start: str, inside: Mapping[str, str], base: _Base) -> list[tuple[str, str]]:
    """(what to remove from the adapter's names, what to put in front) to try.

    For a component, the usual prefixes; else the ways in which the first module's name is longer or shorter in the
    base.
    """
    if start:
        usual = COMPONENTS[start][1]
        places = [("", prefix) for prefix in usual]
        if "text_encoder." in usual or "text_encoder_2." in usual:
            layer = _flat(_LAYER) if start.endswith("_") else _LAYER
            places += [place for prefix in usual for place in ((layer, prefix), ("", prefix + _LAYER))]
        return places
    first = next(iter(inside.values()))
    behind = {name[: -len(first + end)] for end in ENDS[:2] for name in base.weights if name.endswith(f".{first}{end}")}
    parts = first.split(".")
    before = [".".join(parts[:count]) + "." for count in range(1, min(4, len(parts)))]
    return [("", ""), *(("", prefix) for prefix in sorted(behind)), *((cut, "") for cut in before)]
