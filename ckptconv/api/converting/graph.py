"""Plans the graph around a checkpoint's weights, for a format that stores the computation too.

A weight file does not say what it computes: relu or tanh, logits or log-softmax. Those are params of an architecture.
Each has to be stated by the user, the metadata or a note in the file. If the user names the architecture, defaults will
do, and are reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.api.fitting.program import or_keep_graph, program_of
from ckptconv.arch.factory import is_reference
from ckptconv.core.report import Finding
from ckptconv.core.tensor import infos_of
from ckptconv.errors import UnsupportedError, UsageError
from ckptconv.formats.onnx.plan import Filling, GraphPlan, OnnxOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.api.fitting.compare import Validation
    from ckptconv.api.request import Request
    from ckptconv.core.checkpoint import Checkpoint


def plan_graph(request: Request, checkpoint: Checkpoint, own: OnnxOptions) -> GraphPlan:
    """The graph for `checkpoint`, its initializers still empty.

    It comes from a template, from Python that `request.arch` names, or from the forward recipe of an architecture.

    Raises UnsupportedError for quantized and sparse tensors without a template (their integers would be taken for
    weights), UsageError with a whole command line as its hint if nothing says what is computed, UnknownClassError if
    only a config.json names a class, MisfitError, TemplateError.
    """
    if checkpoint.composites and not own.template:
        name, composite = next(iter(checkpoint.composites.items()))
        raise UnsupportedError(
            f"{name!r} is {composite.summary}, and the graphs that are made here compute with plain tensors",
            hint="--dequantize, or to_dense() before saving; or -O template=FILE.onnx, a graph that uses its parts",
        )
    if own.template:
        from ckptconv.formats.onnx.template import fill_template

        return fill_template(own.template, checkpoint)
    if request.arch is not None and is_reference(request.arch):
        from ckptconv.api.converting.export import export_python

        return export_python(request, checkpoint, own)
    return _from_recipe(request, checkpoint, own)


def _from_recipe(request: Request, checkpoint: Checkpoint, own: OnnxOptions) -> GraphPlan:
    from ckptconv.arch.recipe.graph import DEFAULT_OPSET, build_graph

    result, program = program_of(request, checkpoint)
    assumed = [name for name in result.assumed if name in program.params]
    if assumed and request.arch is None:
        settings = [word for name in assumed for word in ("--set", f"{name}={_setting_text(result.params[name])}")]
        raise UsageError(
            f"the names and shapes are those of {result.arch!r}, and nothing says its {_joined_by_and(assumed)}",
            path=request.source,
            hint=or_keep_graph(request.command("--arch", result.arch, *settings), request, checkpoint),
        )
    infos = infos_of(checkpoint)
    model, findings = build_graph(program, infos, same=checkpoint.tied_to, opset=own.opset or DEFAULT_OPSET)
    assert result.spec is not None
    note = {"name": result.spec.name, "params": dict(result.params), "digest": result.spec.digest}
    return GraphPlan(
        model,
        {tensor.name: Filling(tensor.name) for tensor in model.graph.initializer},
        (*result.findings, *(_assumption(name, result) for name in assumed), *findings),
        note,
    )


def _assumption(name: str, result: Validation) -> Finding:
    value = _setting_text(result.params[name])
    message = f"{name} = {value} is assumed: nothing in the file says it"
    return Finding("assumed", "warning", name, message, None, value, f"--set {name}=VALUE")


def _setting_text(value: object) -> str:
    """A param's value as ``--set`` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).replace(" ", "") if isinstance(value, list) else str(value)


def _joined_by_and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
