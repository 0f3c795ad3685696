"""Runs a graph in onnxruntime with all optimisations, as it would be deployed."""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ckptconv.arch.samples import InputSpec
from ckptconv.checks.layers import scope_outputs
from ckptconv.core.dtypes import DType
from ckptconv.errors import MissingExtraError, RunError, UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from ckptconv.checks.layers import Layers
    from ckptconv.core.arrays import Array, Arrays

_UNITS = {
    "tensor(bfloat16)": "bfloat16", "tensor(float16)": "float16", "tensor(float)": "float32",
    "tensor(double)": "float64",
}  # fmt: skip
"""The keys of `rounding.UNIT` by onnxruntime's types, narrowest first."""

_NO_KERNEL = re.compile(r"NOT_IMPLEMENTED.*?Could not find an implementation for (\S+\(\d+\))", re.DOTALL)

_SECONDS = 0.5
"""How long Ctrl-C may have to wait on Windows."""

_ONNX_TYPES = {
    "tensor(float)": DType.F32, "tensor(float16)": DType.F16, "tensor(double)": DType.F64, "tensor(int64)": DType.I64,
    "tensor(int32)": DType.I32, "tensor(bool)": DType.BOOL, "tensor(uint8)": DType.U8, "tensor(int8)": DType.I8,
}  # fmt: skip


class OnnxRunner:
    """A graph in onnxruntime."""

    runtime = "onnxruntime"

    def __init__(self, path: Path, label: str, device: str = "cpu") -> None:
        """Keep the path. The graph is loaded when it is needed, which may raise RunError.

        Raises MissingExtraError, and UsageError if the device does not exist.
        """
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

    @cached_property
    def _session(self) -> Any:
        return self._open_session(self.path)

    @property
    def inputs(self) -> list[InputSpec]:
        """See `Runner.inputs`."""
        return _inputs(self._session)

    def _open_session(self, model: Path | bytes) -> Any:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = 4  # errors are raised anyway
        if isinstance(model, bytes):
            folder = str(self.path.absolute().parent)
            settings.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
            # fusions would remove the layers' outputs again; onnxruntime 1.32 even crashes on some in F16
            settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        try:
            return onnxruntime.InferenceSession(model, settings, providers=[self._provider])
        except Exception as error:
            raise RunError(self.label, error, lacks=_missing_kernel(error, self._provider)) from error

    @property
    def unit(self) -> str:
        """See `Runner.unit`: the narrowest type of its inputs and outputs."""
        values = [*self._session.get_inputs(), *self._session.get_outputs()]
        types = {value.type for value in values if value.type in _UNITS}
        return next((unit for kind, unit in _UNITS.items() if kind in types), "float32")

    def run(self, feeds: Mapping[str, Array]) -> Arrays:
        """See `Runner.run`. Raises RunError."""
        names = [value.name for value in self._session.get_outputs()]
        found = zip(names, self._run(self._session, names, feeds), strict=True)
        return {name: array for output, value in found for name, array in _as_arrays(output, value)}

    def trace(self, feeds: Mapping[str, Array]) -> Layers:
        """See `Runner.trace`. Runs a copy of the graph that also outputs its layers' outputs. Raises RunError."""
        import numpy as np
        import onnx

        model = onnx.load(self.path, load_external_data=False)
        layers = scope_outputs(model.graph)
        wanted = list(dict.fromkeys(layers.values()))
        existing = {value.name for value in model.graph.output}
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in existing)
        serialized = model.SerializeToString()
        del model  # saves a copy of the weights while the session runs
        session = self._open_session(serialized)
        outputs = dict(zip(wanted, self._run(session, wanted, feeds), strict=True)) if wanted else {}
        arrays = {layer: outputs[name] for layer, name in layers.items()}
        return {
            layer: array for layer, array in arrays.items() if isinstance(array, np.ndarray) and array.dtype.kind == "f"
        }

    def _run(self, session: Any, names: list[str], feeds: Mapping[str, Array]) -> list[Any]:
        from ckptconv.core.arrays import numpy_dtype

        inputs = _inputs(session)
        by_name = set(feeds) == {spec.name for spec in inputs}
        arrays = [feeds[spec.name] for spec in inputs] if by_name else list(feeds.values())
        if len(arrays) != len(inputs):
            raise RunError(self.label, ValueError(f"it takes {len(inputs)} inputs, and {len(arrays)} are given"))
        named = {
            spec.name: array.astype(numpy_dtype(spec.dtype), copy=False)
            for spec, array in zip(inputs, arrays, strict=True)
        }
        for spec, given in zip(self.inputs, feeds, strict=True):
            if not _accepts(spec, named[spec.name].shape):
                raise self._shape_error(spec, named[spec.name].shape, given)
        try:
            found = _run_interruptibly(session, names, named)
        except Exception as error:
            raise RunError(self.label, error, lacks=_missing_kernel(error, self._provider)) from error
        return found

    def _shape_error(self, spec: InputSpec, shape: tuple[int, ...], given: str) -> RunError:
        """The error if the graph takes other sizes, such as a batch size that its exporter fixed."""
        dims = ", ".join(map(str, spec.dims))
        why = f"its input {spec.name!r} is [{dims}], and {list(shape)} goes in"
        hint = f"what the graph takes is described by: {spec.option(given)}"
        return RunError(self.label, ValueError(why), hint=hint)


def _run_interruptibly(session: Any, names: list[str], feeds: Arrays) -> list[Any]:
    """Run a graph in a thread of its own, so that Ctrl-C stops it before its next operator.

    Python raises KeyboardInterrupt only between two of its own steps, and a run, of a loop without an end too, is one.
    The wait is in pieces, since on Windows a signal does not end it.
    """
    from concurrent.futures import ThreadPoolExecutor, wait

    import onnxruntime

    options = onnxruntime.RunOptions()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(session.run, names, feeds, options)
        try:
            while not wait([running], _SECONDS).done:
                pass
        except BaseException:
            options.terminate = True
            raise
        found: list[Any] = running.result()
        return found


def _accepts(spec: InputSpec, shape: tuple[int, ...]) -> bool:
    return len(spec.dims) == len(shape) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(spec.dims, shape, strict=True)
    )


def _as_arrays(name: str, value: Any) -> Iterator[tuple[str, Array]]:
    """An output as arrays: each value of a sequence; for maps, such as probabilities by class, a row for each map."""
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


def _inputs(session: Any) -> list[InputSpec]:
    return [_spec(value) for value in session.get_inputs()]


def _missing_kernel(error: Exception, provider: str) -> str:
    """What to report if onnxruntime says that the provider has no kernel for an operator; else ""."""
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
