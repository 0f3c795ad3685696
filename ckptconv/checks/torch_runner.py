"""Weights in a torch module: in eval mode, without gradients, with TF32 off and deterministic kernels."""

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
        """Of its first parameter or buffer; float32 where it has none."""
        import torch

        return next(iter(float_types(self.module)), torch.float32)

    @property
    def unit(self) -> str:
        """As `Runner.unit`."""
        return str(self.dtype).removeprefix("torch.")

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """As `Runner.run`. Raises RunError where the module does."""
        return {name: _numpy(value) for name, value in flat(self._call(feeds)).items()}

    def trace(self, feeds: Mapping[str, Array]) -> Layers:
        """As `Runner.trace`. Raises RunError where the module does."""
        found = traced(self.module, lambda: self._call(feeds))
        return {name: _numpy(value) for name, value in found.items()}

    def _call(self, feeds: Mapping[str, Array]) -> Any:
        import torch

        positional, named = arguments(self.module, feeds, self.device, self.dtype)
        with exact(), torch.inference_mode():
            try:
                return self.module(*positional, **named)
            except Exception as error:
                raise RunError(self.label, error) from error


def float_types(module: torch.nn.Module) -> dict[torch.dtype, None]:
    """The floating types of its parameters and buffers, in order; a batch norm may have buffers alone."""
    held = chain(module.parameters(), module.buffers())
    return dict.fromkeys(tensor.dtype for tensor in held if tensor.is_floating_point())


def arguments(
    module: torch.nn.Module, feeds: Mapping[str, Array], device: torch.device | str, dtype: torch.dtype
) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """What `module` is called with: by name where ``forward`` knows all the names, else by position."""
    import inspect

    import torch

    values = {name: torch.from_numpy(array).to(device) for name, array in feeds.items()}
    values = {name: value.to(dtype) if value.is_floating_point() else value for name, value in values.items()}
    known = inspect.signature(module.forward).parameters
    return ([], values) if set(values) <= set(known) else (list(values.values()), {})


def flat(found: Any) -> dict[str, torch.Tensor]:
    """A module's outputs by name: its fields or keys, else ``output``, ``output_1`` …."""
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
    """Without TF32 and without algorithms that differ from run to run."""
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
    turned: Callable[[torch.nn.Module, dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
    *,
    hint: str = "",
) -> torch.nn.Module:
    """The module with the tensors in contiguous parameters of its own, in eval mode. Raises RunError.

    `turned` gives the tensors under the module's own names where the file has others; `hint` says what to do where they
    do not fit. Tied names keep sharing one
    parameter.
    """
    try:
        state = read_state(tensors)
        load_state(module, state if turned is None else turned(module, state))
    except RuntimeError as error:
        raise RunError(label, error, hint=hint) from error
    return module.to(device).eval().requires_grad_(False)
