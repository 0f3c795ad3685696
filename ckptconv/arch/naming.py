"""Names for what `infer` finds: dimensions by the tensors that have them, loops by the word before the number."""

from __future__ import annotations

import re

from ckptconv.arch.expressions import FUNCTIONS, KEYWORDS
from ckptconv.arch.spec import VARIANT

_ROLES: tuple[tuple[str, int, str], ...] = (
    # a pattern in the tensor's name, the axis, the dimension's name
    (r"token_type", 0, "token_types"),
    (r"pos(ition)?_?(ids|emb)|wpe|embed_positions", 0, "positions"),
    (r"word_emb|embed_tokens|wte|token_emb|shared\.weight|tok_emb", 0, "vocab"),
    (r"lm_head|embed_out|vocab_projector", 0, "vocab"),
    (r"\b(q_proj|query|q_lin|q)\b", 0, "query_size"),
    (r"\b(k_proj|key|v_proj|value|k_lin|v_lin|k|v)\b", 0, "key_size"),
    (r"(c_attn|qkv|in_proj)", 0, "qkv_size"),
    (r"experts?|router|gate\.weight", 0, "experts"),
    (r"(mlp|ffn|feed_forward|intermediate|fc1|wi|gate_proj|up_proj|lin1)", 0, "intermediate"),
    (r"(classifier|score|head|output|fc)\.(weight|bias)$", 0, "outputs"),
    (r"^(conv1|stem|features\.0|patch_emb|conv_proj)", 1, "in_channels"),
)

_WORD = re.compile(r"[A-Za-z][A-Za-z_]*")

_VARIABLE = ".value"
"""The end of all names that Flax NNX gives."""

_PARTS = ("weight", "bias", "running_mean", "running_var", "kernel", "vars")
"""Words for a part of a module, in torch's names, Flax's and Keras'."""


class Namer:
    """Gives out free names: identifiers that are no words of the language, each only once."""

    def __init__(self) -> None:
        self.taken: set[str] = {*FUNCTIONS, *KEYWORDS, VARIANT}

    def fresh(self, word: str) -> str:
        """`word`, with the first number that makes it free if it is taken."""
        cleaned = re.sub(r"[^A-Za-z0-9_]", "_", word).strip("_") or "size"
        if cleaned[0].isdigit():
            cleaned = f"n{cleaned}"
        name, number = cleaned, 2
        while name in self.taken:
            name, number = f"{cleaned}_{number}" if cleaned[-1].isdigit() else f"{cleaned}{number}", number + 1
        self.taken.add(name)
        return name


def loop_names(text: str) -> tuple[str, str]:
    """(loop variable, count) for numbers after `text`: ``model.layers.`` gives layer and layers."""
    words = _WORD.findall(text)
    word = words[-1].strip("_") if words else ""
    if len(word) < 3:
        return "i", "depth"
    if word.endswith("s") and not word.endswith("ss"):
        return word[:-1], word
    return word, f"{word}_count"


def role(name: str, axis: int, rank: int) -> str:
    """A likely name for a dimension of this tensor."""
    name = name.removesuffix(_VARIABLE)
    for pattern, where, word in _ROLES:
        if where == axis and re.search(pattern, name):
            return word
    stem = _stem(name)
    if not stem:
        return ("width", "inputs", "kernel")[min(axis, 2)]
    return f"{stem}_{('out', 'in', 'size')[min(axis, 2)] if rank > 1 else 'size'}"


def presence_name(name: str) -> str:
    """The name of a switch that says whether a tensor is there."""
    return "has_bias" if name.endswith("bias") else f"has_{_stem(name) or 'it'}"


def _stem(name: str) -> str:
    """The last word of a name that says what the tensor belongs to; "" if there is none."""
    words = [word for word in _WORD.findall(name) if word not in _PARTS]
    return words[-1].strip("_").lower() if words else ""
