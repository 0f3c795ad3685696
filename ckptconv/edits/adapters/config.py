"""What an adapter's configuration says: PEFT's ``adapter_config.json``, or what diffusers puts into the metadata.

    {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "use_rslora": false, "fan_in_fan_out": false,
     "rank_pattern": {"q_proj": 4}, "alpha_pattern": {"layers.0.q_proj": 8}, "base_model_name_or_path": "…", …}

or mlx-lm's (`mlx`). Source: peft's tuners/lora/config.py.
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
"""Those that are not, and why."""

REPLACES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initializations that take from the base's weights what the adapter begins with."""

_ROUTES = {
    "alora_invocation_tokens": "aLoRA, which counts from a token on", "arrow_config": "Arrow, a router of adapters",
    "use_qalora": "QALoRA, which pools its inputs", "use_bdlora": "BD-LoRA", "monteclora_config": "MonteCLoRA",
    "kasa_config": "KaSA", "velora_config": "VeLoRA", "layer_replication": "layer_replication, which repeats layers",
    "target_parameters": "target_parameters, which stacks those of experts", "megatron_config": "Megatron's layers",
}  # fmt: skip
"""Settings of LoRA with which its product is not all that is added."""

DEFAULT_ALPHA = 8.0
"""PEFT's own, of the types that multiply factors; it saves it always."""

_OF_A_RANK = ("LORA", "LOHA", "LOKR")
_SCALED = (*_OF_A_RANK, "ADALORA")


@dataclass(frozen=True, slots=True)
class Config:
    """What is said; nothing where there is no configuration.

    peft:  the type, as PEFT spells it; "" where the names alone say what the adapter is.
    rank, alpha: of modules that no pattern is for; ranks, alphas: of those that one is for.
    scaled_by_root: the scale is alpha / √rank (rsLoRA).
    turned: the base's weights are inputs × outputs (fan_in_fan_out).
    base, bias, init: the base's name; whether biases are trained; how factors began, where that is a word.
    saved, targets: modules that are saved whole; that are changed.
    feedforward: modules of which IA3 scales the inputs. tokens: as `_tokens` has them.
    route: with what its product is not all that is added; "" for nothing.
    mlx:   what mlx-lm trained, "" where it was not mlx-lm; factor: the scale that it says.
    llama_cpp: whether it is llama.cpp's.
    said:  all of it, for what few types have.
    """

    peft: str = ""
    rank: int | None = None
    alpha: float | None = None
    ranks: Patterns = field(default_factory=Patterns)
    alphas: Patterns = field(default_factory=Patterns)
    scaled_by_root: bool = False
    turned: bool = False
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
    said: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_said(self) -> bool:
        """Whether there is a configuration that says what the adapter is."""
        return bool(self.peft or self.mlx or self.llama_cpp)

    @classmethod
    def of(cls, said: Mapping[str, object]) -> Config:
        """Of a JSON object. Raises CorruptFileError where a value is of another type."""
        if mlx.is_config(said):
            kind = mlx.kind(said)
            return cls(mlx=kind, factor=mlx.scale(said), dora=kind == "dora", base=_text(said, "model"))
        peft = _text(said, "peft_type").upper()
        return cls(
            peft=peft,
            rank=_count(said, "r"),
            alpha=_alpha(said, peft),
            ranks=_patterns(said, "rank_pattern"),
            alphas=_patterns(said, "alpha_pattern"),
            scaled_by_root=said.get("use_rslora") is True,
            turned=said.get("fan_in_fan_out") is True,
            dora=said.get("use_dora") is True,
            base=_text(said, "base_model_name_or_path"),
            bias=_text(said, "bias") or "none",
            init=_text(said, "init_lora_weights"),
            saved=_words(said, "modules_to_save"),
            targets=_words(said, "target_modules"),
            feedforward=_words(said, "feedforward_modules"),
            tokens=_tokens(said),
            route=next((text for key, text in _ROUTES.items() if said.get(key)), ""),
            said=said,
        )

    def flag(self, key: str, *, otherwise: bool = False) -> bool:
        """A setting that is on or off."""
        return said if isinstance(said := self.said.get(key), bool) else otherwise

    def count(self, key: str, otherwise: int) -> int:
        """A setting that is a whole number. Raises CorruptFileError."""
        found = _count(self.said, key)
        return otherwise if found is None else found

    def real(self, key: str, otherwise: float) -> float:
        """A setting that is a number. Raises CorruptFileError."""
        return _number(self.said, key) if key in self.said else otherwise

    def word(self, key: str, otherwise: str) -> str:
        """A setting that is a word."""
        return _text(self.said, key) or otherwise

    def version(self, key: str) -> tuple[int, int]:
        """The first two numbers of a version; (0, 0) where it is not said."""
        found = re.match(r"(\d{1,6})\.(\d{1,6})", _text(self.said, key))
        return (int(found[1]), int(found[2])) if found else (0, 0)

    def scale(self, module: str, rank: int) -> float:
        """By what the product of a module's factors is multiplied, where the configuration says it."""
        if self.factor is not None:
            return self.factor
        alpha = self.alphas.number(module, self.alpha)
        if alpha is None:
            return 1.0
        said = self._rank(module)
        if rank and said not in (None, rank) and self.peft in _OF_A_RANK:
            raise CorruptFileError(
                f"the configuration says {said} for the rank of {module!r}, and its factors have {rank}",
                hint="peft loads no such adapter: what it is scaled by is not known",
            )
        rank = rank or said or 1
        return alpha / (sqrt(rank) if self.scaled_by_root else rank)

    def _rank(self, module: str) -> int | None:
        """The rank that is said of a module, which a LoKr has that is whole."""
        found = self.ranks.number(module, self.rank)
        if found is None:
            return None
        if found < 1 or found != int(found):
            raise CorruptFileError(f"the configuration says {found:g} for the rank of {module!r}")
        return int(found)

    def check(self) -> None:
        """Raise UnsupportedError, with its name, for what is not merged."""
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
        """Whether IA3 scales the inputs of a module, and not its outputs."""
        return any(module == word or module.endswith(f".{word}") for word in self.feedforward)


def _text(said: Mapping[str, object], key: str) -> str:
    value = said.get(key)
    return value if isinstance(value, str) else ""


def _alpha(said: Mapping[str, object], peft: str) -> float | None:
    key = "lora_alpha" if "lora_alpha" in said else "alpha"
    if key not in said:
        return DEFAULT_ALPHA if peft in _SCALED else None
    return _number(said, key)


def _number(said: Mapping[str, object], key: str) -> float:
    number = finite(said[key])
    if number is None:
        raise CorruptFileError(f"the configuration's {key} is not a number that is finite")
    return number


def _count(said: Mapping[str, object], key: str) -> int | None:
    value = said.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise CorruptFileError(f"the configuration says {value!r} for {key}, which is not a count")
    return value


def _patterns(said: Mapping[str, object], key: str) -> Patterns:
    value = said.get(key) or {}
    if not isinstance(value, dict):
        raise CorruptFileError(f"the configuration says {value!r} for {key}, which is not a mapping")
    return Patterns(value)


def _words(said: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = said.get(key) or ()
    if isinstance(value, str):
        return (value,)
    return tuple(word for word in value if isinstance(word, str)) if isinstance(value, list) else ()


def _tokens(said: Mapping[str, object]) -> dict[str, tuple[int, ...]]:
    """The rows of an embedding that are trained, by the module's name; "" for the only one."""
    value = said.get("trainable_token_indices") or said.get("token_indices")
    found = value if isinstance(value, dict) else {"": value} if isinstance(value, list) else {}
    for numbers in found.values():
        if not isinstance(numbers, list) or not all(type(one) is int and one >= 0 for one in numbers):
            raise CorruptFileError("the configuration's token indices are not a list of numbers")
    return {str(name): tuple(numbers) for name, numbers in found.items()}
