"""An opened adapter; whether it can be merged at all; and what merging it made of a base."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.edits.adapters.build import Module
from ckptconv.edits.adapters.config import LISTED, Config
from ckptconv.edits.adapters.inside import NOT_MERGED, how_to_extract, is_inside
from ckptconv.edits.adapters.kinds import KINDS, LORA, kind_of
from ckptconv.edits.adapters.names import PEFT, SAVED, Parts, is_loralib, parts_of
from ckptconv.edits.adapters.products import alpha_over_rank
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import LazyTensor

LORALIB_HINT = "model.eval() of loralib merges it: save the state_dict then, without lora_A and lora_B"

_EMBEDDING_NAME = re.compile(r"emb|^w[tp]e$|^tok")
"""Matches the last words of embeddings' names."""


@dataclass(frozen=True)
class Adapter:
    """An opened adapter.

    label:   what errors and findings call it.
    tensors: all its tensors, by name.
    configs: its configurations, by the first word of names with its dot; "" for the configuration of all.
    parts:   its tensors, by what they are for.
    inside:  whether it was saved together with the model that it changes.
    """

    label: str
    tensors: Mapping[str, LazyTensor]
    configs: Mapping[str, Config]
    parts: Parts
    inside: bool = False

    @classmethod
    def of(cls, label: str, tensors: Mapping[str, LazyTensor], configs: Mapping[str, Config]) -> Adapter:
        """An adapter of these tensors. Raises UnsupportedError where a file holds several adapters."""
        if not is_inside(tensors):
            return cls(label, tensors, configs, parts_of(tensors))
        parts = parts_of(tensors)
        parts.whole = {inner: name for inner, name in parts.whole.items() if SAVED in name}  # the others are the base's
        return cls(label, tensors, configs, parts, inside=True)

    def config(self, module: str) -> Config:
        """The configuration that applies to a module; an empty one if there is none."""
        return self.configs.get("") or self.configs.get(module.partition(".")[0] + ".") or Config()

    def module(self, name: str, scale: float = 1.0) -> Module:
        """One of its modules; `scale` is what the user multiplies the change by."""
        own = self.parts.modules[name]
        kind = KINDS.get(kind_of(own))
        shared = {role: self.parts.shared[role] for role in (kind.shared if kind else ()) if role in self.parts.shared}
        parts = {role: self.tensors[tensor] for role, tensor in (own | shared).items()}
        return Module(name, parts, self.config(name), scale)

    @property
    def kinds(self) -> dict[str, int]:
        """The names of its kinds, with the number of modules of each."""
        counts: dict[str, int] = {}
        for parts in self.parts.modules.values():
            kind = KINDS.get(kind_of(parts))
            name = kind.name if kind else "a part"
            counts[name] = counts.get(name, 0) + 1
        return counts


@dataclass
class Merge:
    """What merging an adapter made of a base.

    tensors:  all tensors, after merging.
    changed:  names of weights that were changed.
    replaced: names of tensors that the adapter brings whole.
    added:    names of tensors that the adapter brings whole and the base did not have.
    resized:  tensors that the adapter brings with another number of rows: name → how the number changed.
    absent:   components of a pipeline that the base does not have, with the number of the adapter's modules for them.
    prefix:   what the base's names have in front of the adapter's.
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
        """Names of all tensors that differ from the base's."""
        return {*self.changed, *self.replaced, *self.added}


def check(adapter: Adapter, *, scaled: bool = False) -> None:
    """Raise UnsupportedError or EditError, saying what it is, for an adapter that cannot be merged into any base.

    scaled: whether the user gives the scale, which then replaces one that is stated nowhere.
    """
    if adapter.inside:
        raise UnsupportedError(NOT_MERGED, hint=how_to_extract(adapter.tensors))
    for config in adapter.configs.values():
        config.check()
    parts = adapter.parts
    if parts.others:
        name, what = next(iter(parts.others.items()))
        raise UnsupportedError(f"{name!r} is of {what}: that is not merged", hint=LISTED)
    if not parts.modules and not parts.whole:
        raise EditError("there is no tensor in it", hint="name the adapter's weights, or the folder that they are in")
    if not parts.modules and not any(config.is_given for config in adapter.configs.values()):
        raise EditError(
            "it holds no tensor of an adapter's",
            hint="PEFT's, kohya's, LyCORIS', diffusers' and mlx-lm's are known by their names; ckptconv inspect shows "
            "them",
        )
    is_peft = any(name.startswith(PEFT) for name in adapter.tensors)
    if is_peft and not any(config.peft for config in adapter.configs.values()):
        _check_scale(adapter, scaled=scaled)
    if is_loralib(adapter.tensors):
        _check_loralib(adapter)
    config = adapter.config("")
    is_mlx = any("lora_a" in roles for roles in parts.modules.values())
    if is_mlx and config.factor is None and not config.llama_cpp:
        raise EditError(
            "nothing says its scale", hint="mlx-lm's adapter_config.json, with lora_parameters, belongs beside the file"
        )


def _check_loralib(adapter: Adapter) -> None:
    """Raise UnsupportedError for loralib's MergedLinear, and for an Embedding that could be a Linear by its shape.

    The factors of MergedLinear of rank r are [r · k, inputs] and [outputs / n · k, r], for the k of its n parts that
    its argument `enable_lora` names. Those of Embedding are [r, rows] and [columns, r] (loralib 0.1.2, layers.py).
    """
    for module, parts in adapter.parts.modules.items():
        shapes = [adapter.tensors[parts[role]].info.shape for role in LORA if role in parts]
        if [len(shape) for shape in shapes] != [2, 2]:
            continue
        (ranks, inputs), (outputs, rank) = shapes
        if rank and ranks != rank and ranks % rank == 0:
            raise UnsupportedError(
                f"{module!r} is of loralib's MergedLinear, and nothing in the file says which parts of the weight are "
                "changed: that is not merged", hint=LORALIB_HINT,
            )  # fmt: skip
        if inputs == outputs and _EMBEDDING_NAME.search(module.rpartition(".")[2]):
            raise UnsupportedError(
                f"{module!r} is square, and nothing in the file says whether it is of loralib's Embedding, which is "
                "turned, or of its Linear: that is not merged", hint=LORALIB_HINT,
            )  # fmt: skip


def _check_scale(adapter: Adapter, *, scaled: bool) -> None:
    """Raise EditError for a PEFT adapter without a configuration.

    It is accepted if only its scale is missing and the user gives that.
    """
    kinds = [KINDS.get(kind_of(parts)) for parts in adapter.parts.modules.values()]
    only_scale = all(kind is not None and kind.scale is alpha_over_rank for kind in kinds)
    if not only_scale or not scaled:
        more = "; or --lora ADAPTER=SCALE says it: lora_alpha / r, of rsLoRA over the root of r" if only_scale else ""
        raise EditError(
            "nothing says its alpha, by which it is scaled",
            hint=f"PEFT's adapter_config.json belongs beside the file{more}",
        )
