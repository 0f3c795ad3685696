"""An adapter of PEFT's inside the model that it changes: ``torch.save(peft_model.state_dict())``.

    base_model.model.M.base_layer.weight                  the base's own weight, which PEFT wraps
    base_model.model.M.lora_A.default.weight              what it adds, with the adapter's name in it
    base_model.model.N.original_module.weight             the base's own, beside
    base_model.model.N.modules_to_save.default.weight     …what takes its place
    base_model.model.K.weight                             all that it leaves alone

`save_pretrained` takes the adapter's name out of the names, and leaves the base out but for an embedding that was
resized. PeftAdapterMixin of transformers puts the same into a model without ``base_model.model.`` before it.

Source: peft's utils/save_and_load.py, tuners/tuners_utils.py and utils/other.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.edits.adapters.names import PEFT, SAVED, named_roles

if TYPE_CHECKING:
    from collections.abc import Iterable

LAYER = ".base_layer."
ORIGINAL = ".original_module."

WHAT = "this is a model with an adapter (LoRA) in it that is not merged"

_START = rf"{PEFT}model."


def is_inside(names: Iterable[str]) -> bool:
    """Whether most modules that an adapter changes stand beside it: of what `save_pretrained` writes few do."""
    names = list(names)
    own = {name.partition(LAYER)[0] for name in names if LAYER in name}
    if not own:
        return False
    changed = {module for _, module, adapter in named_roles(names) if adapter}
    return 2 * len(changed & own) > len(changed)


def words_of(names: Iterable[str]) -> list[str]:
    """What the adapter's own tensors have in their names, as globs."""
    names = list(names)
    words = dict.fromkeys(name.removeprefix(f"{module}.").partition(".")[0] for name, module, _ in named_roles(names))
    return ["*.lora_*"] if all(word.startswith("lora_") for word in words) else [f"*.{word}*" for word in words]


def how_to_merge(names: Iterable[str]) -> str:
    """What makes a plain model of it, as a hint: with the adapter by peft, without it by its names."""
    names = list(names)
    drops = [*words_of(names), *([f"*{ORIGINAL}*"] if any(ORIGINAL in name for name in names) else [])]
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


def how_to_take(names: Iterable[str]) -> str:
    """What makes an adapter of it that can be merged, as a hint."""
    names = list(names)
    globs = [*words_of(names), *([f"*{SAVED}*"] if any(SAVED in name for name in names) else [])]
    options = " ".join(f"--select '{glob}'" for glob in globs)
    return f"ckptconv convert FILE ADAPTER.safetensors {options} takes it out; --lora ADAPTER.safetensors=SCALE then"
