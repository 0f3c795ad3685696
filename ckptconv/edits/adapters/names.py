"""What the tensors of an adapter are called, and so what they are for.

    base_model.model.M.lora_A.weight, .lora_B.weight         PEFT; with an adapter's name, .lora_A.default.weight
    base_model.model.M.lora_embedding_A, …                   likewise: lora_magnitude_vector, hada_w1_a, lokr_w1, ia3_l
    lora_unet_M.lora_down.weight, .lora_up.weight, .alpha    kohya-ss' scripts and LyCORIS, M with underscores for dots
    unet.M.lora_A.weight, unet.M.lora.up.weight              diffusers, new and old
    unet.M.processor.to_q_lora.up.weight                     older still
    M.lora_a, M.lora_b, M.m                                  mlx-lm
    M.lora_A, M.lora_B                                       loralib, which scales by lora_alpha / r and saves neither

Sources: peft's utils/save_and_load.py; kohya-ss/sd-scripts, networks/lora.py; KohakuBlueleaf/LyCORIS, lycoris/modules;
loralib/layers.py; diffusers' loaders/lora_conversion_utils.py and loaders/unet.py; ComfyUI, comfy/weight_adapter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ckptconv.edits.adapters import mlx
from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_ROLES = {
    "lora_A": "down", "lora_down": "down", "lora.down": "down", "lora_linear_layer.down": "down",
    "lora_B": "up", "lora_up": "up", "lora.up": "up", "lora_linear_layer.up": "up",
    "lora_mid": "mid", "lora_embedding_A": "embedding_down", "lora_embedding_B": "embedding_up",
    "lora_magnitude_vector": "magnitude", "dora_scale": "magnitude", "alpha": "alpha",
    **{f"hada_{word}": f"hada_{word}" for word in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{word}": f"lokr_{word}" for word in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")},
    "ia3_l": "ia3", "diff": "diff", "diff_b": "diff_bias", "w_norm": "diff", "b_norm": "diff_bias", "bm": "bm",
    "token_adapter.trainable_tokens_delta": "tokens", "trainable_tokens_delta": "tokens",
    **{word: word for word in mlx.PARTS}, **{word: word for word in ("a1", "a2", "b1", "b2")},
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
"""By what names end in, behind the module's."""

_OTHERS = {
    "oft_diag": "OFT of before LyCORIS 2.1", "oft_r": "OFT of before peft 0.14", "oft_s": "OFT of before peft 0.14",
    "prompt_embeddings": "prompt tuning", "lora_mag": "DoRA of another kind", "reshape": "a reshaped weight",
    "set": "a weight that is set", "lambda_layer": "T-LoRA, whose ranks depend on the time of a picture",
}  # fmt: skip
"""What is told of others, which are not merged."""

_SUFFIX = re.compile(
    r"\.(" + "|".join(re.escape(word) for word in sorted((*_ROLES, *_OTHERS), key=len, reverse=True)) + r")"
    r"(?:\.([^.]+?))??(?:\.(weight|bias))?"
)
_BESIDE = ((mlx.MAGNITUDE, ".lora_a", "magnitude"), (".weight", ".on_input", "ia3_weight"))
"""What names end in that say something only where there is another of the same module, and what."""

_OLD = re.compile(r"(.+)\.processor\.(\w+)_lora\.(down|up)\.weight")
_WRAPPED = re.compile(r"(?:(?:modules_to_save|ln_tuning_layers)(?:\.[^.]+)?|base_layer)\.")

PEFT = "base_model."
"""What names of PEFT begin with."""

SAVED = ".modules_to_save."
"""What stands in names of modules that PEFT trains whole."""

_PEFTS = (
    "lora_", "hada_", "lokr_", "ia3_l", "token_", "trainable_", "oft_", "boft_", "vera_", "ranknum", "prompt_",
    "delora_", "gralora_", "randlora_", "vblora_", "miss_", "bone_", "c3a_", "shira_", "hira_", "hra_", "road_",
    "beft_",
)  # fmt: skip
"""What PEFT calls its own; in its files all other names are the base's."""

_WORDS = (
    "lora", "hada_", "lokr_", "ia3_l", "oft_", "trainable_tokens_delta", "vera_lambda_b", "miss_block", "bone_block",
    "c3a_kernel", "shira_weight", "hira_", "hra_u", "road_theta", "beft_bias", ".on_input",
)  # fmt: skip
"""One of these is in some name of every adapter."""


def plain_module(name: str) -> str:
    """A module, or a tensor, by the name that it has in the network that PEFT wraps."""
    return name.removeprefix(PEFT).removeprefix("model.") if name.startswith(PEFT) else name


@dataclass
class Parts:
    """The tensors of an adapter by what they are for.

    modules: by module, the names of its tensors by their roles.
    whole:   tensors that take the place of the base's, by the base's names.
    shared:  names of tensors that all modules have in common, by their roles.
    adapters: names of adapters that stand in the names.
    others:  names of what is not known, or not merged, and what it is.
    """

    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    whole: dict[str, str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    adapters: dict[str, None] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)


def are_loralibs(names: Iterable[str]) -> bool:
    """Whether they are as loralib calls the two halves of a change: PEFT and diffusers have more behind them."""
    return any(name.endswith(".lora_A") for name in names)


def is_adapter(names: Iterable[str]) -> bool:
    """Whether most of these are an adapter's, by their names alone."""
    names = list(names)
    if not any(word in name for name in names for word in _WORDS):
        return False
    known = sum(found is not None for _, found in _roles(names))
    return known * 2 > len(names)


def named_roles(names: list[str]) -> Iterator[tuple[str, str, str]]:
    """Names of an adapter's tensors that PEFT calls so, each with its module and the adapter's name."""
    for name in names:
        if (found := _role(name)) is not None and name[len(found[0]) + 1 :].startswith(_PEFTS):
            yield name, found[0], found[2]


def _roles(names: list[str]) -> Iterator[tuple[str, tuple[str, str, str] | None]]:
    """Names, and what each of them is for, as `_role` has it; two say it only beside another."""
    all_names = set(names)
    for name in names:
        found = _role(name)
        for end, other, role in _BESIDE if found is None else ():
            module = name.removesuffix(end)
            if module != name and module + other in all_names:
                found = module, role, ""
        yield name, found


def _role(name: str) -> tuple[str, str, str] | None:
    """The module, the role and the adapter's name; None for a tensor that is no adapter's."""
    if match := _OLD.fullmatch(name):
        module = f"{match[1]}.{match[2]}" + (".0" if match[2] == "to_out" else "")
        return module, match[3], ""
    at = 0
    while (at := name.find(".", at)) >= 0:
        if match := _SUFFIX.fullmatch(name, at):
            word, adapter, end = match[1], match[2] or "", match[3] or ""
            if name.startswith(PEFT) and not word.startswith(_PEFTS):
                return None
            role = _ROLES.get(word) or f"?{_OTHERS[word]}"
            if role in mlx.PARTS and (adapter or end):  # another's, whose layers lie as torch's do
                return None
            return _plain(name[:at]), "up_bias" if (role, end) == ("up", "bias") else role, adapter
        at += 1
    return None


def _plain(module: str) -> str:
    """The module without the wrappers that PEFT puts around it."""
    return (module + ".").replace(".base_layer.", ".").removesuffix(".")


def parts_of(names: Iterable[str]) -> Parts:
    """The parts. Raises UnsupportedError where a file holds several adapters."""
    made = Parts()
    for name, found in _roles(list(names)):
        if found is None:
            if ".original_module." in name:
                continue  # the base's own, which PEFT keeps beside the one that was trained
            made.whole[_WRAPPED.sub("", name)] = name
            continue
        module, role, adapter = found
        if ".base_layer.out_proj." in name:
            made.others[name] = "a torch MultiheadAttention, to which peft adds it twice"
            continue
        if adapter:
            made.adapters[adapter] = None
        if role.startswith("?"):
            made.others[name] = role[1:]
        elif role in made.modules.setdefault(module, {}):
            raise UnsupportedError(
                f"the adapter changes several parameters of {module!r} (target_parameters), which are not told apart",
                hint="merge_and_unload() of peft does it",
            )
        else:
            made.modules[module][role] = name
    made.shared = made.modules.pop(PEFT.removesuffix("."), {})
    if len(made.adapters) > 1:
        raise UnsupportedError(
            f"the file holds several adapters: {', '.join(map(repr, made.adapters))}",
            hint="save one of them: model.save_pretrained(FOLDER, selected_adapters=['NAME'])",
        )
    return made
