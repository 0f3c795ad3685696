"""Adds noise to a network that runs in float64, where the arithmetic of a narrower type would round.

Noise is added after every layer with weights, and after functions that runtimes round differently. Functions that only
move or select numbers, or round once, such as a sum of two, get none. In units of u / sqrt(3):

    products          sqrt(n) * (|W| |x| + |b|)
    norms             what cancels if the mean is larger than the remainder, plus three times the result
    gelu, silu, mish  3 |x|: a gate, which is near 1 or near 0, has the error of 1
    sigmoid           1: approximations have this error near 0, too
    log_softmax       3 (|x| + |result| + 1)
    means of a window sqrt(n), but at least 3, times the mean of |x|
    others            3 times the result, for norms the largest of its row

Functions are caught by a torch function mode, which sees every call: a forward method that calls them has no module for
them.
"""

from __future__ import annotations

from contextlib import contextmanager
from itertools import chain
from math import prod, sqrt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch

_GATED = frozenset(("gelu", "silu", "mish"))
_SMOOTH = frozenset(("tanh", "softmax", "elu", "selu", "celu", "softplus"))
_NORMS = frozenset(("layer_norm", "group_norm", "rms_norm"))
_MEANS = frozenset(f"{kind}avg_pool{axes}d" for kind in ("", "adaptive_") for axes in (1, 2, 3))


@contextmanager
def noisy(module: torch.nn.Module, unit: float) -> Iterator[int]:
    """A context in which runs of `module` have noise, the same each time. Gives the number of layers with weights."""
    import torch
    from torch.overrides import TorchFunctionMode

    noise = _Noise(unit, torch.Generator().manual_seed(0))

    class Functions(TorchFunctionMode):
        """Adds noise to the results of functions."""

        def __torch_function__(
            self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            return noise.after_function(func, args, kwargs or {}, result)

    hooks = [layer.register_forward_hook(noise) for layer in module.modules() if _has_weights(layer)]
    try:
        with Functions():
            yield len(hooks)
    finally:
        for hook in hooks:
            hook.remove()


def _has_weights(layer: torch.nn.Module) -> bool:
    held = chain(layer.parameters(recurse=False), layer.buffers(recurse=False))
    return any(tensor.is_floating_point() for tensor in held)


class _Noise:
    """A forward hook that adds noise in place of rounding errors, and the same for functions."""

    def __init__(self, unit: float, generator: torch.Generator) -> None:
        self.unit, self.generator = unit, generator

    def __call__(self, layer: torch.nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        import torch

        if isinstance(output, tuple):
            return (self._noisy(output[0], output[0].abs()), *output[1:])
        if not isinstance(output, torch.Tensor) or not output.is_floating_point():
            return output
        return self._noisy(output, self._size(layer, inputs, output))

    def after_function(
        self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any
    ) -> Any:
        """A function's result, with noise if the function rounds."""
        import torch

        if not isinstance(result, torch.Tensor) or not result.is_floating_point():
            return result
        size = _size_of(func, args, kwargs, result)
        return result if size is None else self._noisy(result, size)

    def _noisy(self, output: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        import torch

        drawn = torch.randn(output.shape, generator=self.generator, dtype=torch.float64).to(output.device)
        return output + self.unit / sqrt(3) * size * drawn

    def _size(self, layer: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        """sqrt(n) times the sum of the products' magnitudes; the output's own where there are no products."""
        import torch
        from torch import nn
        from torch.nn import functional

        match layer:
            case nn.Linear():
                bias = None if layer.bias is None else layer.bias.abs()
                return sqrt(layer.in_features) * functional.linear(inputs[0].abs(), layer.weight.abs(), bias)
            case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
                shift = None if layer.bias is None else layer.bias.abs()
                total: torch.Tensor = layer._conv_forward(inputs[0].abs(), layer.weight.abs(), shift)
                return sqrt(prod(layer.weight.shape[1:])) * total
            case nn.modules.batchnorm._BatchNorm():
                shape = [1, -1, *[1] * (inputs[0].dim() - 2)]
                mean, variance = layer.running_mean, layer.running_var
                if mean is None or variance is None:
                    return 3 * output.abs()
                scale = (variance + layer.eps).rsqrt()
                weight = torch.ones_like(scale) if layer.weight is None else layer.weight.abs()
                shift = torch.zeros_like(scale) if layer.bias is None else layer.bias.abs()
                moved = (inputs[0].abs() + mean.abs().view(shape)) * (scale * weight).view(shape)
                sized: torch.Tensor = 2 * (moved + shift.view(shape))
                return sized
            case nn.LayerNorm():
                axes = tuple(range(-len(layer.normalized_shape), 0))
                center = inputs[0].mean(axes, keepdim=True)
                steep = (inputs[0].var(axes, correction=0, keepdim=True) + layer.eps).rsqrt()
                near: torch.Tensor = 2 * (inputs[0].abs() + center.abs()) * steep
                row = 3 * output.abs().amax(dim=-1, keepdim=True)
                # onnxruntime has the variance as the difference of two squares
                cancelled: torch.Tensor = row * (1 + (center * steep) ** 2)
                return cancelled + (near if layer.weight is None else near * layer.weight.abs())
            case nn.Embedding():
                return torch.zeros_like(output)  # nothing is computed
        return 3 * output.abs().amax(dim=-1, keepdim=True).expand_as(output) if output.dim() else output.abs()


def _size_of(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], result: torch.Tensor
) -> torch.Tensor | None:
    """As in the module's table; None for a function that is not in it, or whose layer adds the noise."""
    import torch

    name = getattr(func, "__name__", "")
    if name == "sigmoid":
        return torch.ones_like(result)
    if name in _SMOOTH:
        return 3 * result.abs()
    given = args[0] if args else kwargs.get("input")
    if not isinstance(given, torch.Tensor):
        return None
    x: torch.Tensor = given
    if name in _GATED:
        return 3 * x.abs()
    if name == "log_softmax":
        return 3 * (x.abs() + result.abs() + 1)
    if name in _MEANS:
        mean: torch.Tensor = func(x.abs(), *args[1:], **{key: kwargs[key] for key in kwargs if key != "input"})
        return max(3.0, sqrt(x.numel() / max(result.numel(), 1))) * mean
    if name in _NORMS and not any(isinstance(other, torch.Tensor) for other in (*args[1:], *kwargs.values())):
        return 3 * result.abs().amax(dim=-1, keepdim=True).expand_as(result)
    return None
