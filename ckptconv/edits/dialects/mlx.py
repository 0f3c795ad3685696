"""mlx-lm's names and layouts, translated to those of transformers' classes. For most models they are the same. For
others mlx-lm

    stacks experts                P.switch_mlp.gate_proj [E, R, C]   from P.experts.0.gate_proj, or from w1, or from
                                                                     what transformers has stacked too, gate and up
                                                                     as one
    transposes convolutions       conv1d.weight [C, K, 1]            from [C, 1, K]
    takes kv_b_proj apart         embed_q [H, L, N], unembed_out     from [H · (N + V), L]: a head's N rows for the
                                                                     keys, transposed, and its V rows for the values
    adds 1 to norms               of Qwen3-Next and Qwen3.5, to which transformers adds it while it computes
    transposes linear layers      of GPT-2

A table, by the configuration's model_type, says which of these were done. A model that is not in the table is refused
if its names or shapes show that something was done. Also refused are models into whose weights mlx-lm folds factors,
which cannot be undone, and towers for pictures as mlx-vlm has them, [outputs, height, width, 3]. The 1 is subtracted
exactly: what was lost to rounding when it was added stays lost. Parts that mlx-lm leaves out (pictures, further tokens)
are not restored.

Source: mlx-lm 0.32, mlx_lm/models (`sanitize` of each).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ckptconv.core.dtypes import DType
from ckptconv.edits.dialects.change import Change, Join, check_parts
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import TensorInfo

    Tensors = Mapping[str, TensorInfo]

How = Literal["each", "w", "linear", "fused", "turned", "interleaved"]
"""How transformers has experts: one tensor for each, under their names ("each") or as w1, w2, w3 ("w"); stacked as
input_linear and output_linear ("linear"), or as gate_up_proj and down_proj, as they are ("fused"), transposed
("turned"), or with the rows of gate and up alternating ("interleaved").
"""

_NORMS = ("input_layernorm.weight", "post_attention_layernorm.weight", "model.norm.weight", "q_norm.weight",
          "k_norm.weight")  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Model:
    """What was done to a model.

    experts:  how transformers has them. where: what mlx-lm calls the stack.
    plus_one: the norms to which 1 was added.
    dense:    layers without experts are named differently too.
    language: it is the language model of one for pictures.
    """

    experts: How = "each"
    where: str = "switch_mlp"
    plus_one: tuple[str, ...] = ()
    dense: bool = False
    language: bool = False


_PLAIN = _Model()
_WORDS = _Model("w")
_LINEAR = _Model("linear", dense=True)

MODELS: Mapping[str, _Model] = {
    **dict.fromkeys(
        ("deepseek", "deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2", "glm4_moe", "glm4_moe_lite", "jamba",
         "olmoe", "qwen2_moe", "qwen3_moe", "ernie4_5_moe", "mamba", "mamba2", "falcon_mamba", "lfm2",
         "nemotron_h", "recurrent_gemma"), _PLAIN,
    ),
    **dict.fromkeys(("mixtral", "phimoe", "minimax", "minimax_m2"), _WORDS),
    **dict.fromkeys(("granitemoe", "granitemoehybrid"), _LINEAR),
    **dict.fromkeys(("afmoe", "dots1"), _Model(where="experts")),
    "lfm2_moe": _Model("w", dense=True),
    "qwen3_next": _Model(plus_one=_NORMS),
    "qwen3_5": _Model(plus_one=_NORMS, language=True),
    "qwen3_5_moe": _Model("fused", plus_one=_NORMS, language=True),
    "qwen3_vl_moe": _Model("turned", language=True),
    "gpt_oss": _Model("interleaved", "experts"),
    "gpt2": _PLAIN,
}  # fmt: skip
"""By model_type."""

_FOLDED = {
    "falcon_h1": "its multipliers are in its weights", "baichuan_m1": "its output layer is normed",
    **dict.fromkeys(("bailing_moe", "bailing_moe_linear"), "its output layer may be normed"),
    "step3p5": "its norms have 1 added to them",
}  # fmt: skip
"""What was done to models that are not in the table, although their names may look like transformers'."""

_PARTS = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}
_UP = ("gate_proj", "up_proj")
_OWN = {"fc1": "up_proj", "fc2": "down_proj"}
_STACK = re.compile(r"(.+)\.(switch_mlp|experts)\.(gate_proj|up_proj|down_proj|fc1|fc2)\.(weight|bias)")
_DENSE = re.compile(r"(.+)\.(mlp|feed_forward)\.(gate_proj|up_proj|down_proj)\.weight")
_LATENT = re.compile(r"(.+)\.(embed_q|unembed_out)\.weight")
_CONVOLVED = ("conv1d.weight", "conv_1d.weight", ".conv.weight")
_GPT2 = re.compile(r"model\.(h\.[0-9]{1,9}\.(?:attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight|.+)")
_HINT = "--rules FILE renames and turns any"


def changes(tensors: Tensors, metadata: Mapping[object, object]) -> dict[str, Change]:
    """The change of each tensor.

    Raises EditError if the model is not named, if a part is missing, or if weights are still quantized;
    UnsupportedError for a model that is not in the table; LimitError for more experts than models have.
    """
    kind = metadata.get("model_type")
    if isinstance(kind, str) and kind in _FOLDED:
        raise UnsupportedError(f"--translate mlx does not undo {kind}: {_FOLDED[kind]}", hint=_HINT)
    if not known(tensors, kind):
        return {name: Change.to(name) for name in tensors}
    if not isinstance(kind, str):
        raise EditError(
            "--translate mlx: no model_type says whose names these are", hint="a config.json beside the file does"
        )
    if towers := [name for name, info in tensors.items() if _is_of_pixels(info)]:
        raise UnsupportedError(
            f"--translate mlx: {towers[0]!r} is of a tower for pictures as mlx-vlm has it, which is not undone",
            hint=f"--drop '{towers[0].partition('.')[0]}.*' leaves it out",
        )
    if kind not in MODELS:
        raise UnsupportedError(
            f"--translate mlx does not know the model {kind[:80]!r}", hint=f"it knows {', '.join(MODELS)}; {_HINT}"
        )
    scaled = next((n for n in tensors if n.endswith(".scales") and f"{n.removesuffix('scales')}weight" in tensors), "")
    if scaled and tensors[f"{scaled.removesuffix('scales')}weight"].dtype is DType.U32:
        raise EditError(
            f"--translate mlx: the weights are quantized (as {scaled!r} is there)",
            hint="--dequantize makes plain ones first",
        )
    return _Translation(tensors, MODELS[kind], kind).changes()


def known(tensors: Tensors, kind: object) -> bool:
    """Whether some tensors have names or shapes that only mlx-lm gives them. kind: the model_type, if it is known."""
    return any(_is_mlx_only(name, info, kind) for name, info in tensors.items())


def is_changed(kind: object) -> bool:
    """Whether mlx-lm is known to change the tensors of such a model."""
    return isinstance(kind, str) and (kind in MODELS or kind in _FOLDED)


def refuse_mlx(tensors: Tensors, metadata: Mapping[object, object], dialect: str) -> None:
    """Raise EditError for a model of mlx-lm's, before `dialect`, which expects transformers', spoils it."""
    if known(tensors, metadata.get("model_type")):
        raise EditError(
            f"--translate {dialect}: names or layouts are mlx-lm's, and not transformers'",
            hint="--translate mlx before it undoes what mlx-lm changed",
        )


def _is_mlx_only(name: str, info: TensorInfo, kind: object) -> bool:
    """Whether this name, or this shape under this name, occurs only in mlx-lm's models."""
    stack = _STACK.fullmatch(name)
    if stack is not None or _LATENT.fullmatch(name):
        return stack is None or stack[2] == "switch_mlp" or len(info.shape) == (3 if stack[4] == "weight" else 2)
    if kind == "gpt2":
        return name.startswith("model.h.")
    return (
        _is_mlx_convolution(name, info)
        or _is_of_pixels(info)
        or (kind == "granitemoehybrid" and _DENSE.fullmatch(name) is not None)
    )


def _is_mlx_convolution(name: str, info: TensorInfo) -> bool:
    shape = info.shape
    return name.endswith(_CONVOLVED) and len(shape) == 3 and shape[2] == 1 != shape[1]


def _is_of_pixels(info: TensorInfo) -> bool:
    """Whether it is a convolution over pictures with the three colours last; torch has them second."""
    shape = info.shape
    return len(shape) in (4, 5) and shape[-1] == 3 != shape[1] and shape[-3] == shape[-2] > 3


class _Translation:
    def __init__(self, tensors: Tensors, model: _Model, kind: str) -> None:
        self.tensors = tensors
        self.model = model
        self.kind = kind
        self.cut = 0

    def changes(self) -> dict[str, Change]:
        found = {name: self.change(name, info) for name, info in self.tensors.items()}
        if not self.model.language:
            return found
        return {name: _in_language(change) for name, change in found.items()}

    def change(self, name: str, info: TensorInfo) -> Change:
        if self.kind == "gpt2":
            match = _GPT2.fullmatch(name)
            turned = match is not None and match[1].startswith("h.") and len(info.shape) == 2
            return Change.to(f"transformer.{match[1]}" if match else name, axes=(1, 0) if turned else None)
        if (match := _STACK.fullmatch(name)) and match[2] == self.model.where:
            return self.expert(name, info, match)
        if match := _LATENT.fullmatch(name):
            return self.latent(name, match[1], match[2])
        if self.model.dense and (match := _DENSE.fullmatch(name)):
            return self.layer(name, match)
        if _is_mlx_convolution(name, info):
            return Change.to(name, axes=(0, 2, 1))
        if len(info.shape) == 1 and name.endswith(self.model.plus_one):
            return Change(names=(name,), function={"function": "add", "value": -1})
        return Change.to(name)

    def expert(self, name: str, info: TensorInfo, match: re.Match[str]) -> Change:
        """The change of a stack of experts."""
        before, _, part, end = match.groups()
        model, stem = self.model, f"{before}.experts"
        if model.experts in ("each", "w"):
            count = info.shape[0] if len(info.shape) > 1 else 0
            self.cut += count
            check_parts(self.cut)  # now, since a shape costs nothing and a name for each of its rows does
            if not count:
                raise EditError(f"{name!r} of shape {list(info.shape)} is not a stack of experts", hint=_HINT)
            word = _PARTS.get(part, part) if model.experts == "w" else _OWN.get(part, part)
            names = tuple(f"{stem}.{number}.{word}.{end}" for number in range(count))
            return Change(names=names, shape=info.shape[1:] if count == 1 else None)
        if model.experts == "linear":
            fused, down = f"{before}.input_linear.{end}", f"{before}.output_linear.{end}"
        else:
            tail = "_bias" if end == "bias" else ""
            fused, down = f"{stem}.gate_up_proj{tail}", f"{stem}.down_proj{tail}"
        axes = (0, 2, 1) if model.experts in ("turned", "interleaved") and end == "weight" else None
        if part == "down_proj":
            return Change.to(down, axes=axes)
        sources = self.parts(name, fused, f"{before}.{match[2]}.", f".{end}", _UP)
        if model.experts == "interleaved":
            join = Join(fused, sources, "stack", 2, merge=1, axes=axes)
        else:
            join = Join(fused, sources, "concat", 1, axes=axes)
        return Change(names=(name,), into=join)

    def layer(self, name: str, match: re.Match[str]) -> Change:
        """The change of a layer that is not an expert's, in a model that has experts."""
        before, where, part = match.groups()
        if self.model.experts == "w":
            return Change.to(f"{before}.{where}.{_PARTS[part]}.weight")
        if part == "down_proj":
            return Change.to(f"{before}.shared_mlp.output_linear.weight")
        fused = f"{before}.shared_mlp.input_linear.weight"
        sources = self.parts(name, fused, f"{before}.{where}.", ".weight", _UP)
        return Change(names=(name,), into=Join(fused, sources, "concat", 0))

    def latent(self, name: str, before: str, part: str) -> Change:
        """The change of one half of kv_b_proj, which makes keys and values from their compressed form."""
        fused = f"{before}.kv_b_proj.weight"
        sources = self.parts(name, fused, f"{before}.", ".weight", ("embed_q", "unembed_out"))
        if any(len(self.tensors[source].shape) != 3 for source in sources):
            raise EditError(f"{name!r} of shape {list(self.tensors[name].shape)} has no matrix per head", hint=_HINT)
        axes = (0, 2, 1) if part == "embed_q" else None
        return Change(names=(name,), axes=axes, into=Join(fused, sources, "concat", 1, merge=0))

    def parts(self, name: str, fused: str, start: str, end: str, words: tuple[str, str]) -> tuple[str, ...]:
        """The names of the parts of `fused`: each of `words` between start and end. Raises EditError."""
        found = tuple(start + word + end for word in words)
        if missing := [part for part in found if part not in self.tensors]:
            raise EditError(
                f"--translate mlx: {name!r} is one part of {fused}, and there is no {missing[0]!r}", hint=_HINT
            )
        return found


def _in_language(change: Change) -> Change:
    """The change under the names that a language model has when there is a tower for pictures beside it."""
    into = change.into and replace(change.into, target=_of_language(change.into.target))
    return replace(change, names=tuple(map(_of_language, change.names)) if into is None else change.names, into=into)


def _of_language(name: str) -> str:
    if name.startswith("language_model.model."):
        return "model." + name.replace("language_model.model.", "language_model.", 1)
    return name.removeprefix("language_model.")
