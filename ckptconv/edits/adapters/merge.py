"""Merges an adapter into a base, lazily: no tensor is read, except single numbers such as alpha.

Every tensor of the adapter finds its place or is refused by name: a module that the base does not have, a shape that
does not fit, a tensor of an unknown kind. The exception is a whole component of a pipeline that the base does not have
(the text encoder, if the base is a UNet): it is left out, and reported.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.text import listed
from ckptconv.edits.adapters.adapter import Merge, check
from ckptconv.edits.adapters.merged import is_mergeable_type, merged_tensor
from ckptconv.edits.adapters.names import SAVED, plain_module
from ckptconv.edits.adapters.targets import find
from ckptconv.edits.adapters.translated import merge_translated, translate
from ckptconv.edits.cast import cast_to
from ckptconv.edits.ggml.unpack import unpacked
from ckptconv.errors import EditError, first_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.edits.adapters.adapter import Adapter
    from ckptconv.edits.adapters.build import Module
    from ckptconv.edits.adapters.merged import Change

_QUANTIZED = (".qweight", ".weight_packed", ".weight_scale", ".weight_scale_inv", ".SCB", ".weight.absmax", "_blocks")
"""Endings of tensors that a quantized weight has beside it or instead of it."""

_RELEASE_BLOCKS = ("double_blocks", "single_blocks", "joint_blocks")
"""Words in the names that Flux and Stable Diffusion 3 have in their own releases."""

_LLAMA_CPP_STARTS = ("blk.", "token_embd")
"""How llama.cpp's names start."""


def merge(base: Mapping[str, LazyTensor], adapter: Adapter, scale: float | None) -> Merge:
    """The base with the adapter merged.

    The names may be diffusers' on one side and the release's own on the other. Raises EditError, UnsupportedError,
    CorruptFileError.

    scale: what the adapter's change is multiplied by; None if the user gives none.
    """
    check(adapter, scaled=scale is not None)
    scale = 1.0 if scale is None else scale
    try:
        return _merge_modules(base, adapter, scale)
    except MissingModulesError as missing:
        if (translated := translate(base)) is None:
            raise
        try:
            return merge_translated(base, translated, lambda tensors: _merge_modules(tensors, adapter, scale))
        except MissingModulesError:
            raise missing from None  # this error has the base's own names, which the user knows


def _merge_modules(base: Mapping[str, LazyTensor], adapter: Adapter, scale: float) -> Merge:
    modules = {name: adapter.module(name, scale) for name in adapter.parts.modules}
    found = find(modules, list(base), lambda module, name: modules[module].may_fit(base[name].info.shape))
    if found.missing:
        raise _missing_error(found.missing, base)
    result = Merge(dict(base), absent={what: len(lost) for what, lost in found.absent.items()}, prefix=found.prefix)
    inputs_first = any(
        modules[module].fits(base[name].info.shape) == (False, True)
        for module, name in found.names.items()
        if modules[module].factor_pair
    )
    _replace_whole(result, adapter, found.prefix)  # first: an embedding may be resized, and changed after that
    for name_in_adapter, name in found.names.items():
        module = modules[name_in_adapter]
        module = replace(module, inputs_first=inputs_first or module.config.fan_in_fan_out)
        if module.needs_weight:
            _change(result, name, module.weight_changes(result.tensors[name].info.shape))
        _change_bias(result, name.removesuffix("weight") + "bias", module)
    return result


def _change(made: Merge, name: str, changes: tuple[Change, ...]) -> None:
    tensor = _as_floats(name, made.tensors)
    if changes:
        made.tensors[name] = merged_tensor(tensor, changes)
        made.changed[name] = None


def _change_bias(made: Merge, name: str, module: Module) -> None:
    if name in made.tensors:
        if changes := module.bias_changes(made.tensors[name].info.shape):
            _change(made, name, changes)
    elif module.needs_bias:
        raise module.fail(f"it has a bias, and the base has no {name!r}")


def _as_floats(name: str, tensors: Mapping[str, LazyTensor]) -> LazyTensor:
    """The weight as floats. Raises EditError where it is quantized, unless in blocks of ggml's."""
    tensor = tensors[name]
    if tensor.info.dtype.kind == "block":
        return unpacked(tensor)
    stem = name.removesuffix(".weight")
    beside = any(f"{stem}{end}" in tensors for end in _QUANTIZED)
    if not is_mergeable_type(tensor.info.dtype) or beside:
        what = "is quantized" if beside else f"is {tensor.info.dtype}"
        raise EditError(f"the base's {name!r} {what}", hint="--dequantize makes plain weights of it first")
    return tensor


class MissingModulesError(EditError):
    """The base does not have modules that the adapter changes."""


def _missing_error(modules: list[str], base: Mapping[str, LazyTensor]) -> MissingModulesError:
    count = "a module that the base lacks" if len(modules) == 1 else f"{len(modules):,} modules that the base lacks"
    last = modules[0].rpartition(".")[2]
    llama_cpps = modules[0].startswith(_LLAMA_CPP_STARTS) and not any(name.startswith("blk.") for name in base)
    names = f"its names are as {listed([repr(name) for name in base][:2])}"
    hint = f"another base, or --translate before --lora: {names}"
    if any(name.endswith(_QUANTIZED) and f"{last}." in name for name in base):
        hint = "its weights are quantized: --dequantize makes plain ones first"
    elif llama_cpps:
        hint = (
            "these are llama.cpp's names: merge it into a GGUF, before --translate gguf; or into a model of "
            "transformers' after --translate to-gguf"
        )
    elif any(name.startswith(_LLAMA_CPP_STARTS) for name in base):
        hint = f"another base, or --lora before --translate to-gguf: {names}"
    elif last == "lm_head" and any("embed" in name or "wte" in name for name in base):
        hint = (
            "where it shares the embedding's tensor, give it one of its own before: --rules with an edit of kind tie "
            "and one of kind untie; and tie_word_embeddings = false in the config.json"
        )
    elif any(".switch_mlp." in module for module in modules):
        hint = "these are mlx-lm's names: merge it into mlx-lm's model; --translate mlx after it gives transformers'"
    elif any(block in module for module in modules for block in _RELEASE_BLOCKS) and any(
        ".attn.to_q" in name for name in base
    ):
        hint = (
            "these are names of the model's own release: merge it into that file; --translate ldm gives diffusers' then"
        )
    return MissingModulesError(f"the adapter changes {count}", hint=hint, details=first_of(modules))


def _replace_whole(made: Merge, adapter: Adapter, prefix: str) -> None:
    """Put tensors that the adapter brings whole in their places."""
    known = any(config.peft or config.mlx == "full" for config in adapter.configs.values())
    for inner, name in adapter.parts.whole.items():  # the name in the network, the name in the file
        tensor = adapter.tensors[name]
        shape = tensor.info.shape
        if not known and SAVED not in name:
            raise EditError(
                f"{name!r} in it is of no known kind",
                hint=f"ckptconv convert ADAPTER OTHER --drop '{name}' leaves it out",
            )
        target = _name_in_base(inner, prefix, made.tensors)
        old = made.tensors.get(target)
        if old is None:
            made.tensors[target] = replace(tensor, alias=None)
            made.added.append(target)
            continue
        if old.info.shape != shape:
            if old.info.shape[1:] != shape[1:] or not shape or not old.info.shape:
                raise EditError(
                    f"{target!r} is of shape {list(old.info.shape)} in the base, and {list(shape)} in the adapter",
                    hint="the adapter may be for another base",
                )
            made.resized[target] = f"{old.info.shape[0]:,} → {shape[0]:,}"
        plain = old.info.dtype if is_mergeable_type(old.info.dtype) else tensor.info.dtype
        made.tensors[target] = replace(cast_to(tensor, plain), alias=None)
        made.replaced.append(target)


def _name_in_base(inner: str, prefix: str, tensors: Mapping[str, LazyTensor]) -> str:
    """The base's name for a tensor of the adapter."""
    plain = plain_module(inner)
    if plain in tensors or not prefix:
        return plain
    moved = plain.removeprefix(prefix[1:]) if prefix.startswith("-") else prefix + plain
    return moved if moved in tensors else plain
