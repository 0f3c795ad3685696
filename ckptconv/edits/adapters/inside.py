"""PEFT adapters that were saved inside the model that they change: ``torch.save(peft_model.state_dict())``.

    base_model.model.M.base_layer.weight                  the base's own weight, which PEFT wraps
    base_model.model.M.lora_A.default.weight              what is added, with the adapter's name
    base_model.model.N.original_module.weight             the base's own module
    base_model.model.N.modules_to_save.default.weight     …and its trained copy, which replaces it
    base_model.model.K.weight                             everything that the adapter leaves alone

`save_pretrained` removes the adapter's name from the names, and leaves the base out, except for an embedding that was
resized. PeftAdapterMixin of transformers does the same to a model without ``base_model.model.``.

Source: peft's utils/save_and_load.py, tuners/tuners_utils.py and utils/other.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.edits.adapters.names import PEFT, SAVED, named_roles

if TYPE_CHECKING:
    from collections.abc import Iterable

LAYER = ".base_layer."
ORIGINAL = ".original_module."

NOT_MERGED = "this is a model with an adapter (LoRA) in it that is not merged"

_START = rf"{PEFT}model."


def is_inside(names: Iterable[str]) -> bool:
    """Whether the base of most modules that the adapter changes is there, too; `save_pretrained` writes few of them."""
    names = list(names)
    own = {name.partition(LAYER)[0] for name in names if LAYER in name}
    if not own:
        return False
    changed = {module for _, module, adapter in named_roles(names) if adapter}
    return 2 * len(changed & own) > len(changed)


def adapter_globs(names: Iterable[str]) -> list[str]:
    """Globs that match the adapter's own tensors."""
    names = list(names)
    words = dict.fromkeys(name.removeprefix(f"{module}.").partition(".")[0] for name, module, _ in named_roles(names))
    return ["*.lora_*"] if all(word.startswith("lora_") for word in words) else [f"*.{word}*" for word in words]


def how_to_merge(names: Iterable[str]) -> str:
    """A hint: how to make a plain model of it, with the adapter (by peft) or without (by its names)."""
    names = list(names)
    drops = [*adapter_globs(names), *([f"*{ORIGINAL}*"] if any(ORIGINAL in name for name in names) else [])]
    renames = [r"\.base_layer\.=."]
    if any(SAVED in name for name in names):
        renames.append(r"\.modules_to_save\.[^.]+\.=.")
    if all(name.startswith(_START) for name in names):
        renames.insert(0, rf"^{_START}=".replace(".", r"\."))
    options = [f"--drop '{glob}'" for glob in drops] + [f"--rename '{rename}'" for rename in renames]
    return (
        "merge_and_unload() of peft before saving merges it; ckptconv convert FILE BASE.pth "
        f"{' '.join(options)} takes the model without it"
    )


def how_to_extract(names: Iterable[str]) -> str:
    """A hint: how to make an adapter of it that can be merged."""
    names = list(names)
    globs = [*adapter_globs(names), *([f"*{SAVED}*"] if any(SAVED in name for name in names) else [])]
    options = " ".join(f"--select '{glob}'" for glob in globs)
    return f"ckptconv convert FILE ADAPTER.safetensors {options} takes it out; --lora ADAPTER.safetensors=SCALE then"
