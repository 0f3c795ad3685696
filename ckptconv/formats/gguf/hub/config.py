"""A config.json, each of whose values is checked when it is read.

The configuration of a language model may be nested in that of a larger model (``text_config``), and outranks the rest.
Rotary embeddings are stated in two ways: by keys of their own (``rope_theta``, ``rope_scaling``), or all in
``rope_parameters``, which may have a set of values for each kind of attention.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ckptconv.arch.statements import CONFIG
from ckptconv.edits.dialects.gguf_config import HEADS, LAYERS, text_config
from ckptconv.errors import UnsupportedError
from ckptconv.formats.gguf.hub.documents import bad
from ckptconv.formats.gguf.values import F32_LIMIT, RANGES

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTEXT = ("max_position_embeddings", "n_ctx", "n_positions", "seq_length", "max_sequence_length")
_THETA = ("rope_theta", "global_rope_theta", "rotary_emb_base")
_LOCAL = ("rope_local_base_freq", "local_rope_theta")
_PARTIAL = ("partial_rotary_factor", "rotary_pct", "rope_pct")
MAX_LAYERS = 100_000


_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "Gemma3ForConditionalGeneration": {
        "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 131_072, "rope_theta": 1e6, "rope_local_base_freq": 1e4,
        "sliding_window": 4096,
    },
}  # fmt: skip
"""The defaults of transformers' classes, which configurations leave out of a nested ``text_config``."""


def unsupported(arch: str, key: str, value: object, why: str, dialect: str = "to-gguf") -> UnsupportedError:
    """The error for a value of a configuration that llama.cpp does not implement; `why` says what it computes."""
    return UnsupportedError(
        f"--translate {dialect}: llama.cpp's {arch} has no {key} {str(value)[:60]!r}: {why}",
        hint="the file would load, and compute something else",
    )


class Config:
    """The values of a configuration. Methods take several keys; the first one whose value is not None counts.

    They raise CorruptFileError for a value of another type, and for a missing one without a default.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        values = text_config(document)  # type: ignore[arg-type]
        classes = values.get("architectures")
        name = classes[0] if isinstance(classes, list) and classes and isinstance(classes[0], str) else ""
        self.values: Mapping[Any, Any] = {**_DEFAULTS.get(name, {}), **values}

    def get(self, *keys: str) -> Any:
        """The value, unchecked; None if there is none."""
        return next((self.values[key] for key in keys if self.values.get(key) is not None), None)

    def has(self, *keys: str) -> bool:
        return self.get(*keys) is not None

    def integer(self, *keys: str, default: int | None = None) -> int:
        """A whole number that fits a uint32."""
        value = self.get(*keys)
        value = default if value is None else value
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int or value not in RANGES["uint32"]:
            raise self._wrong(keys, value, f"a whole number from 0 to {RANGES['uint32'][-1]}")
        return value

    def positive(self, *keys: str, default: int | None = None) -> int:
        value = self.integer(*keys, default=default)
        if not value:
            raise self._wrong(keys, value, "a whole number from 1 on")
        return value

    def number(self, *keys: str, default: float | None = None) -> float:
        """A finite number that fits a float32."""
        value = self.get(*keys)
        return number(default if value is None else value, f"{CONFIG}: {keys[0]}")

    @staticmethod
    def number_of(rope: Mapping[str, Any], key: str) -> float:
        """A finite number among the values that `rope` returned."""
        return number(rope.get(key), f"{CONFIG}: {key}")

    def flag(self, *keys: str, default: bool = False) -> bool:
        value = self.get(*keys)
        if value is not None and type(value) is not bool:
            raise self._wrong(keys, value, "true or false")
        return default if value is None else value

    def text(self, *keys: str, default: str = "") -> str:
        value = self.get(*keys)
        if value is not None and type(value) is not str:
            raise self._wrong(keys, value, "a text")
        return default if value is None else value

    def items(self, *keys: str) -> list[Any] | None:
        value = self.get(*keys)
        if value is not None and type(value) is not list:
            raise self._wrong(keys, value, "a list")
        return value

    @property
    def layers(self) -> int:
        count = self.positive(*LAYERS)
        if count > MAX_LAYERS:
            raise self._wrong(LAYERS, count, f"a number up to {MAX_LAYERS:,}")
        return count

    @property
    def width(self) -> int:
        return self.positive("hidden_size", "n_embd", "n_embed", "dim")

    @property
    def heads(self) -> int:
        return self.positive(*HEADS)

    @property
    def context(self) -> int:
        """The longest context, in tokens."""
        return self.positive(*CONTEXT)

    @property
    def head_width(self) -> int:
        """The width of one head of q and k."""
        return self.positive("head_dim", default=max(1, self.width // self.heads))

    def rope(self, kind: str = "full_attention") -> dict[str, Any]:
        """The values for the rotary embeddings of one kind of attention; ``rope_type`` is "default" if not stated."""
        stated = self.get("rope_parameters", "rope_scaling") or {}
        if not isinstance(stated, dict):
            raise self._wrong(("rope_parameters",), stated, "an object")
        if isinstance(stated.get("full_attention"), dict) or isinstance(stated.get("sliding_attention"), dict):
            stated = stated.get(kind)
        elif kind != "full_attention":
            stated = None
        if stated is not None and not isinstance(stated, dict):
            raise self._wrong((f"rope_parameters of {kind}",), stated, "an object")
        rope = {key: value for key, value in (stated or {}).items() if value is not None}
        theta = self.get(*_THETA) if kind == "full_attention" else self.get(*_LOCAL)
        if theta is not None:
            rope.setdefault("rope_theta", theta)
        rope.setdefault("rope_type", rope.get("type", "default"))
        return rope

    def partial_rotary(self, default: float) -> float:
        """The fraction of a head's dimensions that have rotary embeddings."""
        value = self.rope().get("partial_rotary_factor", self.get(*_PARTIAL))
        fraction = number(default if value is None else value, f"{CONFIG}: {_PARTIAL[0]}")
        if not 0 < fraction <= 1:
            raise self._wrong(_PARTIAL, fraction, "a number from 0 to 1")
        return fraction

    @staticmethod
    def _wrong(keys: tuple[str, ...], value: object, wanted: str) -> Exception:
        if value is None:
            return bad(f"{CONFIG} says no {keys[0]}")
        return bad(f"{CONFIG}: {keys[0]} is {str(value)[:80]!r}, and not {wanted}")


def number(value: object, what: str) -> float:
    """A number from JSON as a float that fits a float32. Raises CorruptFileError, which names `what` it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise bad(f"{what} is {str(value)[:80]!r}, and no number")
    result = float(value) if abs(value) < F32_LIMIT else math.inf
    if not math.isfinite(result):
        raise bad(f"{what} is out of range")
    return result
