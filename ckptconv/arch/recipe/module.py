"""Builds a torch module from a program; its ``state_dict()`` has exactly the table's names.

Torch is imported only when a module is built.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckptconv.arch.recipe.catalog import KINDS
from ckptconv.arch.recipe.program import stored_as
from ckptconv.arch.recipe.tokens import TOKENS
from ckptconv.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch
    from torch import nn

    from ckptconv.arch.recipe.program import Operation, Program

    Callback = Callable[[str, torch.Tensor], None]

Values = dict[str, "torch.Tensor"]


def build_module(program: Program, *, device: str = "cpu", dtype: torch.dtype | None = None) -> nn.Module:
    """The network, in eval mode, with weights that are not initialised (``device="meta"`` allocates none at all).

    It takes the program's input and returns its output. ``module.trace(x)`` returns every operation's output by its
    name, in order; within ``module.watch_operations(callback)`` each run calls ``callback(name, output)`` for each.
    Dropout does nothing unless the module is put into train mode. Memory: that of the weights.

    Raises UnsupportedError for names that no torch module can have, such as ``forward.weight``.
    """
    import torch

    root = _empty_module(program)
    order = {name: position for position, name in enumerate(program.table.tensors)}

    def first_tensor(operation: Operation) -> int:
        return min((order[name] for name in operation.weights.values()), default=0)

    built: set[str] = set()
    with torch.device(device):
        for operation in sorted(program.operations, key=first_tensor):
            if operation.weights and operation.name not in built:
                if "" in operation.weights:
                    _place_tensor(root, operation, program)
                else:
                    _place(root, operation.name, _leaf(operation, program))
                built.add(operation.name)
    if dtype is not None:
        root.to(dtype)
    _tie(root, program)
    return root.eval()


def _empty_module(program: Program) -> nn.Module:
    """A module that runs the program, still without its layers."""
    from torch import nn

    class RecipeModule(nn.Module):
        """A network that a forward recipe describes."""

        callback: Callback | None = None

        def trace(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            values: Values = {program.input.name: x}
            outputs: dict[str, torch.Tensor] = {}
            for operation in program.operations:
                outputs[operation.output] = _run_operation(self, operation, values)
                if self.callback is not None:
                    self.callback(operation.name, outputs[operation.output])
            return outputs

        @contextmanager
        def watch_operations(self, callback: Callback) -> Iterator[None]:
            self.callback = callback
            try:
                yield
            finally:
                self.callback = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.trace(x)[program.output.name]

    return RecipeModule()


def _leaf(operation: Operation, program: Program) -> nn.Module:
    """The layer of torch.nn that has the tensors in the table."""
    from torch import nn

    shape = {role: [dim or 0 for dim in program.table.tensors[name].shape] for role, name in operation.weights.items()}
    attributes, bias = operation.attributes, "bias" in shape
    layer: nn.Module
    match operation.kind:
        case "linear":
            outputs, inputs = shape["weight"]
            layer = nn.Linear(inputs, outputs, bias=bias)
        case "conv1d" | "conv2d":
            outputs, inputs, *kernel = shape["weight"]
            kind = nn.Conv1d if operation.kind == "conv1d" else nn.Conv2d
            groups = int(attributes["groups"])
            layer = kind(
                inputs * groups, outputs, tuple(kernel), int(attributes["stride"]), int(attributes["padding"]),  # type: ignore[arg-type]
                int(attributes["dilation"]), groups, bias=bias,
            )  # fmt: skip
        case "batch_norm":
            rank = len(_input_shape(operation, program))
            norm = nn.BatchNorm2d if rank == 4 else nn.BatchNorm1d
            layer = norm(shape["running_mean"][0], eps=float(attributes["eps"]), affine="weight" in shape)
            if "num_batches_tracked" not in shape:
                layer.num_batches_tracked = None
                layer.track_running_stats = False  # load_state_dict would make up the counter, and then refuse it
        case "layer_norm":
            layer = nn.LayerNorm(shape["weight"], eps=float(attributes["eps"]), bias=bias)
        case "embedding" | "positions":
            layer = nn.Embedding(shape["weight"][0], shape["weight"][1])
        case "self_attention":
            biased = "in_proj_bias" in shape
            heads = int(attributes["heads"])
            layer = nn.MultiheadAttention(shape["in_proj_weight"][1], heads, bias=biased, batch_first=True)
        case _:
            raise AssertionError(operation.kind)
    return layer


def _input_shape(operation: Operation, program: Program) -> tuple[object, ...]:
    if operation.inputs[0] == program.input.name:
        return program.input.shape
    return next(other.shape for other in program.operations if other.output == operation.inputs[0])


def _place(root: nn.Module, name: str, layer: nn.Module) -> None:
    above, _, last = name.rpartition(".")
    holder = _holder(root, above)
    _check(holder, last, name)
    inside = holder._modules.get(last)
    for part, inner in inside.named_children() if inside is not None else ():  # "a.b" may come before "a"
        layer.add_module(part, inner)
    holder.add_module(last, layer)


def _place_tensor(root: nn.Module, operation: Operation, program: Program) -> None:
    import torch
    from torch import nn

    name = operation.name
    above, _, last = name.rpartition(".")
    holder = _holder(root, above)
    _check(holder, last, name)
    shape = [dim or 0 for dim in program.table.tensors[name].shape]
    if operation.kind == "unused":
        holder.register_buffer(last, torch.empty(shape))
    else:
        holder.register_parameter(last, nn.Parameter(torch.empty(shape)))


def _holder(root: nn.Module, path: str) -> nn.Module:
    """The module at that path; it is made if it does not exist."""
    from torch import nn

    for part in path.split(".") if path else ():
        if part not in root._modules:
            _check(root, part, path)
            root.add_module(part, nn.Module())
        inner = root._modules[part]
        assert inner is not None
        root = inner
    return root


def _check(holder: nn.Module, part: str, name: str) -> None:
    """Refuse a name that torch would refuse: an empty one, or one that the module uses for something else."""
    taken = hasattr(holder, part) and not any(
        part in named for named in (holder._modules, holder._parameters, holder._buffers)
    )
    if not part or taken:
        raise UnsupportedError(
            f"no torch module can have a part {part!r}, as in {name!r}", hint="--rename gives it another name"
        )


def _tie(root: nn.Module, program: Program) -> None:
    """Make names that share a tensor share it here too, including those that no step uses."""
    from torch import nn

    firsts = {name: stored_as(program.table, name) for name in program.table.tensors}
    held: dict[str, torch.Tensor] = {**dict(root.named_parameters()), **dict(root.named_buffers())}
    for name, first in firsts.items():
        if name == first and name in held:
            continue
        shared = next((held[other] for other in (first, *firsts) if firsts[other] == first and other in held), None)
        if shared is None:  # an optional tensor that the checkpoint lacks
            continue
        above, _, last = name.rpartition(".")
        holder = _holder(root, above)
        _check(holder, last, name)
        if isinstance(shared, nn.Parameter):
            holder.register_parameter(last, shared)
        else:
            holder.register_buffer(last, shared)


def _run_operation(root: nn.Module, operation: Operation, values: Values) -> torch.Tensor:
    inputs = [values[name] for name in operation.inputs]
    output: torch.Tensor
    if operation.kind in TOKENS:
        output = TOKENS[operation.kind](root, operation, *inputs)
    elif KINDS.get(operation.kind) is not None and KINDS[operation.kind].weights:
        output = root.get_submodule(operation.name)(*inputs)
    else:
        output = _function(operation, root.training)(*inputs)
    values[operation.output] = output
    return output


def _function(operation: Operation, training: bool) -> Callable[..., torch.Tensor]:
    """The function that computes an operation without tensors."""
    import torch
    from torch.nn import functional

    attributes: Mapping[str, object] = operation.attributes
    name = operation.kind
    match name:
        case "add" | "mul":
            return getattr(torch, name)  # type: ignore[no-any-return]
        case "concat":
            return lambda *parts: torch.cat(parts, int(operation.attributes["axis"]))
        case "identity" | "unused":
            return lambda x: x
        case "dropout":
            return lambda x: functional.dropout(x, training=training)
        case "relu" | "tanh" | "sigmoid":
            return getattr(torch, name)  # type: ignore[no-any-return]
        case "silu" | "relu6" | "hardswish" | "hardsigmoid":
            return getattr(functional, name)  # type: ignore[no-any-return]
        case "gelu" | "gelu_tanh":
            return lambda x: functional.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")
        case "softmax" | "log_softmax":
            return lambda x: getattr(torch, name)(x, dim=attributes["axis"])
        case "flatten":
            return lambda x: torch.flatten(x, attributes["start"])  # type: ignore[arg-type]
    pool = getattr(functional, name)
    if name.startswith("adaptive"):
        return lambda x: pool(x, attributes["size"])
    others = {key: value for key, value in attributes.items() if key != "kernel"}
    window = {"kernel_size": attributes["kernel"], **others}
    return lambda x: pool(x, **window)
