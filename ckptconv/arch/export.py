"""An ONNX graph of a torch module, by torch's own exporter.

Parameters and buffers of the ``state_dict`` become initializers of those names, without data; other constants stay in
the graph. Needs torch and onnxscript. Memory: that of the whole model, which the exporter runs on sample inputs.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import warnings
from typing import TYPE_CHECKING, Any

from ckptconv.arch.factory import said
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
"""Of what the exporter notes on each node: where in the model it stands. Stack traces name the machine's own files."""


def export_module(
    module: torch.nn.Module,
    tensors: Mapping[str, LazyTensor],
    inputs: Sequence[InputSpec],
    *,
    same: Mapping[str, str],
    name: str,
    opset: int,
) -> tuple[ModelProto, list[str]]:
    """The module with the checkpoint's `tensors` loaded as a model; initializers by state_dict name.

    same:   tied names, with the name under which their tensor is stored.
    inputs: of ``forward``; empty: what the module shows (`example_inputs`, or its first layer).
    name:   what messages call the module.

    Gives the model and the names of the initializers that are the state_dict's, which have no data. Raises UsageError
    where no inputs are known, or where loading, running or exporting the module fails.
    """

    try:
        import onnxscript  # noqa: F401  (the exporter's own)
    except ModuleNotFoundError as error:
        raise MissingExtraError("onnxscript", "verify") from error
    module = module.eval().requires_grad_(False)
    same = {**same, **tied_in(module, tensors.keys())}
    _load(module, tensors, name)
    stored = _widened(module)
    model = _exported(module, inputs, name, opset)
    _forget_places(model)
    _name_dimensions(model, inputs or shown_inputs(module))
    _share(model, same)
    _cast(model, stored)
    return model, _emptied(model, module)


def _exported(module: torch.nn.Module, inputs: Sequence[InputSpec], name: str, opset: int) -> ModelProto:
    """What torch's exporter makes of the module. Raises UsageError where it does not run, or is not exported."""
    import torch

    arguments, keywords, shapes = _sampled(module, inputs, name)
    try:
        with torch.inference_mode():
            module(*arguments, **keywords)
    except Exception as error:
        raise UsageError(
            f"{name} does not run on its sample inputs: {said(error)}", hint=f"describe them, such as {EXAMPLE}"
        ) from error
    try:
        with _quietly():
            made = torch.onnx.export(
                module, arguments, kwargs=keywords, dynamo=True, dynamic_shapes=shapes, optimize=False,
                opset_version=opset, external_data=False, verbose=False,
            )  # fmt: skip
    except Exception as error:
        raise UsageError(
            f"torch cannot export {name}: {_last_line(error)}", hint="the error's cause is shown by --debug"
        ) from error
    assert made is not None
    return made.model_proto


def _load(module: torch.nn.Module, tensors: Mapping[str, LazyTensor], name: str) -> None:
    try:
        load_state(module, read_state(tensors))
    except RuntimeError as error:
        raise UsageError(
            f"{name} does not take these tensors: {_last_line(error)}", hint="ckptconv validate --arch says more"
        ) from error


def _widened(module: torch.nn.Module) -> set[str]:
    """Let a module with BF16 weights compute in F32, as our own graphs do: onnxruntime's CPU kernels lack BF16.

    Gives the names of the tensors that are BF16, and are to stay so where they are stored.
    """
    import torch

    stored = {name for name, value in module.state_dict().items() if value.dtype is torch.bfloat16}
    if stored:
        module.float()
    return stored


def _cast(model: ModelProto, stored: set[str]) -> None:
    """Store these initializers as BF16, with a Cast behind each."""
    from onnx import TensorProto, helper

    graph = model.graph
    names = {one.name: f"{one.name}_cast" for one in graph.initializer if one.name in stored}
    if not names:
        return
    for tensor in graph.initializer:
        if tensor.name in names:
            tensor.data_type = TensorProto.BFLOAT16
    for values in (graph.input, graph.value_info):  # what they say of its type holds no more
        for value in [value for value in values if value.name in names]:
            values.remove(value)
    _rename_inputs(graph, names)
    nodes = [
        helper.make_node("Cast", [name], [made], name=f"/{name}/Cast", to=TensorProto.FLOAT)
        for name, made in names.items()
    ]
    nodes += list(graph.node)
    del graph.node[:]
    graph.node.extend(nodes)


def _sampled(
    module: torch.nn.Module, inputs: Sequence[InputSpec], name: str
) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor], Any]:
    """Positional and named sample inputs, and which of their dimensions are free."""
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
    return tuple(positional), named, (*positions, *names.values()) if not names else _by_name(module, positions, names)


def _by_name(module: torch.nn.Module, positions: list[dict[int, Any]], names: dict[str, dict[int, Any]]) -> Any:
    """Free dimensions by the names of ``forward``'s parameters, as torch.export wants them."""
    import inspect

    parameters = list(inspect.signature(module.forward).parameters)
    return {**dict(zip(parameters, positions, strict=False)), **names}


def _forget_places(model: ModelProto) -> None:
    """Drop the exporter's notes of where on this machine the code stands."""
    graph = model.graph
    for messages in (graph.node, graph.value_info, graph.initializer, graph.input, graph.output):
        for message in messages:
            kept = [pair for pair in message.metadata_props if pair.key in KEPT_PROPERTIES]
            del message.metadata_props[:]
            message.metadata_props.extend(kept)


def _name_dimensions(model: ModelProto, inputs: Sequence[InputSpec]) -> None:
    """Call free dimensions what the user calls them; the exporter numbers them."""
    graph = model.graph
    names: dict[str, str] = {}
    for position, spec in enumerate(inputs):
        value = next((one for one in graph.input if one.name == spec.name), None)
        if value is None and position < len(graph.input):
            value = graph.input[position]
        if value is not None:
            for dim, said_dim in zip(value.type.tensor_type.shape.dim, spec.dims, strict=False):
                if dim.dim_param and isinstance(said_dim, str):
                    names.setdefault(dim.dim_param, said_dim)
    for values in (graph.input, graph.output, graph.value_info):
        for value in values:
            for dim in value.type.tensor_type.shape.dim:
                if dim.dim_param in names:
                    dim.dim_param = names[dim.dim_param]


def _share(model: ModelProto, same: Mapping[str, str]) -> None:
    """Let tied names be one initializer, under the name whose tensor is stored."""
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


def _emptied(model: ModelProto, module: torch.nn.Module) -> list[str]:
    """Take the data out of the initializers that the state_dict has; their names."""
    state = module.state_dict(keep_vars=True)
    emptied = [tensor for tensor in model.graph.initializer if tensor.name in state]
    for tensor in emptied:
        for kept in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(kept)
    return [tensor.name for tensor in emptied]


@contextlib.contextmanager
def _quietly() -> Any:
    """Without the exporter's own reports on stdout, its logs and its warnings."""
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
