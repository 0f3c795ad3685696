"""Which of the base's modules the modules of an adapter are.

A module of an adapter belongs to a component of a pipeline, or to the only one; a component has one of some usual
prefixes in the base:

    adapter                                       base
    base_model.model.model.layers.0…              model.layers.0…, layers.0…, or behind any prefix that they share
    unet.…, transformer.…, lora_unet_…            unet.…, transformer.…, model.diffusion_model.…, or its file alone
    text_encoder.…, lora_te_…, lora_te1_…         text_encoder.…, cond_stage_model.transformer.…, …
    text_encoder_2.…, lora_te2_…                  text_encoder_2.…, …

kohya's names have underscores for dots, which the base's names undo: both are compared with underscores alone. Of SDXL
kohya's scripts use the names of its own release (input_blocks), which `sgm` finds for diffusers'.
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
"""What a module's name is completed by to that of its weight."""

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
"""What stands before the names of CLIP's text encoder, or, from transformers 5 on, does not."""

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
"""By what an adapter's names begin with: a component, and where the base may have it."""


MOST_PLACES, MOST_ASKED = 32, 64
"""Prefixes of the base's that are tried for all modules, and modules by which those are chosen where there are more."""


@dataclass(slots=True)
class Found:
    """Where modules are.

    names:   the base's weight by the adapter's module.
    missing: modules that the base should have and lacks.
    absent:  components of which the base has nothing, with their modules.
    prefix:  what stands before the base's names and not before the adapter's, or the other way round with a minus.
    """

    names: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    absent: dict[str, list[str]] = field(default_factory=dict)
    prefix: str = ""


def find(modules: Iterable[str], tensors: Sequence[str], fits: Fits) -> Found:
    """The weight of each module. fits: whether a module may be for that weight, by its shape."""
    base = _Base(tensors)
    grouped: dict[str, dict[str, str]] = defaultdict(dict)
    for module in modules:
        start, inner = _component(module, base)
        grouped[start][module] = inner
    made = Found()
    for start, inside in grouped.items():
        found, prefix = _best(inside, start, base, fits)
        made.names |= found
        made.prefix = made.prefix or prefix
        lost = [module for module in inside if module not in found]
        if lost and not found and start and not base.has(COMPONENTS[start][1]):
            made.absent[COMPONENTS[start][0]] = lost
        else:
            made.missing += lost
    if not made.names and fits is not _any:  # nothing of it is there: that is no component, but another base
        return find([module for inside in grouped.values() for module in inside], tensors, _any)
    if not made.names:
        made.missing += [module for lost in made.absent.values() for module in lost]
        made.absent = {}
    return made


def _any(module: str, name: str) -> bool:
    return True


def _component(module: str, base: _Base) -> tuple[str, str]:
    """What its name begins with, and the rest."""
    if module.startswith(PEFT):
        return "", plain_module(module)
    if any(module + end in base.weights for end in ENDS):
        return "", module
    start = next((each for each in COMPONENTS if module.startswith(each)), "")
    return start, module[len(start) :].removeprefix("base_model.model.")


class _Base:
    """The base's names, and those that they are with underscores."""

    def __init__(self, tensors: Sequence[str]) -> None:
        self.weights = set(tensors)
        self.flat: dict[str, str] = {}
        for name in tensors:
            if name.endswith(".weight"):
                self.flat.setdefault(_flat(name.removesuffix(".weight")), name)
        self.released: dict[str, str] | None = None

    def has(self, prefixes: Sequence[str]) -> bool:
        """Whether a component is there, by its usual prefixes."""
        usual = tuple(prefix for prefix in prefixes if prefix)
        return any(name.startswith(usual) for name in self.weights)

    def named(self, module: str, prefix: str, *, flat: bool) -> str:
        """The weight of a module behind a prefix; "" for none."""
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


def _best(inside: Mapping[str, str], start: str, base: _Base, fits: Fits) -> tuple[dict[str, str], str]:
    """The weights of a component's modules, by the prefix under which most of them are; and that prefix."""
    flat = start.endswith("_")
    best: dict[str, str] = {}
    chosen, score = "", (0, 0)
    for cut, prefix in _likely(_places(start, inside, base), inside, base):
        named = {module: base.named(inner.removeprefix(cut), prefix, flat=flat) for module, inner in inside.items()}
        found = {module: name for module, name in named.items() if name}
        fitting = sum(fits(module, name) for module, name in found.items())
        if (fitting, len(found)) > score and (fitting or prefix.removesuffix(_LAYER) or not start):
            best, chosen, score = found, f"-{cut}" if cut else prefix, (fitting, len(found))
    return best, "" if start else chosen


def _likely(places: list[tuple[str, str]], inside: Mapping[str, str], base: _Base) -> list[tuple[str, str]]:
    """Those of very many places that have most of the first modules: asking each for all takes their product."""
    if len(places) <= MOST_PLACES:
        return places
    asked = list(inside.values())[:MOST_ASKED]

    def lacking(place: tuple[str, str]) -> int:
        cut, prefix = place
        return sum(not base.named(inner.removeprefix(cut), prefix, flat=False) for inner in asked)

    return sorted(places, key=lacking)[:MOST_PLACES]


def _places(start: str, inside: Mapping[str, str], base: _Base) -> list[tuple[str, str]]:
    """What is taken from the adapter's names, and what is put before them: what is usual for the component; of no
    component, what the first module has more or less than in the base.
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
