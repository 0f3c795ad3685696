"""What runs a checkpoint: its graph in onnxruntime, or its weights in a torch module.

A runner takes arrays by input name and gives arrays by output name. Torch runs in eval mode, without gradients, with
TF32 off and deterministic kernels; onnxruntime with all of its optimisations, as it is deployed.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ckptconv.arch.samples import InputSpec
from ckptconv.core.dtypes import DType
from ckptconv.errors import MissingExtraError, RunError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import torch

    from ckptconv.core.tensor import LazyTensor

Arrays = dict[str, "np.ndarray[Any, Any]"]

_ONNX_TYPES = {
    "tensor(float)": DType.F32, "tensor(float16)": DType.F16, "tensor(double)": DType.F64, "tensor(int64)": DType.I64,
    "tensor(int32)": DType.I32, "tensor(bool)": DType.BOOL, "tensor(uint8)": DType.U8, "tensor(int8)": DType.I8,
}  # fmt: skip


class Runner(Protocol):
    """Something that computes outputs."""

    label: str
    runtime: str

    @property
    def inputs(self) -> Sequence[InputSpec]:
        """What it takes, in order."""
        ...

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """The outputs by name. `feeds` has the inputs in order; their names need not be this runner's."""
        ...


def check_device(device: str) -> None:
    """Raise MissingExtraError without torch, UsageError where the device is not there."""
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError("torch", "verify") from error
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("torch finds no CUDA device here", hint="--device cpu")


@dataclass
class TorchRunner:
    """A torch module with a checkpoint's weights."""

    label: str
    module: torch.nn.Module
    inputs: Sequence[InputSpec]
    device: str = "cpu"
    runtime: str = "torch"

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """As `Runner.run`. Raises RunError where the module does."""
        import torch

        values = [torch.from_numpy(array).to(self.device) for array in feeds.values()]
        dtype = next((p.dtype for p in self.module.parameters() if p.is_floating_point()), torch.float32)
        values = [value.to(dtype) if value.is_floating_point() else value for value in values]
        named = {spec.name: value for spec, value in zip(self.inputs, values, strict=False) if spec.name}
        positional = values if len(named) < len(values) else []
        with exact(), torch.inference_mode():
            try:
                found = self.module(*positional, **({} if positional else named))
            except Exception as error:
                raise RunError(self.label, error) from error
        return {name: _numpy(value) for name, value in flat(found).items()}


def flat(found: Any) -> dict[str, torch.Tensor]:
    """A module's outputs by name: its fields or keys, else ``output``, ``output_1`` …."""
    import torch

    if isinstance(found, torch.Tensor):
        return {"output": found}
    items = found.items() if hasattr(found, "items") else [(f"output_{i}", v) for i, v in enumerate(found)]
    return {str(name): value for name, value in items if isinstance(value, torch.Tensor)}


def _numpy(value: torch.Tensor) -> np.ndarray[Any, Any]:
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
    module: torch.nn.Module, tensors: Mapping[str, LazyTensor], label: str, device: str
) -> torch.nn.Module:
    """The module with the tensors in contiguous parameters of its own, in eval mode. Raises RunError.

    Tied names keep sharing one parameter. ``num_batches_tracked`` may be absent: evaluation does not use it.
    """
    shared: dict[object, torch.Tensor] = {}
    state: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        key = name if tensor.alias is None else tensor.alias
        if key not in shared:
            shared[key] = tensor.to_torch().contiguous()
        state[name] = shared[key]
    for name, value in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, value.new_zeros(value.shape, device="cpu"))
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise RunError(label, error) from error
    return module.to(device).eval().requires_grad_(False)


class OnnxRunner:
    """A graph in onnxruntime."""

    runtime = "onnxruntime"

    def __init__(self, path: Path, label: str, device: str = "cpu") -> None:
        """Load the graph. Raises MissingExtraError, UsageError where the device is not there, RunError."""
        try:
            import onnxruntime
        except ModuleNotFoundError as error:
            raise MissingExtraError("onnxruntime", "verify") from error
        provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
        if provider not in onnxruntime.get_available_providers():
            raise UsageError(f"this onnxruntime has no {provider}", hint="--device cpu, or install onnxruntime-gpu")
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 3
        self.label = label
        try:
            self._session = onnxruntime.InferenceSession(path, settings, providers=[provider])
        except Exception as error:
            raise RunError(label, error) from error
        self.inputs = [_spec(value) for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """As `Runner.run`. Raises RunError."""
        from ckptconv.core.arrays import numpy_dtype

        named = {
            spec.name: array.astype(numpy_dtype(spec.dtype), copy=False)
            for spec, array in zip(self.inputs, feeds.values(), strict=True)
        }
        try:
            found = self._session.run(None, named)
        except Exception as error:
            raise RunError(self.label, error) from error
        return dict(zip(self._outputs, found, strict=True))


def _spec(value: Any) -> InputSpec:
    dtype = _ONNX_TYPES.get(value.type)
    if dtype is None:
        raise UnsupportedError(
            f"the input {value.name!r} is a {value.type}", hint="only tensors of numbers are made up"
        )
    dims = tuple(dim if isinstance(dim, int) else str(dim or f"{value.name}_{i}") for i, dim in enumerate(value.shape))
    return InputSpec(value.name, dtype, dims)
