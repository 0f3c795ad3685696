"""Rotary embeddings: their base, and how they are scaled for longer texts. Metadata entries, and tensors of factors.

    linear      type, factor                            all positions are divided by the factor
    yarn        type, factor, original_context_length   and optional parameters
    llama3      rope_freqs.weight, F32                  divisors of the frequencies, computed as below
    longrope    rope_factors_long.weight, …_short       Phi-3's factors, as the configuration lists them

Llama 3 divides a frequency by `factor` if its wavelength is longer than `original / low_freq_factor` positions, by 1 if
it is shorter than `original / high_freq_factor`, and interpolates in between (for Llama 4 both limits are equal). This
is computed as in transformers (modeling_rope_utils.py), in single precision as in llama.cpp's converter.
"""

from __future__ import annotations

import math
from struct import pack
from typing import TYPE_CHECKING, Any

from ckptconv.arch.statements import CONFIG
from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding
from ckptconv.core.tensor import LazyTensor, TensorInfo, in_memory
from ckptconv.errors import UnsupportedError
from ckptconv.formats.gguf.hub.config import number
from ckptconv.formats.gguf.hub.documents import bad

if TYPE_CHECKING:
    from ckptconv.formats.gguf.hub.config import Config
    from ckptconv.formats.gguf.values import Typed

_LONG = ("longrope", "su")
_YARN = {
    "extrapolation_factor": "yarn_ext_factor", "attention_factor": "yarn_attn_factor", "beta_fast": "yarn_beta_fast",
    "beta_slow": "yarn_beta_slow",
}  # fmt: skip
_NO_ENTRIES = ("default", "llama3", "mrope")
"""Types that need no entries for scaling."""
MAX_HEAD_WIDTH = 1 << 16


def rope_entries(arch: str, config: Config, findings: list[Finding]) -> dict[str, Typed]:
    """The metadata entries. Raises CorruptFileError, and UnsupportedError for a type that llama.cpp does not have."""
    rope = config.rope()
    entries: dict[str, Typed] = {}
    if "rope_theta" in rope:
        entries["rope.freq_base"] = ("float32", number(rope["rope_theta"], f"{CONFIG}: rope_theta"))
    local = config.rope("sliding_attention")
    if "rope_theta" in local:
        entries["rope.freq_base_swa"] = ("float32", number(local["rope_theta"], f"{CONFIG}: rope_local_base_freq"))
    kind = rope["rope_type"]
    if kind in ("linear", "yarn"):
        entries["rope.scaling.type"] = ("string", str(kind))
        entries["rope.scaling.factor"] = ("float32", _positive(rope, "factor"))
    if kind == "yarn":
        original = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
        entries["rope.scaling.original_context_length"] = ("uint32", _context_length(original))
        if rope.get("truncate") is False:
            message = (
                "llama.cpp rounds the dimensions at which yarn begins and ends, which the configuration says not to"
            )
            findings.append(Finding("rope", "warning", CONFIG, message))
        names = ((key, new) for key, new in _YARN.items() if key in rope)
        entries |= {f"rope.scaling.{new}": ("float32", number(rope[key], f"rope {key}")) for key, new in names}
    elif kind in _LONG and arch == "phi3":
        entries["rope.scaling.attn_factor"] = ("float32", _attention_factor(config))
    elif kind == "dynamic":
        message = "rope_scaling is dynamic, which llama.cpp does not have: longer texts come out otherwise"
        findings.append(Finding("rope", "warning", CONFIG, message))
    elif kind not in ("linear", *_NO_ENTRIES):
        raise UnsupportedError(
            f"--translate to-gguf: llama.cpp's {arch} has no rope_type {str(kind)[:40]!r}",
            hint="the file would load, and compute something else",
        )
    return entries


def rope_tensors(arch: str, config: Config) -> dict[str, LazyTensor]:
    """The tensors of factors, which transformers' files don't have. Raises CorruptFileError."""
    rope = config.rope()
    if rope["rope_type"] == "llama3":
        return {"rope_freqs.weight": _vector(llama3_divisors(rope, config.head_width))}
    if rope["rope_type"] in _LONG and arch == "phi3":
        half = int(config.partial_rotary(1.0) * config.head_width) // 2
        factors = {which: _listed_factors(rope, which, half) for which in ("long", "short")}
        return {f"rope_factors_{which}.weight": _vector(values) for which, values in factors.items()}
    return {}


def llama3_divisors(rope: dict[str, Any], width: int) -> list[float]:
    """What each frequency is divided by."""
    import numpy as np

    if width > MAX_HEAD_WIDTH:
        raise bad(f"{CONFIG}: head_dim is {width:,}")
    base = number(rope.get("rope_theta", 10000.0), f"{CONFIG}: rope_theta")
    factor, low, high = (_positive(rope, key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = _context_length(rope.get("original_max_position_embeddings"))
    if base <= 0:
        raise bad(f"{CONFIG}: rope_scaling says no frequencies")
    single = np.float32
    with np.errstate(all="ignore"):
        frequencies = single(1) / np.power(single(base), np.arange(0, width, 2, dtype=single) / single(width))
        waves = single(2 * math.pi) / frequencies
        smooth = (single(original) / waves - single(low)) / single(high - low)
        between = single(1) / ((single(1) - smooth) / single(factor) + smooth)
        found = np.where(waves > original / low, single(factor), np.where(waves < original / high, single(1), between))
    return [number(value, "a rotary factor") for value in found.tolist()]


def _attention_factor(config: Config) -> float:
    """The factor for attention scores; by default computed from how much longer texts may be than in training."""
    rope = config.rope()
    if "attention_factor" in rope:
        return number(rope["attention_factor"], "rope attention_factor")
    longest = config.positive("max_position_embeddings")
    stated = rope.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return default_attention_factor(longest, _context_length(stated))


def default_attention_factor(longest: int, original: int) -> float:
    """The factor for texts of up to `longest` tokens, where a model was trained on those of `original`."""
    scale = longest / original
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 and original > 1 else 1.0


def _listed_factors(rope: dict[str, Any], which: str, count: int) -> list[float]:
    factors = rope.get(f"{which}_factor")
    if not isinstance(factors, list) or len(factors) != count:
        raise bad(f"{CONFIG}: rope_scaling has no {count} numbers as {which}_factor")
    return [number(factor, f"rope {which}_factor") for factor in factors]


def _vector(values: list[float]) -> LazyTensor:
    return in_memory(TensorInfo.of(DType.F32, (len(values),)), pack(f"<{len(values)}f", *values))


def _positive(rope: dict[str, Any], key: str) -> float:
    value = number(rope.get(key), f"{CONFIG}: {key} of rope_scaling")
    if value <= 0:
        raise bad(f"{CONFIG}: {key} of rope_scaling is {value}")
    return value


def _context_length(value: object) -> int:
    if type(value) is not int or not 0 < value < 1 << 32:
        raise bad(f"{CONFIG}: original_max_position_embeddings is {str(value)[:40]!r}, and no length")
    return value
