"""Turns an open source into what is written: names, edits, the architecture, a graph. No tensor is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from ckptconv.api.editing.edits import Moves
from ckptconv.core.record_edits import without_tensors
from ckptconv.edits.name_rule import GGUF
from ckptconv.errors import MisfitError, UnknownClassError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.api.converting.arch_note import Fitting
    from ckptconv.api.converting.gguf import AdapterForLlamaCpp
    from ckptconv.api.converting.order import Order
    from ckptconv.api.editing.step_files import StepFiles
    from ckptconv.api.request import Request
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.report import Finding
    from ckptconv.formats.onnx.plan import GraphPlan, OnnxOptions


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is to be written, and how it came to be.

    source:     the checkpoint as it was read, with the names that its graph dropped.
    edited:     the source after the edits.
    moves:      where the tensors of `edited` come from.
    checkpoint: what is written: `edited` with metadata and notes, or bare.
    plain:      whether it is written without our record.
    graph:      the graph around the weights, for a format that holds one.
    findings:   what was noticed about the architecture.
    is_edited:  whether edits were asked for; only edits cast and quantize.
    """

    source: Checkpoint
    edited: Checkpoint
    moves: Moves
    checkpoint: Checkpoint
    plain: bool
    graph: GraphPlan | None = None
    findings: Sequence[Finding] = ()
    is_edited: bool = False


def prepare(order: Order, opened: Checkpoint, files: StepFiles) -> Prepared:
    """Prepare what `order` asks for. `files` are those that its edits name.

    If a graph is asked for, and only a config.json beside the source says what is computed, the class that it names is
    built by the installed transformers or diffusers.

    Raises EditError, UsageError, MisfitError and what reading rules, configurations and architectures raises.
    """
    try:
        return _prepare(order, opened, files)
    except UnknownClassError as error:
        if not order.format.graph:
            raise
        return _prepare_with_installed_class(order, opened, files, error)


def _prepare_with_installed_class(
    order: Order, opened: Checkpoint, files: StepFiles, error: UnknownClassError
) -> Prepared:
    from ckptconv.api.fitting.installed import refuse_custom_class, request_for_installed_class

    request, finding = request_for_installed_class(order.request, error, opened)
    try:
        prepared = _prepare(replace(order, request=request), opened, files)
    except MisfitError:
        refuse_custom_class(request, error)
        raise
    return replace(prepared, findings=[finding, *prepared.findings])


def _prepare(order: Order, opened: Checkpoint, files: StepFiles) -> Prepared:
    named = _select_outside(_restore_names(opened, order.request, graph=order.format.graph), order)
    adapter = _prepare_adapter(named, order) if order.edits.for_llama_cpp else None
    edited, moves, added = _apply_edits(named, order, files, adapter)
    edited = _restore_shapes(edited, named, order, moves)
    requested = _metadata_to_set(named, order)
    described = edited.with_metadata(requested)
    fitting, graph = _fit_architecture(described, order, adapter), _plan_graph(described, order)
    values = {**(fitting.params if fitting else {}), **requested, **added}
    note: MetaNode = fitting.note if fitting else None
    findings = fitting.findings if fitting else ()
    if graph:
        note, findings = graph.note or note, graph.findings
    return Prepared(
        source=named, edited=edited, moves=moves, checkpoint=_finish(edited, values, bare=order.bare, note=note),
        plain=order.bare and not values, graph=graph, is_edited=bool(order.edits), findings=findings,
    )  # fmt: skip


def _select_outside(named: Checkpoint, order: Order) -> Checkpoint:
    """The checkpoint; or the selected tensors outside of its model as a model of their own."""
    if not order.edits.select:
        return named
    from ckptconv.api.converting.outside import select_as_model

    return select_as_model(named, order.edits.select)


def _restore_shapes(edited: Checkpoint, named: Checkpoint, order: Order, moves: Moves) -> Checkpoint:
    """The checkpoint with the shapes that a GGUF records for its tensors, unless it becomes a GGUF again."""
    if order.format.dialect == GGUF or not named.format.startswith("gguf"):
        return edited
    from ckptconv.api.converting.shapes import restore_shapes

    return restore_shapes(edited, named, moves.origins)


def _prepare_adapter(named: Checkpoint, order: Order) -> AdapterForLlamaCpp | None:
    """The adapter to convert for llama.cpp; None for a model. Raises if either cannot be converted as asked."""
    from ckptconv.api.converting.gguf import adapter_for_llama_cpp, check_model, check_target

    check_target(order.format, order.edits.for_llama_cpp)
    adapter = adapter_for_llama_cpp(named, order)
    if adapter is None:
        check_model(named, order)
    return adapter


def _apply_edits(
    named: Checkpoint, order: Order, files: StepFiles, adapter: AdapterForLlamaCpp | None
) -> tuple[Checkpoint, Moves, Mapping[str, MetaNode]]:
    """The checkpoint after all edits, where its tensors come from, and the metadata that the edits added."""
    if not order.edits:
        return named, Moves(), {}
    from ckptconv.api.editing.apply import apply_edits

    stated = adapter.stated if adapter is not None else None
    edited, moves = apply_edits(named, order.edits, files, bare=order.bare, stated=stated)
    added: Mapping[str, MetaNode] = {}
    if order.edits.templates:
        from ckptconv.api.editing.like import metadata_for

        for template in files.templates:
            added = metadata_for(order.format, template, edited.metadata)
    if order.edits.for_llama_cpp:
        from ckptconv.api.converting.gguf import complete_for_llama_cpp

        edited, moves, added = complete_for_llama_cpp(edited, moves, order, adapter)
    if order.edits.to_ldm:
        from ckptconv.api.converting.ldm import add_scheduler_marks

        edited = add_scheduler_marks(edited, named, order.request.source)
        moves = replace(moves, origins={name: moves.origins.get(name, ()) for name in edited})
    return edited, moves, added


def _metadata_to_set(named: Checkpoint, order: Order) -> Mapping[str, MetaNode]:
    """The metadata that was asked for; for a GGUF, with the keys that have to change along with it."""
    if order.format.dialect != GGUF or order.edits.for_llama_cpp:
        return order.metadata
    from ckptconv.formats.gguf.overrides import coerce_overrides

    return coerce_overrides(named, order.metadata)


def _fit_architecture(described: Checkpoint, order: Order, adapter: AdapterForLlamaCpp | None) -> Fitting | None:
    """Compare with an architecture, if one was named or its params are asked for.

    An adapter is not compared: the architecture that was named is its base's.
    """
    if not order.with_params and (order.request.arch is None or adapter is not None):
        return None
    from ckptconv.api.converting.arch_note import fit

    return fit(order.request, described, params=order.with_params)


def _plan_graph(described: Checkpoint, order: Order) -> GraphPlan | None:
    if not order.format.graph:
        return None
    from ckptconv.api.converting.graph import plan_graph

    plan = plan_graph(order.request, described, cast("OnnxOptions", order.own))
    if order.request.arch is None and order.request.inputs and not order.verify:
        raise order.unused_inputs_error()  # `Order.check` let them pass, as a config.json might name a class
    return plan


def without_extras(prepared: Prepared) -> Prepared:
    """The same without tensors outside of the model, for a format that cannot hold them. The tree around them stays."""
    checkpoint = prepared.checkpoint
    model_only = checkpoint.replaced(
        extras={}, composites=checkpoint.composites_of(checkpoint),
        root=without_tensors(checkpoint.root, checkpoint.extras),
        notes=replace(checkpoint.notes.only(checkpoint), digest=None),
    )  # fmt: skip
    return replace(prepared, checkpoint=model_only)


def _restore_names(checkpoint: Checkpoint, request: Request, *, graph: bool) -> Checkpoint:
    """The checkpoint with the names that its graph dropped; to make a graph of a class, with the class's names."""
    arch = request.arch
    if arch is None:
        return checkpoint
    from ckptconv.api.fitting.naming import (  # imports the whole ONNX reader
        restore_names_from_architecture,
        use_names_of_class,
    )
    from ckptconv.arch.huggingface import is_config

    named = restore_names_from_architecture(checkpoint, request)
    return use_names_of_class(named, arch, request.settings) if graph and is_config(arch) else named


def _finish(edited: Checkpoint, values: Mapping[str, MetaNode], *, bare: bool, note: MetaNode) -> Checkpoint:
    """What is written: with the metadata `values`, and a note of the architecture unless it has only tensors."""
    checkpoint = (edited.bare() if bare else edited).with_metadata(values)
    if note is None or (bare and not values):
        return checkpoint
    from ckptconv.api.converting.arch_note import with_arch_note

    return with_arch_note(checkpoint, note)
