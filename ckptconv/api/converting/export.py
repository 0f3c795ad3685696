"""Exports an ONNX graph from Python code that the user trusts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.api.evidence import gather_evidence
from ckptconv.core.report import Finding
from ckptconv.errors import UsageError
from ckptconv.formats.onnx.plan import Filling, GraphPlan, OnnxOptions

if TYPE_CHECKING:
    from ckptconv.api.request import Request
    from ckptconv.core.checkpoint import Checkpoint


def export_python(request: Request, checkpoint: Checkpoint, own: OnnxOptions) -> GraphPlan:
    """The graph that torch's exporter makes of ``request.arch``. Runs that code; takes memory for the whole model."""
    from ckptconv.arch.export import export_module
    from ckptconv.arch.factory import built_module
    from ckptconv.arch.huggingface import has_names_of_disk, is_config
    from ckptconv.arch.recipe.graph import DEFAULT_OPSET
    from ckptconv.arch.samples import parse_input

    assert request.arch is not None
    inputs = [parse_input(text) for text in request.inputs]
    statements = gather_evidence(checkpoint, request.path).statements
    with built_module(request.arch, statements, request.settings, device="cpu") as (module, _):
        if is_config(request.arch) and has_names_of_disk(module, checkpoint.keys()):
            raise UsageError(
                "the class holds as one what are several tensors on disk, and so does its graph",
                path=request.source,
                hint="from_pretrained() it, torch.save(model.state_dict(), FILE), and convert that",
            )
        model, names = export_module(
            module, checkpoint, inputs, same=checkpoint.tied_to, name=request.arch, opset=own.opset or DEFAULT_OPSET
        )
    message = f"torch's exporter made the graph of {request.arch}: {len(model.graph.node)} nodes"
    return GraphPlan(model, {name: Filling(name) for name in names}, (Finding("exported", "info", "", message),))
