"""What the names of an adapter's tensors mean.

    base_model.model.M.lora_A.weight, .lora_B.weight         PEFT; with an adapter's name, .lora_A.default.weight
    base_model.model.M.lora_embedding_A, …                   PEFT, too: lora_magnitude_vector, hada_w1_a, lokr_w1, ia3_l
    lora_unet_M.lora_down.weight, .lora_up.weight, .alpha    kohya-ss' scripts and LyCORIS, M with underscores for dots
    unet.M.lora_A.weight, unet.M.lora.up.weight              diffusers, new and old
    unet.M.processor.to_q_lora.up.weight                     diffusers, older still
    M.lora_a, M.lora_b, M.m                                  mlx-lm
    M.lora_A, M.lora_B                                       loralib, which scales by lora_alpha / r and saves neither

Sources: peft's utils/save_and_load.py; kohya-ss/sd-scripts, networks/lora.py; KohakuBlueleaf/LyCORIS, lycoris/modules;
loralib/layers.py; diffusers' loaders/lora_conversion_utils.py and loaders/unet.py; ComfyUI, comfy/weight_adapter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MLX_PARTS = ("lora_a", "lora_b")
"""mlx-lm's names of the two factors."""

_ROLES = {
    "lora_A": "down", "lora_down": "down", "lora.down": "down", "lora_linear_layer.down": "down",
    "lora_B": "up", "lora_up": "up", "lora.up": "up", "lora_linear_layer.up": "up",
    "lora_mid": "mid", "lora_embedding_A": "embedding_down", "lora_embedding_B": "embedding_up",
    "lora_magnitude_vector": "magnitude", "dora_scale": "magnitude", "alpha": "alpha",
    **{f"hada_{word}": f"hada_{word}" for word in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{word}": f"lokr_{word}" for word in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    "ia3_l": "ia3", "diff": "diff", "diff_b": "diff_bias", "w_norm": "diff", "b_norm": "diff_bias", "bm": "bm",
    "token_adapter.trainable_tokens_delta": "tokens", "trainable_tokens_delta": "tokens",
    **{word: word for word in MLX_PARTS}, **{word: word for word in ("a1", "a2", "b1", "b2")},
    **{word: word for word in (
        "lora_E", "ranknum", "vera_lambda_b", "vera_lambda_d", "vera_A", "vera_B", "delora_A", "delora_B",
        "randlora_lambda", "randlora_gamma", "randlora_A", "randlora_B",
        "delora_lambda", "delora_w_norm", "gralora_A", "gralora_B", "gralora_A_general", "gralora_B_general",
        "vblora_logits_A", "vblora_logits_B", "vblora_logits_A_topk_indices", "vblora_logits_A_topk_weights",
        "vblora_logits_B_topk_indices", "vblora_logits_B_topk_weights", "vblora_vector_bank", "miss_block",
        "bone_block", "c3a_kernel", "shira_weight", "shira_indices", "hira_A", "hira_B", "hira_embedding_A",
        "hira_embedding_B", "oft_R", "oft_embedding_R", "boft_R", "boft_s", "hra_u", "road_theta", "road_alpha",
        "beft_bias", "oft_blocks", "rescale", "on_input",
    )},
}  # fmt: skip
"""Roles, by what names end in after the module's name."""

_UNMERGED = {
    "oft_diag": "OFT of before LyCORIS 2.1", "oft_r": "OFT of before peft 0.14", "oft_s": "OFT of before peft 0.14",
    "prompt_embeddings": "prompt tuning", "lora_mag": "DoRA of another kind", "reshape": "a reshaped weight",
    "set": "a weight that is set", "lambda_layer": "T-LoRA, whose ranks depend on the time of a picture",
}  # fmt: skip
"""Endings of tensors that are not merged, and what they belong to."""

_ROLES_BESIDE = ((".m", ".lora_a", "magnitude"), (".weight", ".on_input", "ia3_weight"))
"""(ending, another ending, role): the first has that role only if the same module has a tensor with the other."""

_OLD_DIFFUSERS = re.compile(r"(.+)\.processor\.(\w+)_lora\.(down|up)\.weight")
_WRAPPED = re.compile(r"(?:(?:modules_to_save|ln_tuning_layers)(?:\.[^.]+)?|base_layer)\.")

PEFT = "base_model."
"""How names of PEFT start."""

SAVED = ".modules_to_save."
"""Part of the names of modules that PEFT trains whole."""

_PEFT_WORDS = (
    "lora_", "hada_", "lokr_", "ia3_l", "token_", "trainable_", "oft_", "boft_", "vera_", "ranknum", "prompt_",
    "delora_", "gralora_", "randlora_", "vblora_", "miss_", "bone_", "c3a_", "shira_", "hira_", "hra_", "road_",
    "beft_",
)  # fmt: skip
"""How PEFT's own words start; in its files, all other names are the base's."""

_ADAPTER_WORDS = (
    "lora", "hada_", "lokr_", "ia3_l", "oft_", "trainable_tokens_delta", "vera_lambda_b", "miss_block", "bone_block",
    "c3a_kernel", "shira_weight", "hira_", "hra_u", "road_theta", "beft_bias", ".on_input",
)  # fmt: skip
"""Every adapter has one of these in some name."""


def plain_module(name: str) -> str:
    """The name of a module, or a tensor, in the network that PEFT wraps."""
    return name.removeprefix(PEFT).removeprefix("model.") if name.startswith(PEFT) else name


@dataclass
class Parts:
    """The tensors of an adapter, by what they are for.

    modules:  module → role → tensor name.
    whole:    tensors that replace the base's: base's name → tensor name.
    shared:   tensors common to all modules: role → tensor name.
    adapters: adapters' names that are part of tensor names.
    others:   tensors that are unknown or not merged: tensor name → what it is.
    """

    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, None] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)


def is_loralib(names: Iterable[str]) -> bool:
    """Whether two halves of a change are named as loralib does; PEFT and diffusers have more after ``lora_A``."""
    return any(name.endswith(".lora_A") for name in names)


def is_adapter(names: Iterable[str]) -> bool:
    """Whether most of these names are an adapter's."""
    names = list(names)
    if not any(word in name for name in names for word in _ADAPTER_WORDS):
        return False
    known = sum(found is not None for _, found in _roles(names))
    return known * 2 > len(names)


def named_roles(names: list[str]) -> Iterator[tuple[str, str, str]]:
    """(tensor name, module, adapter's name) of the names that are PEFT's own words."""
    for name in names:
        if (found := _role(name)) is not None and name[len(found[0]) + 1 :].startswith(_PEFT_WORDS):
            yield name, found[0], found[2]


def _roles(names: list[str]) -> Iterator[tuple[str, tuple[str, str, str] | None]]:
    """Each name, and what `_role` says of it; some say it only beside another name of the module."""
    all_names = set(names)
    for name in names:
        found = _role(name)
        for end, other, role in _ROLES_BESIDE if found is None else ():
            module = name.removesuffix(end)
            if module != name and module + other in all_names:
                found = module, role, ""
        yield name, found


def _role(name: str) -> tuple[str, str, str] | None:
    """(module, role, adapter's name) of a tensor; None if it is not an adapter's."""
    if match := _OLD_DIFFUSERS.fullmatch(name):
        module = f"{match[1]}.{match[2]}" + (".0" if match[2] == "to_out" else "")
        return module, match[3], ""
    at = 0
    while (at := name.find(".", at)) >= 0:
        if match := _suffix().fullmatch(name, at):
            word, adapter, end = match[1], match[2] or "", match[3] or ""
            if name.startswith(PEFT) and not word.startswith(_PEFT_WORDS):
                return None
            role = _ROLES.get(word) or f"?{_UNMERGED[word]}"
            if role in MLX_PARTS and (adapter or end):  # another library's, with torch's layout
                return None
            return _without_wrappers(name[:at]), "up_bias" if (role, end) == ("up", "bias") else role, adapter
        at += 1
    return None


@cache
def _suffix() -> re.Pattern[str]:
    """The end of a name: role, adapter's name, ``weight`` or ``bias``. Compiling it takes some ms, and few files need
    it.
    """
    words = "|".join(re.escape(word) for word in sorted((*_ROLES, *_UNMERGED), key=len, reverse=True))
    return re.compile(rf"\.({words})(?:\.([^.]+?))??(?:\.(weight|bias))?")


def _without_wrappers(module: str) -> str:
    """The module's name without the wrappers that PEFT puts around it."""
    return (module + ".").replace(".base_layer.", ".").removesuffix(".")


def parts_of(names: Iterable[str]) -> Parts:
    """The tensors by what they are for. Raises UnsupportedError where a file holds several adapters."""
    result = Parts()
    for name, found in _roles(list(names)):
        if found is None:
            if ".original_module." in name:
                continue  # the base's own module, which PEFT keeps beside the trained copy
            result.whole[_WRAPPED.sub("", name)] = name
            continue
        module, role, adapter = found
        if ".base_layer.out_proj." in name:
            result.others[name] = "a torch MultiheadAttention, to which peft adds it twice"
            continue
        if adapter:
            result.adapters[adapter] = None
        if role.startswith("?"):
            result.others[name] = role[1:]
        elif role in result.modules.setdefault(module, {}):
            raise UnsupportedError(
                f"the adapter changes several parameters of {module!r} (target_parameters), which are not told apart",
                hint="merge_and_unload() of peft does it",
            )
        else:
            result.modules[module][role] = name
    result.shared = result.modules.pop(PEFT.removesuffix("."), {})
    if len(result.adapters) > 1:
        raise UnsupportedError(
            f"the file holds several adapters: {', '.join(map(repr, result.adapters))}",
            hint="save one of them: model.save_pretrained(FOLDER, selected_adapters=['NAME'])",
        )
    return result
