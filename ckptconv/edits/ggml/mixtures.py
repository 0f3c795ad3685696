"""Which type each tensor of a GGUF gets in llama.cpp's mixtures, as `llama-quantize model.gguf Q4_K_M` does it.

A mixture has one type for most matrices, and better ones for those that suffer most: the output, the values and outputs
of attention, and the last matrix of a feed-forward layer, in the first and last eighth of the layers and every third
layer between. That depends on llama.cpp's names of tensors, counted in its order (those outside of blocks first, then
block by block, each by name), and on a few numbers of the model. Rows that are not a whole number of blocks get a type
with smaller blocks.

Not included: mixtures of types that cannot be quantized to here (IQ1 to IQ3), and Q2_K_S, for which llama-quantize
              needs an importance matrix.

Source: llama.cpp's src/llama-quant.cpp (`tensor_allows_quantization`, `llama_tensor_get_type_impl`,
`tensor_type_fallback`, `init_quantize_state_counters`), src/llama-model-loader.h (`weight_name_comparer`), and for the
models that count as 70B the `load_arch_hparams` of src/models.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.dtypes import BLOCKS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ckptconv.core.tensor import TensorInfo


@dataclass(frozen=True, slots=True)
class Mixture:
    """The type of most matrices, and the mixture's number in ``general.file_type``."""

    name: str
    most: str
    number: int


@dataclass(frozen=True, slots=True)
class Model:
    """What a mixture depends on.

    layers:  the number of blocks, as in ``block_count``.
    experts: of the feed-forward layers; 0 if there are none.
    group:   how many heads share one of the keys and values, in the first block.
    """

    arch: str
    layers: int
    experts: int = 0
    group: int = 1

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp takes it for a model of 70 billion, which has few attention values."""
        return self.layers == 80 and (self.arch in _70B or (self.arch in _70B_GROUPED and self.group > 1))


MIXTURES = {
    mixture.name: mixture
    for mixture in (
        Mixture("Q3_K_S", "Q3_K", 11), Mixture("Q3_K_M", "Q3_K", 12), Mixture("Q3_K_L", "Q3_K", 13),
        Mixture("Q4_K_S", "Q4_K", 14), Mixture("Q4_K_M", "Q4_K", 15),
        Mixture("Q5_K_S", "Q5_K", 16), Mixture("Q5_K_M", "Q5_K", 17), Mixture("MXFP4_MOE", "MXFP4", 38),
        *(
            Mixture(f"MOSTLY_{name}", name, number)
            for name, number in {
                "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q6_K": 18,
                "IQ4_NL": 25, "IQ4_XS": 30, "TQ1_0": 36, "TQ2_0": 37,
            }.items()
        ),
    )
}  # fmt: skip
"""By the name that users type. If that is also the name of a type, which means the type for all matrices, the mixture's
name starts as in ``llama_ftype``.
"""

_70B = ("deci", "olmo", "qwen2")
_70B_GROUPED = ("llama", "llama-embed")
_SMALLER = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "TQ1_0": "Q4_0", "TQ2_0": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0",
    "IQ4_XS": "IQ4_NL",
}  # fmt: skip
"""The type with blocks of 32, for rows that are not a multiple of 256."""

_KEPT = re.compile(
    r".*_norm\.weight.*|.*ffn_gate_inp.*|.*ffn_gate_tid2eid\.weight.*|.*altup.*|.*laurel.*|.*per_layer_model_proj.*"
    r"|.*ssm_conv1d.*|.*shortconv\.conv\.weight.*|.*attn_rel_b\.weight.*|.*indexer\.[kq]_proj\.weight.*"
    r"|(.*\.)?position_embd\.weight|token_types\.weight|.*\.(position_embd|rel_pos|patch_embd|patch_merger).*"
    r"|.*sam\.(pos_embd|neck\.|net_).*|.*(a\.rvq\.codebook|mm\.a\.code_embd).*"
    r"|.*time_mix_(first|[wva][012]|g[12]|decay_w[12]|lerp_fused)\.weight.*"
    r"|(\w+\.)?blk\.\d+\.(?!.*weight(?:\.lora_[ab])?$).*"
)
_EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
_OUTPUT = "output.weight"
_VALUES = ("attn_qkv.weight", "attn_kv_b.weight", "attn_v.weight")
_FALCON = "falcon"
_UNEVEN = ("IQ4_NL", "IQ4_XS")


def is_kept_float(name: str) -> bool:
    """Whether llama.cpp keeps a tensor of this name as floats, in every mixture."""
    return _KEPT.fullmatch(name) is not None


def types_in(mixture: Mixture, model: Model, tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """The type of every tensor that gets one: a block type, or F16 if rows are blocks of none."""
    choice = _Choice(mixture, model, tensors)
    return dict(choice.types())


def unfit_for_blocks(info: TensorInfo, kind: str) -> bool:
    """Whether rows are not a whole number of a type's blocks."""
    return info.shape[-1] % BLOCKS[kind].block != 0


class _Choice:
    """Chooses types, counting tensors as llama.cpp does."""

    def __init__(self, mixture: Mixture, model: Model, tensors: Mapping[str, TensorInfo]) -> None:
        self.mixture, self.model, self.tensors = mixture, model, tensors
        self.tied = _OUTPUT not in tensors
        self.all_values = sum(_has(name, _VALUES) for name in tensors)
        self.values = 0
        self.downs = 0

    def types(self) -> Iterator[tuple[str, str]]:
        for name in sorted(self.tensors, key=_place):
            info = self.tensors[name]
            if _rank(info) < 2 or not info.numel or not name.endswith("weight") or is_kept_float(name):
                continue
            yield name, self.fitting(self.wanted(name), info)

    def fitting(self, kind: str, info: TensorInfo) -> str:
        if unfit_for_blocks(info, kind):
            kind = _SMALLER.get(kind, kind)
        return "F16" if unfit_for_blocks(info, kind) else kind

    def wanted(self, name: str) -> str:
        most, kind = self.mixture.most, self.mixture.name
        if name == _OUTPUT or (self.tied and name in _EMBEDDINGS):
            return self.output(self.tensors[name])
        if kind == "MXFP4_MOE":
            info = self.tensors[name]
            return most if len(info.shape) > 2 and info.shape[-3] > 1 else "Q8_0"
        if name in _EMBEDDINGS:
            return "Q4_K" if most in ("TQ1_0", "TQ2_0") else most
        if _has(name, _VALUES):
            return self.value()
        if "attn_k.weight" in name:
            return "Q8_0" if self.model.experts == 8 else most
        if "ffn_down" in name:
            return self.down(name)
        if "attn_output.weight" in name:
            return self.attention_output()
        return most

    def output(self, info: TensorInfo) -> str:
        most = self.mixture.most
        if most == "MXFP4" or self.model.arch == _FALCON or unfit_for_blocks(info, most):
            return "Q8_0"
        return most if most == "Q8_0" else "Q6_K"

    def value(self) -> str:
        kind, most, at = self.mixture.name, self.mixture.most, self.values
        self.values += 1
        if self.model.experts == 8:
            return "Q8_0"
        if kind == "MOSTLY_Q2_K":
            most = "Q4_K" if self.model.group >= 4 else "Q3_K"
        elif kind == "Q3_K_M":
            most = "Q5_K" if at < 2 else "Q4_K"
        elif kind == "Q3_K_L" or (kind == "Q4_K_S" and at < 4):
            most = "Q5_K"
        elif kind in ("Q4_K_M", "Q5_K_M") and _gets_more(at, self.all_values):
            most = "Q6_K"
        elif most in _UNEVEN and self.model.group >= 4:
            most = "Q5_K"
        return "Q5_K" if self.model.is_70b and most in ("Q3_K", "Q4_K") else most

    def down(self, name: str) -> str:
        kind, most, layers = self.mixture.name, self.mixture.most, self.model.layers
        falcon = self.model.arch == _FALCON
        layer = _layer(name) if self.model.experts > 1 else self.downs
        self.downs += 1
        more = _gets_more(layer, layers)
        if kind == "MOSTLY_Q2_K":
            return "Q3_K"
        if kind == "Q3_K_M":
            return "Q5_K" if layer < layers // 16 else "Q4_K" if more or not falcon else "Q3_K"
        if kind == "Q3_K_L":
            return "Q4_K" if falcon else "Q5_K"
        if most in _UNEVEN:
            return "Q5_K" if layer < layers // 8 else most
        if kind == "Q4_K_S":
            return "Q5_K" if layer < layers // 8 and not falcon else most
        if kind == "Q4_K_M" and falcon:
            return "Q6_K" if layer < layers // 16 else "Q5_K" if more else "Q4_K"
        return "Q6_K" if kind in ("Q4_K_M", "Q5_K_M") and more else most

    def attention_output(self) -> str:
        kind, most = self.mixture.name, self.mixture.most
        if self.model.arch == _FALCON:
            return "Q4_K" if kind == "Q3_K_L" else most
        if self.model.experts == 8:
            few = most in _UNEVEN or kind in ("MOSTLY_Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M")
            return "Q5_K" if few else most
        return {"MOSTLY_Q2_K": "Q3_K", "Q3_K_M": "Q4_K", "Q3_K_L": "Q5_K"}.get(kind, most)


def _gets_more(at: int, count: int) -> bool:
    """Whether a layer is in the first eighth, the last eighth, or every third between."""
    return at < count // 8 or at >= 7 * count // 8 or (at - count // 8) % 3 == 2


def _has(name: str, parts: tuple[str, ...]) -> bool:
    return any(part in name for part in parts)


def _layer(name: str) -> int:
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1


def _place(name: str) -> tuple[int, bytes]:
    return _layer(name), name.encode("utf-8", "surrogatepass")


def _rank(info: TensorInfo) -> int:
    """The number of dimensions as ggml counts them, without leading ones."""
    front = next((at for at, size in enumerate(info.shape) if size > 1), len(info.shape))
    return max(len(info.shape) - front, 1)
