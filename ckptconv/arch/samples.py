"""Sample inputs for a network: from ``--input``, or from what the module itself shows.

``--input`` takes

    x:F32[N,3,224,224]      name, element type, dimensions; a word stands for a dimension of any size
    ids:I64[N,T]<50257      integers from 0 to below a limit
"""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ckptconv.arch.diffusers import is_diffusers_module
from ckptconv.core.dtypes import DTYPES, DType
from ckptconv.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

_SPEC = re.compile(r"(?:(?P<name>[A-Za-z_]\w*):)?(?P<dtype>\w+)\[(?P<dims>[^\]]*)\](?:<(?P<limit>[0-9]{1,18}))?")
_SIZES = (2, 6, 5, 7, 9, 11)
"""Sizes of free dimensions in a sample. They differ, so that none is mistaken for another; 1 would be special."""

EXAMPLE = "--input 'x:F32[N,3,224,224]'"


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a network.

    name:  the parameter of ``forward``; "" for a positional one.
    dims:  numbers, and names of free dimensions.
    limit: integers are below it; 0 for no limit.
    """

    name: str
    dtype: DType
    dims: tuple[int | str, ...]
    limit: int = 0

    def shape(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """The shape with sizes for its free dimensions; new ones are added to `sizes`."""
        return tuple(
            dim if isinstance(dim, int) else sizes.setdefault(dim, _SIZES[len(sizes) % len(_SIZES)])
            for dim in self.dims
        )

    def option(self, name: str) -> str:
        """The option that describes it, with its limit to be filled in; without its name if that is not a word."""
        dims = ",".join(
            str(dim) if isinstance(dim, int) or re.fullmatch(r"[A-Za-z_]\w*", dim) else f"N{axis}"
            for axis, dim in enumerate(self.dims)
        )
        limit = "<LIMIT" if self.dtype.kind in ("int", "uint") else ""
        start = f"{name}:" if re.fullmatch(r"[A-Za-z_]\w*", name) else ""
        return f"--input '{start}{self.dtype}[{dims}]{limit}'"


def parse_input(text: str) -> InputSpec:
    """Parse ``NAME:DTYPE[DIMS]<LIMIT``. Raises UsageError."""
    found = _SPEC.fullmatch(text.strip())
    hint = f"such as {EXAMPLE} or --input 'ids:I64[N,T]<50257'"
    if found is None:
        raise UsageError(f"{text!r} describes no input", hint=hint)
    dtype = DTYPES.get(found["dtype"])
    if dtype is None or dtype.kind not in ("float", "int", "uint", "bool"):
        raise UsageError(f"{text!r}: {found['dtype']!r} is not an element type of an input", hint=hint)
    words = [word.strip() for word in found["dims"].split(",")] if found["dims"].strip() else []
    if not all(re.fullmatch(r"[1-9]\d{0,8}|[A-Za-z_]\w*", word) for word in words):
        raise UsageError(f"{text!r}: a dimension is a number from 1 on, or a word", hint=hint)
    dims = tuple(int(word) if word.isdigit() else word for word in words)
    return InputSpec(found["name"] or "", dtype, dims, int(found["limit"] or 0))


def narrowest(inputs: Sequence[Sequence[InputSpec]]) -> list[InputSpec]:
    """The inputs that all of these networks take: the first one's, with free sizes as others fix them."""
    specs = list(inputs[0])
    for others in inputs[1:]:
        if [len(spec.dims) for spec in specs] == [len(other.dims) for other in others]:
            specs = [_narrowed(spec, other) for spec, other in zip(specs, others, strict=True)]
    return specs


def _narrowed(spec: InputSpec, other: InputSpec) -> InputSpec:
    dims = zip(spec.dims, other.dims, strict=True)
    return replace(spec, dims=tuple(there if isinstance(here, str) else here for here, there in dims))


def sample(spec: InputSpec, sizes: dict[str, int], generator: torch.Generator) -> torch.Tensor:
    """A random tensor for the spec: normally distributed floats, uniform integers."""
    import torch

    from ckptconv.core.arrays import TORCH_NAMES

    shape, dtype = spec.shape(sizes), getattr(torch, TORCH_NAMES[spec.dtype])
    if spec.dtype.kind == "float":
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, spec.limit or 2, shape, generator=generator).to(dtype)


def shown_inputs(module: torch.nn.Module) -> list[InputSpec]:
    """The inputs that the module shows by its configuration or its first layer; [] if that is not enough.

    It is not for a model of diffusers, which takes several inputs, of sizes that only its pipeline knows.
    """
    from torch import nn

    if declared := _transformers_inputs(module):
        return declared
    if is_diffusers_module(module):
        return []
    for layer in module.modules():
        match layer:
            case nn.Embedding():
                return [InputSpec("", DType.I64, ("batch", "sequence"), layer.num_embeddings)]
            case nn.Linear():
                return [InputSpec("", DType.F32, ("batch", layer.in_features))]
            case _ if any(True for _ in layer.parameters(recurse=False)):
                return []
    return []


def how_described(module: torch.nn.Module | None) -> str:
    """A hint how to describe the inputs; for a model of diffusers, with its parameters."""
    if module is None or not is_diffusers_module(module):
        return f"describe it, such as {EXAMPLE}"
    parameters = inspect.signature(module.forward).parameters.values()
    names = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    return f"describe all that its class takes ({', '.join(names)}), each as in --input '{names[0]}:F32[N,16,32,32]'"


def _transformers_inputs(module: torch.nn.Module) -> list[InputSpec]:
    """The inputs of a model of transformers, which names its main one: tokens (also of a decoder), or images.

    Source: transformers/modeling_utils.py, ``PreTrainedModel.main_input_name``.
    """
    config: Any = getattr(module, "config", None)
    match getattr(module, "main_input_name", None):
        case "input_ids" if not hasattr(config, "vision_config"):
            words = getattr(module.get_input_embeddings(), "num_embeddings", None)  # type: ignore[operator]
            names = (
                ["input_ids", "decoder_input_ids"] if getattr(config, "is_encoder_decoder", False) else ["input_ids"]
            )
            dims = ("batch", "sequence")
            return [InputSpec(name, DType.I64, dims, words) for name in names] if isinstance(words, int) else []
        case "pixel_values":
            seen = getattr(config, "vision_config", config)
            size, channels = getattr(seen, "image_size", None), getattr(seen, "num_channels", None)
            sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
            if all(isinstance(side, int) for side in (channels, *sides)):
                return [InputSpec("pixel_values", DType.F32, ("batch", channels, *sides))]  # type: ignore[arg-type]
    return []


def example_inputs(module: torch.nn.Module) -> Sequence[torch.Tensor] | None:
    """The module's own ``example_inputs``: a tensor or a tuple of them; None if it has none."""
    import torch

    found = getattr(module, "example_inputs", None)
    found = found() if callable(found) else found
    if isinstance(found, torch.Tensor):
        return (found,)
    if isinstance(found, tuple | list) and found and all(isinstance(one, torch.Tensor) for one in found):
        return tuple(found)
    return None
