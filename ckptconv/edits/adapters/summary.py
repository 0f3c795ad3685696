"""Describes an adapter for people: its kind, ranks, scales, and the modules that it changes.

It reads headers and the configuration; of kohya's adapters also the alphas, a single number each.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, TypeVar

from ckptconv.edits.adapters import llama_cpp
from ckptconv.edits.adapters.adapter import check
from ckptconv.edits.adapters.kinds import KINDS, kind_of
from ckptconv.edits.adapters.names import PEFT, is_loralib, plain_module
from ckptconv.edits.adapters.targets import COMPONENTS
from ckptconv.errors import CkptconvError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.spelling import Json
    from ckptconv.edits.adapters.adapter import Adapter
    from ckptconv.edits.adapters.build import Module

_T = TypeVar("_T")
_NUMBER = re.compile(r"_\d+_(?!\d)")

MOST_ALPHAS = 20_000
"""The most modules whose alpha is read."""

_BASE_KEYS = (
    llama_cpp.BASE_KEY, "ss_sd_model_name", "ss_base_model_version", "modelspec.architecture", "modelspec.title",
)  # fmt: skip
"""Keys of llama.cpp's and kohya's metadata that name the base model."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A description of an adapter.

    maker:   whose names it has: "PEFT", "kohya", "diffusers", "loralib", "mlx-lm", "llama.cpp".
    peft:    the type in PEFT's configuration; "" without one.
    kinds:   "LoRA", "LoHa", …, with the number of modules of each.
    targets: the last words of modules' names, with the number of modules of each.
    ranks, scales: with the number of modules that have each; a scale is alpha over rank.
    base:    the base model that the configuration or the metadata names.
    inside:  whether it was saved together with the model that it changes.
    whole:   tensors that replace the base's (modules_to_save, biases, embeddings).
    changes: elements of the weights that it changes. parameters: its own elements.
    obstacle: why it cannot be merged; "" if no reason is known.
    """

    maker: str
    peft: str
    kinds: Mapping[str, int]
    targets: Mapping[str, int]
    ranks: Mapping[int, int]
    scales: Mapping[float, int]
    base: str
    dora: bool
    rslora: bool
    whole: tuple[str, ...] = ()
    parameters: int = 0
    changes: int = 0
    obstacle: str = ""
    components: Mapping[str, int] = field(default_factory=dict)
    inside: bool = False

    def to_dict(self) -> dict[str, Json]:
        """The summary as ``inspect --json`` prints it."""
        return {
            "maker": self.maker, "peft_type": self.peft or None, "kinds": dict(self.kinds),
            "targets": dict(self.targets),
            "ranks": {str(rank): count for rank, count in self.ranks.items()},
            "scales": {f"{scale:g}": count for scale, count in self.scales.items()},
            "base_model": self.base or None, "dora": self.dora, "rslora": self.rslora,
            "inside": self.inside, "whole": list(self.whole),
            "components": dict(self.components), "parameters": self.parameters, "changes": self.changes,
            "mergeable": not self.obstacle, "obstacle": self.obstacle or None,
        }  # fmt: skip


def summary(adapter: Adapter, metadata: Mapping[object, MetaNode]) -> Summary:
    """Describes an adapter. Never raises for what is wrong with it: that becomes the summary's obstacle."""
    modules = [adapter.module(name) for name in adapter.parts.modules]
    configs = list(adapter.configs.values())
    obstacle, scales = _obstacle_and_scales(adapter, modules)
    return Summary(
        maker=_maker(adapter),
        peft=next((config.peft for config in configs if config.peft), ""),
        kinds=adapter.kinds,
        targets=_counts(_target(module.name) for module in modules),
        ranks=_counts(module.rank for module in modules if module.rank),
        scales=scales,
        base=next((config.base for config in configs if config.base), "") or _base_in_metadata(metadata),
        dora=any("magnitude" in module.parts for module in modules) or any(config.dora for config in configs),
        rslora=any(config.scaled_by_root for config in configs),
        whole=tuple(map(plain_module, adapter.parts.whole)),
        parameters=sum(adapter.tensors[name].info.numel for name in _own_tensors(adapter)),
        changes=sum(map(_changed_elements, modules)),
        obstacle=obstacle,
        components=_counts(_component(module.name) for module in modules),
        inside=adapter.inside,
    )


def unread(obstacle: str) -> Summary:
    """The summary of an adapter that cannot be understood."""
    return Summary("", "", {}, {}, {}, {}, "", dora=False, rslora=False, obstacle=obstacle)


def _obstacle_and_scales(adapter: Adapter, modules: list[Module]) -> tuple[str, Mapping[float, int]]:
    """Why the adapter cannot be merged; or if it can, its scales with the number of modules of each."""
    scales: Counter[float] = Counter()
    try:
        check(adapter)
        for module in modules[:MOST_ALPHAS]:
            kind = module.check()
            if KINDS[kind].scale:
                scales[module.factor(kind)] += 1
    except CkptconvError as error:
        return error.message, {}
    return "", dict(scales.most_common())


def _own_tensors(adapter: Adapter) -> Iterable[str]:
    """Names of the adapter's own tensors, without single numbers and without a model around it."""
    taken = {
        *adapter.parts.whole.values(),
        *(tensor for parts in adapter.parts.modules.values() for tensor in parts.values()),
    }
    for name, tensor in adapter.tensors.items():
        if tensor.info.shape and (not adapter.inside or name in taken):
            yield name


def _counts(found: Iterable[_T]) -> dict[_T, int]:
    return dict(Counter(found).most_common())


def _maker(adapter: Adapter) -> str:
    if any(config.llama_cpp for config in adapter.configs.values()):
        return "llama.cpp"
    if any(config.mlx for config in adapter.configs.values()) or any(
        "lora_a" in parts for parts in adapter.parts.modules.values()
    ):
        return "mlx-lm"
    if adapter.inside or "" in adapter.configs or any(name.startswith(PEFT) for name in adapter.tensors):
        return "PEFT"
    if is_loralib(adapter.tensors):
        return "loralib"
    flat = any(module.startswith(("lora_", "lycoris_")) for module in adapter.parts.modules)
    return "kohya" if flat else "diffusers"


def _target(module: str) -> str:
    """The last word of a module's name, with the one before if it is a number.

    Of kohya's names, which have underscores for dots, it is what follows the last number.
    """
    words = module.split(".")
    if len(words) > 1:
        return ".".join(words[-2:]) if words[-1].isdecimal() else words[-1]
    return _NUMBER.split(module)[-1] or module


def _component(module: str) -> str:
    """The part of a pipeline that a module belongs to."""
    start = "" if module.startswith(PEFT) else next((each for each in COMPONENTS if module.startswith(each)), "")
    return COMPONENTS[start][0] if start else "the network"


def _changed_elements(module: Module) -> int:
    """Elements of the weight that a module changes."""
    shapes = {part: tensor.info.shape for part, tensor in module.parts.items()}

    def matrix(left: str, right: str) -> int:
        if left.removesuffix("_a") != left and left.removesuffix("_a") in shapes:
            return prod(shapes[left.removesuffix("_a")])
        first, second = shapes.get(left, ()), shapes.get(right, ())
        return prod(first) * prod(second) // max(module.rank, 1) ** 2

    match kind_of(shapes):
        case "down" | "lora_E":
            return matrix("up", "down") * prod(shapes.get("mid", ())[2:])
        case "embedding_down":
            return matrix("embedding_down", "embedding_up")
        case "lora_a":
            experts = shapes["lora_a"][0] if len(shapes["lora_a"]) == 3 else 1
            return matrix("lora_a", "lora_b") // max(experts, 1)
        case "hada_w1_a":
            return matrix("hada_w1_a", "hada_w1_b") * prod(shapes.get("hada_t1", ())[2:])
        case "diff":
            return prod(shapes["diff"])
        case "lokr_w1" | "lokr_w1_a":
            return (
                matrix("lokr_w1_a", "lokr_w1_b")
                * matrix("lokr_w2_a", "lokr_w2_b")
                * prod(shapes.get("lokr_t2", ())[2:])
            )
        case "tokens":
            return prod(shapes["tokens"])
    return 0


def _base_in_metadata(metadata: Mapping[object, MetaNode]) -> str:
    """What the metadata says about the base model."""
    values = [metadata.get(key) for key in _BASE_KEYS]
    return ", ".join(dict.fromkeys(text for text in values if isinstance(text, str) and text and text != "None"))
