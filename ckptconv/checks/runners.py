"""What runs a checkpoint: its graph in onnxruntime, or its weights in a torch module.

A runner takes arrays by input name and gives arrays by output name. Torch runs in eval mode, without gradients, with
TF32 off and deterministic kernels; onnxruntime with all of its optimisations, as it is deployed.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from ckptconv.arch.samples import InputSpec
from ckptconv.arch.weights import load_state, read_state
from ckptconv.checks.layers import scope_outputs, traced
from ckptconv.core.dtypes import DType
from ckptconv.errors import MissingExtraError, RunError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    import torch

    from ckptconv.checks.layers import Layers
    from ckptconv.core.arrays import Arrays
    from ckptconv.core.tensor import LazyTensor

_UNITS = {
    "tensor(bfloat16)": "bfloat16", "tensor(float16)": "float16", "tensor(float)": "float32",
    "tensor(double)": "float64",
}  # fmt: skip
"""Narrowest first."""

_NO_KERNEL = re.compile(r"NOT_IMPLEMENTED.*?Could not find an implementation for (\S+\(\d+\))", re.DOTALL)

_ONNX_TYPES = {
    "tensor(float)": DType.F32, "tensor(float16)": DType.F16, "tensor(double)": DType.F64, "tensor(int64)": DType.I64,
    "tensor(int32)": DType.I32, "tensor(bool)": DType.BOOL, "tensor(uint8)": DType.U8, "tensor(int8)": DType.I8,
}  # fmt: skip


class Runner(Protocol):
    """Something that computes outputs.

    unit: of what it computes in, a key of `rounding.UNIT`.
    """

    label: str
    runtime: str

    @property
    def unit(self) -> str: ...

    @property
    def inputs(self) -> Sequence[InputSpec]:
        """What it takes, in order."""
        ...

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """The outputs by name. `feeds` has the inputs in order; their names need not be this runner's."""
        ...

    def trace(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Layers:
        """What every layer gives. Memory: that of all of it."""
        ...


def check_device(device: str) -> None:
    """Raise MissingExtraError without torch, UsageError where the device is not there."""
    from ckptconv.core.device import torch_device

    torch_device(device)


def machine(device: str, runtime: str) -> str:
    """What two runs must have in common for their bits to be equal."""
    import torch

    if runtime != "torch":
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"
    if device != "cpu":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name(device)}"
    return f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


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

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """As `Runner.run`. Raises RunError where the module does."""
        return {name: _numpy(value) for name, value in flat(self._call(feeds)).items()}

    def trace(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Layers:
        """As `Runner.trace`. Raises RunError where the module does."""
        found = traced(self.module, lambda: self._call(feeds))
        return {name: _numpy(value) for name, value in found.items()}

    def _call(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Any:
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
    module: torch.nn.Module, feeds: Mapping[str, np.ndarray[Any, Any]], device: torch.device | str, dtype: torch.dtype
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
    module: torch.nn.Module,
    tensors: Mapping[str, LazyTensor],
    label: str,
    device: str,
    turned: Callable[[torch.nn.Module, dict[str, torch.Tensor]], dict[str, torch.Tensor]] | None = None,
) -> torch.nn.Module:
    """The module with the tensors in contiguous parameters of its own, in eval mode. Raises RunError.

    `turned` gives the tensors under the module's own names where the file has others. Tied names keep sharing one
    parameter.
    """
    try:
        state = read_state(tensors)
        load_state(module, state if turned is None else turned(module, state))
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
        self._provider = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[device]
        if self._provider not in onnxruntime.get_available_providers():
            raise UsageError(
                f"this onnxruntime has no {self._provider}", hint="--device cpu, or install onnxruntime-gpu"
            )
        self.path, self.label = path, label
        self._session = self._opened(path)
        self.inputs = [_spec(value) for value in self._session.get_inputs()]
        self._outputs = [value.name for value in self._session.get_outputs()]

    def _opened(self, model: Path | bytes) -> Any:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4  # what goes wrong is raised
        if isinstance(model, bytes):
            folder = str(self.path.absolute().parent)
            settings.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
            # fusions would take the layers' outputs away again; onnxruntime 1.32 even crashes on some of F16
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            return onnxruntime.InferenceSession(model, settings, providers=[self._provider])
        except Exception as error:
            raise RunError(self.label, error, lacks=_lacking(error, self._provider)) from error

    @property
    def unit(self) -> str:
        """As `Runner.unit`: of the narrowest type that goes in or comes out."""
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        types = {value.type for value in values if value.type in _UNITS}
        return next((unit for kind, unit in _UNITS.items() if kind in types), "float32")

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Arrays:
        """As `Runner.run`. Raises RunError."""
        found = zip(self._outputs, self._run(self._session, None, feeds), strict=True)
        return {name: array for output, value in found for name, array in _as_arrays(output, value)}

    def trace(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> Layers:
        """As `Runner.trace`: a copy of the graph is run whose layers' outputs are outputs of it. Raises RunError."""
        import numpy as np
        import onnx

        model = onnx.load(self.path, load_external_data=False)
        layers = scope_outputs(model.graph)
        wanted = list(dict.fromkeys(layers.values()))
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in self._outputs)
        session = self._opened(model.SerializeToString())
        found = dict(zip(wanted, self._run(session, wanted, feeds), strict=True)) if wanted else {}
        arrays = {layer: found[name] for layer, name in layers.items()}
        return {
            layer: array for layer, array in arrays.items() if isinstance(array, np.ndarray) and array.dtype.kind == "f"
        }

    def _run(self, session: Any, names: list[str] | None, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[Any]:
        from ckptconv.core.arrays import numpy_dtype

        by_name = set(feeds) == {spec.name for spec in self.inputs}
        arrays = [feeds[spec.name] for spec in self.inputs] if by_name else list(feeds.values())
        if len(arrays) != len(self.inputs):
            raise RunError(self.label, ValueError(f"it takes {len(self.inputs)} inputs, and {len(arrays)} are given"))
        named = {
            spec.name: array.astype(numpy_dtype(spec.dtype), copy=False)
            for spec, array in zip(self.inputs, arrays, strict=True)
        }
        try:
            found: list[Any] = session.run(names, named)
        except Exception as error:
            raise RunError(self.label, error, lacks=_lacking(error, self._provider)) from error
        return found


def _as_arrays(name: str, value: Any) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """An output as arrays: of a sequence each of its values, of maps (the classes' probabilities) a row for each."""
    import numpy as np

    if isinstance(value, np.ndarray):
        yield name, value.astype(str) if value.dtype.kind == "O" else value
    elif isinstance(value, dict):
        yield name, np.array(list(value.values()))
    elif isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        keys = list(dict.fromkeys(key for row in value for key in row))
        yield name, np.array([[row.get(key, np.nan) for key in keys] for row in value])
    elif isinstance(value, list):
        for position, inner in enumerate(value):
            yield from _as_arrays(f"{name}_{position}", inner)


def _lacking(error: Exception, provider: str) -> str:
    """The operator for which the provider has no kernel, if that is what onnxruntime says; else ""."""
    found = _NO_KERNEL.search(str(error))
    return f"onnxruntime's {provider} has no kernel for {found[1]}" if found else ""


def _spec(value: Any) -> InputSpec:
    dtype = _ONNX_TYPES.get(value.type)
    if dtype is None:
        raise UnsupportedError(
            f"the input {value.name!r} is a {value.type}", hint="only tensors of numbers are made up"
        )
    dims = tuple(dim if isinstance(dim, int) else str(dim or f"{value.name}_{i}") for i, dim in enumerate(value.shape))
    return InputSpec(value.name, dtype, dims)
