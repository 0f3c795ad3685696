"""An adapter's configuration: PEFT's ``adapter_config.json``, or what diffusers puts into the metadata.

    {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_rslora": false, "fan_in_fan_out": false,
     "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.0.q_proj": 8}, "base_model_name_or_path": "…", …}

mlx-lm's is read too (`mlx`). Source: peft's tuners/lora/config.py.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING

from ckptconv.edits.adapters import mlx
from ckptconv.edits.adapters.kinds import MERGED
from ckptconv.edits.adapters.patterns import Patterns, finite
from ckptconv.errors import CorruptFileError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

LISTED = "ckptconv/edits/README.md lists the kinds that are"

_PROMPT = "put tokens of their own before the text, or into attention, and change no weight"
_SEED = "do not hold where their numbers belong, or what these are factors of: torch's random generator says it"
_MIXED = "change with what goes into a layer, so that no weight does the same"
_DECOMPOSED = "are for parts into which the base's own weights are decomposed"

REFUSED = {
    **dict.fromkeys(("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CARTRIDGE", "CPT",
                     "ADAPTION_PROMPT"), _PROMPT),
    **dict.fromkeys(("FOURIERFT", "WAVEFT", "UNILORA"), _SEED),
    **dict.fromkeys(("XLORA", "POLY", "LILY", "PVERA"), _MIXED),
    **dict.fromkeys(("OSF", "PSOFT", "ADAMSS", "TINYLORA", "FROD"), _DECOMPOSED),
    "SHADOW": "are a network beside the base, which changes no weight",
    "PEANUT": "compute their change of the base's weights by a network of their own",
    "GLORA": "change biases by the weights beside them",
    "DEFT": "take a part of the base's weights away before they add theirs",
    "SUPERTUNING": "hold single elements in a layout that is not read",
}  # fmt: skip
"""PEFT's types that are not merged, and why; the texts go on from "they"."""

REPLACES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initializations that take the adapter's initial value out of the base's weights."""

_UNMERGED_SETTINGS = {
    "alora_invocation_tokens": "aLoRA, which counts from a token on", "arrow_config": "Arrow, a router of adapters",
    "use_qalora": "QALoRA, which pools its inputs", "use_bdlora": "BD-LoRA", "monteclora_config": "MonteCLoRA",
    "kasa_config": "KaSA", "velora_config": "VeLoRA", "layer_replication": "layer_replication, which repeats layers",
    "target_parameters": "target_parameters, which stacks those of experts", "megatron_config": "Megatron's layers",
}  # fmt: skip
"""Settings of LoRA with which it adds more than its product, or something else."""

DEFAULT_ALPHA = 8.0
"""PEFT's default, for the types that multiply factors. PEFT always saves alpha."""

_WITH_RANK = ("LORA", "LOHA", "LOKR")
_SCALED = (*_WITH_RANK, "ADALORA")


@dataclass(frozen=True, slots=True)
class Config:
    """An adapter's configuration; with its default values, none.

    peft:           the type, as PEFT spells it; "" where only the names show what the adapter is.
    rank, alpha:    for modules that no pattern matches; ranks, alphas: for those that one matches.
    scaled_by_root: the scale is alpha / √rank (rsLoRA).
    fan_in_fan_out: the base's weights are inputs × outputs.
    base, bias:     the base's name; which biases are trained.
    init:           how the factors were initialized, where that is a word.
    saved, targets: modules that are saved whole; modules that are changed.
    feedforward:    modules whose inputs IA3 scales.
    tokens:         as `_tokens` returns them.
    route:          the setting because of which the change is not the product alone; "" for none.
    mlx:            what mlx-lm trained; "" for others. factor: the scale that mlx-lm states.
    llama_cpp:      whether it is an adapter of llama.cpp.
    settings:       the whole configuration, for settings that few types have.
    """

    peft: str = ""
    rank: int | None = None
    alpha: float | None = None
    ranks: Patterns = field(default_factory=Patterns)
    alphas: Patterns = field(default_factory=Patterns)
    scaled_by_root: bool = False
    fan_in_fan_out: bool = False
    dora: bool = False
    base: str = ""
    bias: str = "none"
    init: str = ""
    saved: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    feedforward: tuple[str, ...] = ()
    tokens: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    route: str = ""
    mlx: str = ""
    llama_cpp: bool = False
    factor: float | None = None
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_given(self) -> bool:
        """Whether there is a configuration that says what the adapter is."""
        return bool(self.peft or self.mlx or self.llama_cpp)

    @classmethod
    def of(cls, settings: Mapping[str, object]) -> Config:
        """The configuration in a JSON object. Raises CorruptFileError where a value has a wrong type."""
        if mlx.is_config(settings):
            kind = mlx.kind(settings)
            return cls(mlx=kind, factor=mlx.scale(settings), dora=kind == "dora", base=_text(settings, "model"))
        peft = _text(settings, "peft_type").upper()
        return cls(
            peft=peft,
            rank=_count(settings, "r"),
            alpha=_alpha(settings, peft),
            ranks=_patterns(settings, "rank_pattern"),
            alphas=_patterns(settings, "alpha_pattern"),
            scaled_by_root=settings.get("use_rslora") is True,
            fan_in_fan_out=settings.get("fan_in_fan_out") is True,
            dora=settings.get("use_dora") is True,
            base=_text(settings, "base_model_name_or_path"),
            bias=_text(settings, "bias") or "none",
            init=_text(settings, "init_lora_weights"),
            saved=_words(settings, "modules_to_save"),
            targets=_words(settings, "target_modules"),
            feedforward=_words(settings, "feedforward_modules"),
            tokens=_tokens(settings),
            route=next((text for key, text in _UNMERGED_SETTINGS.items() if settings.get(key)), ""),
            settings=settings,
        )

    def flag(self, key: str, *, otherwise: bool = False) -> bool:
        """A setting that is on or off."""
        value = self.settings.get(key)
        return value if isinstance(value, bool) else otherwise

    def count(self, key: str, otherwise: int) -> int:
        """A setting that is an integer. Raises CorruptFileError."""
        found = _count(self.settings, key)
        return otherwise if found is None else found

    def real(self, key: str, otherwise: float) -> float:
        """A setting that is a number. Raises CorruptFileError."""
        return _number(self.settings, key) if key in self.settings else otherwise

    def word(self, key: str, otherwise: str) -> str:
        """A setting that is a word."""
        return _text(self.settings, key) or otherwise

    def version(self, key: str) -> tuple[int, int]:
        """The first two numbers of a version; (0, 0) if the setting is missing."""
        found = re.match(r"(\d{1,6})\.(\d{1,6})", _text(self.settings, key))
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def scale(self, module: str, rank: int) -> float:
        """What the product of a module's factors is multiplied by, by this configuration."""
        if self.factor is not None:
            return self.factor
        alpha = self.alphas.number(module, self.alpha)
        if alpha is None:
            return 1.0
        configured = self._rank(module)
        if rank and configured not in (None, rank) and self.peft in _WITH_RANK:
            raise CorruptFileError(
                f"the configuration says {configured} for the rank of {module!r}, and its factors have {rank}",
                hint="peft loads no such adapter: what it is scaled by is not known",
            )
        rank = rank or configured or 1
        return alpha / (sqrt(rank) if self.scaled_by_root else rank)

    def _rank(self, module: str) -> int | None:
        """A module's rank by the configuration; a LoKr whose matrices are not factored needs it."""
        found = self.ranks.number(module, self.rank)
        if found is None:
            return None
        if found < 1 or found != int(found):
            raise CorruptFileError(f"the configuration says {found:g} for the rank of {module!r}")
        return int(found)

    def check(self) -> None:
        """Raise UnsupportedError, naming it, for a type or setting that is not merged."""
        if self.peft in REFUSED:
            raise UnsupportedError(
                f"adapters of PEFT's type {self.peft} are not merged: they {REFUSED[self.peft]}",
                hint="peft runs it beside the base",
            )
        if self.peft and self.peft not in MERGED:
            raise UnsupportedError(f"adapters of PEFT's type {self.peft[:80]!r} are not known", hint=LISTED)
        if self.init.startswith(REPLACES_BASE):
            raise UnsupportedError(
                f"the adapter was initialized by {self.init!r}, which takes its beginning out of the base's weights",
                hint="peft's save_pretrained(…, path_initial_model_for_weight_conversion=…) makes a plain LoRA of it",
            )
        if self.route:
            raise UnsupportedError(f"the adapter is of {self.route}: that is not merged", hint="peft runs it as it is")

    def feeds_forward(self, module: str) -> bool:
        """Whether IA3 scales a module's inputs instead of its outputs."""
        return any(module == word or module.endswith(f".{word}") for word in self.feedforward)


def _text(settings: Mapping[str, object], key: str) -> str:
    value = settings.get(key)
    return value if isinstance(value, str) else ""


def _alpha(settings: Mapping[str, object], peft: str) -> float | None:
    key = "lora_alpha" if "lora_alpha" in settings else "alpha"
    if key not in settings:
        return DEFAULT_ALPHA if peft in _SCALED else None
    return _number(settings, key)


def _number(settings: Mapping[str, object], key: str) -> float:
    number = finite(settings[key])
    if number is None:
        raise CorruptFileError(f"the configuration's {key} is not a number that is finite")
    return number


def _count(settings: Mapping[str, object], key: str) -> int | None:
    value = settings.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise CorruptFileError(f"the configuration says {value!r} for {key}, which is not a count")
    return value


def _patterns(settings: Mapping[str, object], key: str) -> Patterns:
    value = settings.get(key) or {}
    if not isinstance(value, dict):
        raise CorruptFileError(f"the configuration says {value!r} for {key}, which is not a mapping")
    return Patterns(value)


def _words(settings: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = settings.get(key) or ()
    if isinstance(value, str):
        return (value,)
    return tuple(word for word in value if isinstance(word, str)) if isinstance(value, list) else ()


def _tokens(settings: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    """The rows of an embedding that were trained, by the module's name; "" for the only embedding."""
    value = settings.get("trainable_token_indices") or settings.get("token_indices")
    if isinstance(value, list):
        value = {"": value}
    by_module = value if isinstance(value, dict) else {}
    for rows in by_module.values():
        if not isinstance(rows, list) or not all(type(row) is int and row >= 0 for row in rows):
            raise CorruptFileError("the configuration's token indices are not a list of numbers")
    return {str(name): tuple(rows) for name, rows in by_module.items()}
