"""Rotary embeddings of a config.json, from a GGUF's entries and its tensors of factors: `hub.rope`, the other way.

What has no place in a config.json is refused.

rope.scaling.type                    linear, yarn
rope_freqs.weight                    llama3: what each frequency is divided by, which its four numbers must give
rope_factors_long.weight, …_short    longrope: the factors as they are
"""

from __future__ import annotations

import math
from struct import unpack
from typing import TYPE_CHECKING, Any

from ckptconv.core.dtypes import DType
from ckptconv.errors import UnsupportedError
from ckptconv.formats.gguf.hub.rope import MAX_HEAD_WIDTH, default_attention_factor, llama3_divisors
from ckptconv.formats.gguf.to_hub.said import WEIGHTS_ALONE, bad, shortest, single

if TYPE_CHECKING:
    from ckptconv.formats.gguf.to_hub.said import Said

FREQS, LONG, SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
_YARN = {
    "beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow", "attention_factor": "yarn_attn_factor",
    "extrapolation_factor": "yarn_ext_factor",
}  # fmt: skip
_ORIGINAL = 8192
"""Llama 3's and 4's context length in training. A file does not say it: only its ratios to the other numbers matter."""
_USUAL = ((1.0, 4.0), (1.0, 1.0))
"""Llama 3's and Llama 4's low_freq_factor and high_freq_factor."""
_CLOSE = 1e-5


def rope_scaling(said: Said) -> dict[str, Any]:
    """How positions are scaled, as ``rope_scaling``; empty if they are not.

    Raises CorruptFileError, UnsupportedError.
    """
    kind = said.get("rope.scaling.type")
    if LONG in said.tensors or SHORT in said.tensors:
        return _longrope(said)
    if FREQS in said.tensors:
        return _llama3(said)
    if kind == "linear":
        return {"rope_type": "linear", "factor": said.number("rope.scaling.factor")}
    if kind == "yarn":
        found: dict[str, Any] = {
            "rope_type": "yarn",
            "factor": said.number("rope.scaling.factor"),
            "original_max_position_embeddings": said.positive("rope.scaling.original_context_length"),
        }
        more = {key: said.get(f"rope.scaling.{name}") for key, name in _YARN.items()}
        return found | {key: value for key, value in more.items() if value is not None}
    if kind not in (None, "none", "longrope"):
        raise UnsupportedError(
            f"{said.key('rope.scaling.type')} is {str(kind)[:40]!r}, which transformers does not have",
            hint=WEIGHTS_ALONE,
        )
    return {}


def _longrope(said: Said) -> dict[str, Any]:
    """Factors as they are. transformers 4 takes these three keys alone, so that it computes a usual factor itself."""
    found: dict[str, Any] = {"type": "longrope"}
    found |= {
        f"{which}_factor": [*map(shortest, _values(said, name))] for which, name in (("long", LONG), ("short", SHORT))
    }
    longest = said.positive("context_length")
    usual = default_attention_factor(longest, said.positive("rope.scaling.original_context_length", longest))
    factor = said.number("rope.scaling.attn_factor", usual)
    return found if single(factor) == single(usual) else {**found, "attention_factor": factor}


def _values(said: Said, name: str) -> tuple[float, ...]:
    """The values of a tensor of factors. Raises CorruptFileError."""
    tensor = said.tensors.get(name)
    if tensor is None or tensor.info.dtype is not DType.F32 or len(tensor.info.shape) != 1:
        raise bad(f"there is no {name} of one dimension in F32")
    (count,) = tensor.info.shape
    if not 0 < count <= MAX_HEAD_WIDTH:
        raise bad(f"{name} has {count:,} values")
    values = unpack(f"<{count}f", tensor.read())
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise bad(f"{name} has values that are no factors")
    return values


def _llama3(said: Said) -> dict[str, Any]:
    """The four numbers of which these divisors are made: Llama 3's own if they fit, else numbers that fit as well.

    Raises UnsupportedError if there are none.
    """
    divisors = _values(said, FREQS)
    if all(value == 1 for value in divisors):
        return {}
    base = said.number("rope.freq_base", 10000.0)
    if base <= 0:
        raise bad(f"{said.key('rope.freq_base')} is {base}, and makes no frequencies")
    factor = shortest(max(divisors))
    for low, high, original in (*((*pair, _ORIGINAL) for pair in _USUAL), *_solutions(divisors, base, factor)):
        found = {
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
            "original_max_position_embeddings": original,
        }  # fmt: skip
        if _fits(llama3_divisors({**found, "rope_theta": base}, 2 * len(divisors)), divisors):
            return found
    raise UnsupportedError(
        f"{FREQS} has factors that are not Llama 3's: transformers has no place for them", hint=WEIGHTS_ALONE
    )


def _fits(found: list[float], wanted: tuple[float, ...]) -> bool:
    return all(math.isclose(single(one), other, rel_tol=_CLOSE) for one, other in zip(found, wanted, strict=True))


def _solutions(divisors: tuple[float, ...], base: float, factor: float) -> list[tuple[float, float, int]]:
    """Numbers by which the divisors between 1 and `factor` lie on Llama 3's line, which is linear in the frequency."""
    width, inside = 2 * len(divisors), []
    for number, divisor in enumerate(divisors):
        if 1 < divisor < factor:
            frequency = base ** (-2 * number / width) / (2 * math.pi)
            inside.append((frequency, (1 / divisor - 1 / factor) / (1 - 1 / factor)))
    solutions = [(1.0, 4.0, 1 << power) for power in range(31)]
    if len(inside) > 1:
        (x0, y0), (x1, y1) = inside[0], inside[-1]
        slope = (y0 - y1) / (x0 - x1)
        offset = slope * x0 - y0
        if slope > 0 and offset > 0:
            high = 1 + 1 / offset  # low_freq_factor is 1
            solutions.append((1.0, float(f"{high:.5g}"), round(slope * (high - 1))))
    return [one for one in solutions if 0 < one[2] < 1 << 31]
