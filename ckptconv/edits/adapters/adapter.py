"""An adapter, opened, whether it can be merged at all, and what merging it made of a base."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.edits.adapters.build import Module
from ckptconv.edits.adapters.config import LISTED, Config
from ckptconv.edits.adapters.inside import WHAT, how_to_take, is_inside
from ckptconv.edits.adapters.kinds import KINDS, LORA, kind_of
from ckptconv.edits.adapters.names import PEFT, SAVED, Parts, are_loralibs, parts_of
from ckptconv.edits.adapters.products import alpha_over_rank
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import LazyTensor

LORALIBS_OWN = "model.eval() of loralib merges it: save the state_dict then, without lora_A and lora_B"

_EMBEDDING = re.compile(r"emb|^w[tp]e$|^tok")
"""In names of embeddings."""


@dataclass(frozen=True)
class Adapter:
    """An adapter, opened.

    label:   what it is called in errors and findings.
    tensors: all of it, by name.
    configs: its configuration by the first word of names, with its dot; "" for all.
    parts:   its tensors by what they are for.
    inside:  whether the model that it changes stands around it.
    """

    label: str
    tensors: Mapping[str, LazyTensor]
    configs: Mapping[str, Config]
    parts: Parts
    inside: bool = False

    @classmethod
    def of(cls, label: str, tensors: Mapping[str, LazyTensor], configs: Mapping[str, Config]) -> Adapter:
        """Raises UnsupportedError where a file holds several."""
        if not is_inside(tensors):
            return cls(label, tensors, configs, parts_of(tensors))
        parts = parts_of(tensors)
        parts.whole = {inner: name for inner, name in parts.whole.items() if SAVED in name}  # the others are the base's
        return cls(label, tensors, configs, parts, inside=True)

    def config(self, module: str) -> Config:
        """What is said of a module."""
        return self.configs.get("") or self.configs.get(module.partition(".")[0] + ".") or Config()

    def module(self, name: str, scale: float = 1.0) -> Module:
        """One of its modules."""
        own = self.parts.modules[name]
        kind = KINDS.get(kind_of(own))
        shared = {role: self.parts.shared[role] for role in (kind.shared if kind else ()) if role in self.parts.shared}
        parts = {role: self.tensors[one] for role, one in (own | shared).items()}
        return Module(name, parts, self.config(name), scale)

    @property
    def kinds(self) -> dict[str, int]:
        """What it is made of, with counts."""
        counts: dict[str, int] = {}
        for parts in self.parts.modules.values():
            kind = KINDS.get(kind_of(parts))
            name = kind.name if kind else "a part"
            counts[name] = counts.get(name, 0) + 1
        return counts


@dataclass
class Merge:
    """What became of the base.

    tensors:  all of them.
    changed:  names of those that were computed with.
    replaced: names of those that the adapter holds whole.
    added:    likewise, of which the base had none.
    resized:  likewise, of another number of rows than the base's.
    absent:   components that the base lacks, with the number of their modules.
    prefix:   what the base's names have before the adapter's.
    """

    tensors: dict[str, LazyTensor]
    changed: dict[str, None] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)
    resized: dict[str, str] = field(default_factory=dict)
    absent: dict[str, int] = field(default_factory=dict)
    prefix: str = ""

    @property
    def touched(self) -> set[str]:
        """Names of all that are not the base's any more."""
        return {*self.changed, *self.replaced, *self.added}


def check(adapter: Adapter, *, scaled: bool = False) -> None:
    """Raise UnsupportedError or EditError for what is not merged, by its name, whatever the base.

    scaled: whether the user says the scale, which then stands for that which nothing in the file says.
    """
    if adapter.inside:
        raise UnsupportedError(WHAT, hint=how_to_take(adapter.tensors))
    for config in adapter.configs.values():
        config.check()
    parts = adapter.parts
    if parts.others:
        name, what = next(iter(parts.others.items()))
        raise UnsupportedError(f"{name!r} is of {what}: that is not merged", hint=LISTED)
    if not parts.modules and not parts.whole:
        raise EditError("there is no tensor in it", hint="name the adapter's weights, or the folder that they are in")
    if not parts.modules and not any(config.is_said for config in adapter.configs.values()):
        raise EditError(
            "it holds no tensor of an adapter's",
            hint="PEFT's, kohya's, LyCORIS', diffusers' and mlx-lm's are known by their names; ckptconv inspect shows "
            "them",
        )
    unsaid = any(name.startswith(PEFT) for name in adapter.tensors)
    if unsaid and not any(config.peft for config in adapter.configs.values()):
        _check_scale(adapter, scaled=scaled)
    if are_loralibs(adapter.tensors):
        _check_loralibs(adapter)
    said = adapter.config("")
    if any("lora_a" in one for one in parts.modules.values()) and said.factor is None and not said.llama_cpp:
        raise EditError(
            "nothing says its scale", hint="mlx-lm's adapter_config.json, with lora_parameters, belongs beside the file"
        )


def _check_loralibs(adapter: Adapter) -> None:
    """Raise UnsupportedError for loralib's MergedLinear, and for an Embedding whose shape may be a Linear's.

    MergedLinear of rank r has factors [r · k, inputs] and [outputs / n · k, r], of those k of its n parts that its
    argument `enable_lora` says; Embedding [r, rows] and [columns, r] (loralib 0.1.2, layers.py).
    """
    for module, parts in adapter.parts.modules.items():
        shapes = [adapter.tensors[parts[role]].info.shape for role in LORA if role in parts]
        if [len(shape) for shape in shapes] != [2, 2]:
            continue
        (ranks, inputs), (outputs, rank) = shapes
        if rank and ranks != rank and ranks % rank == 0:
            raise UnsupportedError(
                f"{module!r} is of loralib's MergedLinear, and nothing in the file says which parts of the weight are "
                "changed: that is not merged", hint=LORALIBS_OWN,
            )  # fmt: skip
        if inputs == outputs and _EMBEDDING.search(module.rpartition(".")[2]):
            raise UnsupportedError(
                f"{module!r} is square, and nothing in the file says whether it is of loralib's Embedding, which is "
                "turned, or of its Linear: that is not merged", hint=LORALIBS_OWN,
            )  # fmt: skip


def _check_scale(adapter: Adapter, *, scaled: bool) -> None:
    """Raise EditError for one of PEFT's without a configuration, unless its scale is all that this would say."""
    kinds = [KINDS.get(kind_of(parts)) for parts in adapter.parts.modules.values()]
    alone = all(kind is not None and kind.scale is alpha_over_rank for kind in kinds)
    if not alone or not scaled:
        more = "; or --lora ADAPTER=SCALE says it: lora_alpha / r, of rsLoRA over the root of r" if alone else ""
        raise EditError(
            "nothing says its alpha, by which it is scaled",
            hint=f"PEFT's adapter_config.json belongs beside the file{more}",
        )
