"""Runs weights in a torch module: in eval mode, without gradients, with TF32 off and deterministic kernels."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from ckptconv.arch.weights import load_state, read_state
from ckptconv.checks.layers import traced
from ckptconv.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

    from ckptconv.arch.samples import InputSpec
    from ckptconv.checks.layers import Layers
    from ckptconv.core.arrays import Array, Arrays
    from ckptconv.core.tensor import LazyTensor


@dataclass
class TorchRunner:
    """A torch module with a checkpoint's weights."""

    label: str
    module: torch.nn.Module
    inputs: Sequence[InputSpec]
    device: str = "cpu"
    runtime: str = "torch"

    @property
    def dtype(self) -> torch.dtype:
        """The type of its first floating parameter or buffer; float32 if it has none."""
        import torch

        return next(iter(float_types(self.module)), torch.float32)

    @property
    def unit(self) -> str:
        """See `Runner.unit`."""
        return str(self.dtype).removeprefix("torch.")

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """See `Runner.run`. Raises RunError if the module raises."""
        return {name: _numpy(value) for name, value in flat(self._call(feeds)).items()}

    def trace(self, feeds: Mapping[str, Array]) -> Layers:
        """See `Runner.trace`. Raises RunError if the module raises."""
        outputs = traced(self.module, lambda: self._call(feeds))
        return {name: _numpy(value) for name, value in outputs.items()}

    def _call(self, feeds: Mapping[str, Array]) -> Any:
        import torch

        positional, named = arguments(self.module, feeds, self.device, self.dtype)
        with exact(), torch.inference_mode():
            try:
                return self.module(*positional, **named)
            except Exception as error:
                raise RunError(self.label, error) from error


def float_types(module: torch.nn.Module) -> dict[torch.dtype, None]:
    """The floating types of the module's parameters and buffers, in order. A batch norm may have only buffers."""
    held = chain(module.parameters(), module.buffers())
    return dict.fromkeys(tensor.dtype for tensor in held if tensor.is_floating_point())


def arguments(
    module: torch.nn.Module, feeds: Mapping[str, Array], device: torch.device | str, dtype: torch.dtype
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """The arguments to call `module` with: by name if ``forward`` has all the names, else by position."""
    import inspect

    import torch

    values = {name: torch.from_numpy(array).to(device) for name, array in feeds.items()}
    values = {name: value.to(dtype) if value.is_floating_point() else value for name, value in values.items()}
    known = inspect.signature(module.forward).parameters
    return ([], values) if set(values) <= set(known) else (list(values.values()), {})


def flat(found: Any) -> dict[str, torch.Tensor]:
    """A module's outputs by name: its fields or keys, ``output`` for one tensor, else ``output_0``, ``output_1`` …."""
    import torch

    if isinstance(found, torch.Tensor):
        return {"output": found}
    items = found.items() if hasattr(found, "items") else [(f"output_{i}", v) for i, v in enumerate(found)]
    return {str(name): value for name, value in items if isinstance(value, torch.Tensor)}


def _numpy(value: torch.Tensor) -> Array:
    import torch

    value = value.detach().cpu()
    return (value.float() if value.dtype is torch.bfloat16 else value).numpy()


@contextmanager
def exact() -> Iterator[None]:
    """A context without TF32, and without algorithms that differ from run to run."""
    import torch

    cuda, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    deterministic, benchmark = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = cuda, cudnn
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = deterministic, benchmark


def load_weights(
    module: torch.nn.Module,
    tensors: Mapping[str, LazyTensor],
    label: str,
    device: str,
    to_held_form: Callable[[torch.nn.Module, dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
    *,
    hint: str = "",
) -> torch.nn.Module:
    """Load the tensors into contiguous parameters of the module, in eval mode. Tied names share one parameter.

    to_held_form: gives the tensors under the module's own names, if the file has others.
    hint:         what to do if they do not fit.

    Raises RunError.
    """
    try:
        state = read_state(tensors)
        load_state(module, state if to_held_form is None else to_held_form(module, state))
    except RuntimeError as error:
        raise RunError(label, error, hint=hint) from error
    return module.to(device).eval().requires_grad_(False)
