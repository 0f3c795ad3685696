"""Exports a torch module as an ONNX graph, by torch's own exporter.

Parameters and buffers of the ``state_dict`` become initializers of those names, without data; other constants stay in
the graph. Needs torch and onnxscript. Takes the memory of the whole model, which the exporter runs on sample inputs.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from typing import TYPE_CHECKING, Any

from ckptconv.arch.factory import exception_text
from ckptconv.arch.samples import EXAMPLE, InputSpec, example_inputs, how_described, sample, shown_inputs
from ckptconv.arch.weights import load_state, read_state, tied_in
from ckptconv.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from onnx import GraphProto, ModelProto

    from ckptconv.core.tensor import LazyTensor

SEED = 0

KEPT_PROPERTIES = ("pkg.torch.onnx.class_hierarchy", "pkg.torch.onnx.name_scopes")
"""The exporter's notes on nodes that are kept: where a node is in the model.

Stack traces name files of this machine.
"""


def export_module(
    module: torch.nn.Module,
    tensors: Mapping[str, LazyTensor],
    inputs: Sequence[InputSpec],
    *,
    same: Mapping[str, str],
    name: str,
    opset: int,
) -> tuple[ModelProto, list[str]]:
    """The module, with the checkpoint's `tensors` loaded, as an ONNX model with initializers named as in the
    state_dict.

    same:   tied names → the name under which their tensor is stored.
    inputs: of ``forward``; if empty, what the module shows (`example_inputs`, or its first layer).
    name:   what messages call the module.

    Returns the model, and the names of the initializers that are the state_dict's, which have no data. Raises
    UsageError if no inputs are known, or if loading, running or exporting the module fails.
    """

    try:
        import onnxscript  # noqa: F401  (the exporter's own)
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnxscript", "verify") from error
    module = module.eval().requires_grad_(False)
    same = {**same, **tied_in(module, tensors.keys())}
    _load(module, tensors, name)
    stored = _widen(module)
    model = _export(module, inputs, name, opset)
    _drop_machine_notes(model)
    _name_dimensions(model, inputs or shown_inputs(module))
    _share_tied(model, same)
    _store_as_bf16(model, stored)
    return model, _drop_data(model, module)


def _export(module: torch.nn.Module, inputs: Sequence[InputSpec], name: str, opset: int) -> ModelProto:
    """The model that torch's exporter makes. Raises UsageError if the module does not run, or cannot be exported."""
    import torch

    arguments, keywords, shapes = _sample_inputs(module, inputs, name)
    try:
        with torch.inference_mode():
            module(*arguments, **keywords)
    except Exception as error:
        raise UsageError(
            f"{name} does not run on its sample inputs: {exception_text(error)}",
            hint=f"describe them, such as {EXAMPLE}",
        ) from error
    try:
        with _silent():
            result = torch.onnx.export(
                module, arguments, kwargs=keywords, dynamo=True, dynamic_shapes=shapes, optimize=False,
                opset_version=opset, external_data=False, verbose=False,
            )  # fmt: skip
    except Exception as error:
        raise UsageError(
            f"torch cannot export {name}: {_last_line(error)}", hint="the error's cause is shown by --debug"
        ) from error
    assert result is not None
    return result.model_proto


def _load(module: torch.nn.Module, tensors: Mapping[str, LazyTensor], name: str) -> None:
    try:
        load_state(module, read_state(tensors))
    except RuntimeError as error:
        raise UsageError(
            f"{name} does not take these tensors: {_last_line(error)}", hint="ckptconv validate --arch says more"
        ) from error


def _widen(module: torch.nn.Module) -> set[str]:
    """Let a module with BF16 weights compute in F32, as our own graphs do: onnxruntime's CPU kernels lack BF16.

    Returns the names of tensors that are BF16, which are to be stored as such.
    """
    import torch

    stored = {name for name, value in module.state_dict().items() if value.dtype is torch.bfloat16}
    if stored:
        module.float()
    return stored


def _store_as_bf16(model: ModelProto, stored: set[str]) -> None:
    """Store these initializers as BF16, with a Cast behind each."""
    from onnx import TensorProto, helper

    graph = model.graph
    names = {tensor.name: f"{tensor.name}_cast" for tensor in graph.initializer if tensor.name in stored}
    if not names:
        return
    for tensor in graph.initializer:
        if tensor.name in names:
            tensor.data_type = TensorProto.BFLOAT16
    for values in (graph.input, graph.value_info):  # the types that these state are no longer true
        for value in [value for value in values if value.name in names]:
            values.remove(value)
    _rename_inputs(graph, names)
    nodes = [
        helper.make_node("Cast", [name], [result], name=f"/{name}/Cast", to=TensorProto.FLOAT)
        for name, result in names.items()
    ]
    nodes += list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)


def _sample_inputs(
    module: torch.nn.Module, inputs: Sequence[InputSpec], name: str
) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor], Any]:
    """Positional and named sample inputs, and their free dimensions in the form that torch.export takes."""
    import torch

    generator = torch.Generator().manual_seed(SEED)
    own = None if inputs else example_inputs(module)
    if own is not None:
        return tuple(own), {}, None
    chosen = inputs or shown_inputs(module)
    if not chosen:
        raise UsageError(f"nothing says what {name} takes as input", hint=how_described(module))
    sizes: dict[str, int] = {}
    floats = {parameter.dtype for parameter in module.parameters() if parameter.is_floating_point()}
    positional: list[torch.Tensor] = []
    named: dict[str, torch.Tensor] = {}
    free: dict[str, Any] = {
        dim: torch.export.Dim.DYNAMIC for spec in chosen for dim in spec.dims if isinstance(dim, str)
    }
    rows: list[dict[int, Any]] = []
    for spec in chosen:
        value = sample(spec, sizes, generator)
        if not inputs and value.is_floating_point() and len(floats) == 1:
            value = value.to(floats.pop())
        rows.append({axis: free[dim] for axis, dim in enumerate(spec.dims) if isinstance(dim, str)})
        if spec.name:
            named[spec.name] = value
        else:
            positional.append(value)
    positions = [row for spec, row in zip(chosen, rows, strict=True) if not spec.name]
    names = {spec.name: row for spec, row in zip(chosen, rows, strict=True) if spec.name}
    shapes = _by_parameter(module, positions, names) if names else tuple(positions)
    return tuple(positional), named, shapes


def _by_parameter(module: torch.nn.Module, positions: list[dict[int, Any]], names: dict[str, dict[int, Any]]) -> Any:
    """Free dimensions by the names of ``forward``'s parameters, as torch.export takes them."""
    import inspect

    parameters = list(inspect.signature(module.forward).parameters)
    return {**dict(zip(parameters, positions, strict=False)), **names}


def _drop_machine_notes(model: ModelProto) -> None:
    """Drop the exporter's notes of where the code is on this machine."""
    graph = model.graph
    for messages in (graph.node, graph.value_info, graph.initializer, graph.input, graph.output):
        for message in messages:
            kept = [pair for pair in message.metadata_props if pair.key in KEPT_PROPERTIES]
            del message.metadata_props[:]
            message.metadata_props.extend(kept)


def _name_dimensions(model: ModelProto, inputs: Sequence[InputSpec]) -> None:
    """Give free dimensions the user's names; the exporter numbers them."""
    graph = model.graph
    names: dict[str, str] = {}
    for position, spec in enumerate(inputs):
        value = next((candidate for candidate in graph.input if candidate.name == spec.name), None)
        if value is None and position < len(graph.input):
            value = graph.input[position]
        if value is not None:
            for dim, name in zip(value.type.tensor_type.shape.dim, spec.dims, strict=False):
                if dim.dim_param and isinstance(name, str):
                    names.setdefault(dim.dim_param, name)
    for values in (graph.input, graph.output, graph.value_info):
        for value in values:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in names:
                    dim.dim_param = names[dim.dim_param]


def _share_tied(model: ModelProto, same: Mapping[str, str]) -> None:
    """Make tied names one initializer, under the name whose tensor is stored."""
    merged = {tensor.name: same[tensor.name] for tensor in model.graph.initializer if tensor.name in same}
    if not merged:
        return
    _rename_inputs(model.graph, merged)
    left = {merged.get(tensor.name, tensor.name): tensor for tensor in model.graph.initializer}
    for name, tensor in left.items():
        tensor.name = name
    kept = list(left.values())
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def _rename_inputs(graph: GraphProto, names: Mapping[str, str]) -> None:
    for node in graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = names.get(name, name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename_inputs(attribute.g, names)
            for inner in attribute.graphs:
                _rename_inputs(inner, names)


def _drop_data(model: ModelProto, module: torch.nn.Module) -> list[str]:
    """Remove the data of the initializers that are in the state_dict. Returns their names."""
    state = module.state_dict(keep_vars=True)
    emptied = [tensor for tensor in model.graph.initializer if tensor.name in state]
    for tensor in emptied:
        for data_field in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(data_field)
    return [tensor.name for tensor in emptied]


@contextlib.contextmanager
def _silent() -> Any:
    """A context without the exporter's reports on stdout, its logs and its warnings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        sys.stdout.flush()


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
