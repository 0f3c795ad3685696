"""From an open source to what is to be written: names, edits, the architecture, a graph. No tensor is read for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

from ckptconv.api.editing.edits import Moves
from ckptconv.core.record_edits import without_tensors
from ckptconv.edits.name_rule import GGUF
from ckptconv.errors import MisfitError, UnknownClassError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.api.converting.gguf import Adapted
    from ckptconv.api.converting.noted import Fitting
    from ckptconv.api.converting.order import Order
    from ckptconv.api.editing.lora import Adapters
    from ckptconv.api.request import Request
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.core.report import Finding
    from ckptconv.formats.onnx.plan import GraphPlan, OnnxOptions


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is to be written, and how it came to be.

    source:     the checkpoint as it was read, under the names that the architecture gives back.
    edited:     the same after the edits; moves: where its tensors come from.
    checkpoint: what is written: the edited one with metadata and notes, or bare.
    plain:      whether it is written without a record of ours.
    graph:      the graph around it, for a format that is one.
    findings:   what was noticed of the architecture.
    is_edited:  whether edits were asked for, which alone cast and quantize.
    """

    source: Checkpoint
    edited: Checkpoint
    moves: Moves
    checkpoint: Checkpoint
    plain: bool
    graph: GraphPlan | None = None
    findings: Sequence[Finding] = ()
    is_edited: bool = False


def prepare(order: Order, opened: Checkpoint, adapters: Adapters) -> Prepared:
    """What `order` makes of the source. `adapters` are those of its edits, opened. Where a graph is asked for, and a
    config.json beside the source alone says what is computed, the class that it names does.

    Raises EditError, UsageError, MisfitError and what reading rules, configurations and architectures raises.
    """
    try:
        return _prepared(order, opened, adapters)
    except UnknownClassError as error:
        if not order.format.graph:
            raise
        return _with_its_class(order, opened, adapters, error)


def _with_its_class(order: Order, opened: Checkpoint, adapters: Adapters, error: UnknownClassError) -> Prepared:
    from ckptconv.api.fitting.installed import refuse_custom_class, request_for_installed_class

    request, told = request_for_installed_class(order.request, error, opened)
    try:
        made = _prepared(replace(order, request=request), opened, adapters)
    except MisfitError:
        refuse_custom_class(request, error)
        raise
    return replace(made, findings=[told, *made.findings])


def _prepared(order: Order, opened: Checkpoint, adapters: Adapters) -> Prepared:
    named = _chosen(_named(opened, order.request, graph=order.format.graph), order)
    adapter = _adapter(named, order) if order.edits.for_llama_cpp else None
    made, moves, entries = _edited(named, order, adapters, adapter)
    made = _shaped(made, named, order, moves)
    asked = _settled(named, order)
    said = made.with_metadata(asked)
    fitting, graph = _fitting(said, order, adapter), _graph(said, order)
    values = {**(fitting.params if fitting else {}), **asked, **entries}
    note = graph.note if graph and graph.note else fitting.note if fitting else None
    return Prepared(
        source=named, edited=made, moves=moves, checkpoint=_finished(made, values, bare=order.bare, note=note),
        plain=order.bare and not values, graph=graph, is_edited=bool(order.edits),
        findings=graph.findings if graph else fitting.findings if fitting else (),
    )  # fmt: skip


def _chosen(named: Checkpoint, order: Order) -> Checkpoint:
    """The checkpoint, or what is outside of its model as one, where that is selected."""
    if not order.edits.select:
        return named
    from ckptconv.api.converting.outside import taken_as_model

    return taken_as_model(named, order.edits.select)


def _shaped(made: Checkpoint, named: Checkpoint, order: Order, moves: Moves) -> Checkpoint:
    """The checkpoint with the shapes that a GGUF says its tensors had, where it becomes no GGUF."""
    if order.format.dialect == GGUF or not named.format.startswith("gguf"):
        return made
    from ckptconv.api.converting.shapes import with_shapes

    return with_shapes(made, named, moves.origins)


def _adapter(named: Checkpoint, order: Order) -> Adapted | None:
    """The adapter that is to become one of llama.cpp's; None for a model, once it is known that it can go there."""
    from ckptconv.api.converting.gguf import adapted, check_model, check_target

    check_target(order.format, order.edits.for_llama_cpp)
    adapter = adapted(named, order)
    if adapter is None:
        check_model(named, order)
    return adapter


def _edited(
    named: Checkpoint, order: Order, adapters: Adapters, adapter: Adapted | None
) -> tuple[Checkpoint, Moves, Mapping[str, MetaNode]]:
    """The checkpoint after all edits, where its tensors come from, and the metadata that these gave it."""
    if not order.edits:
        return named, Moves(), {}
    from ckptconv.api.editing.apply import edited

    said = adapter.said if adapter is not None else None
    made, moves = edited(named, order.edits, adapters, bare=order.bare, said=said)
    entries: Mapping[str, MetaNode] = {}
    if order.edits.for_llama_cpp:
        from ckptconv.api.converting.gguf import completed

        made, moves, entries = completed(made, moves, order, adapter)
    if order.edits.to_ldm:
        from ckptconv.api.converting.ldm import marked

        made = marked(made, named, order.request.source)
        moves = replace(moves, origins={name: moves.origins.get(name, ()) for name in made})
    return made, moves, entries


def _settled(named: Checkpoint, order: Order) -> Mapping[str, MetaNode]:
    """The metadata that was asked for, in a GGUF with what goes along with it."""
    if order.format.dialect != GGUF or order.edits.for_llama_cpp:
        return order.metadata
    from ckptconv.formats.gguf.said import settled_for

    return settled_for(named, order.metadata)


def _fitting(said: Checkpoint, order: Order, adapter: Adapted | None) -> Fitting | None:
    """What an architecture says, where one was named or its params are asked for; of an adapter that is its base's."""
    if not order.with_params and (order.request.arch is None or adapter is not None):
        return None
    from ckptconv.api.converting.noted import fit

    return fit(order.request, said, params=order.with_params)


def _graph(said: Checkpoint, order: Order) -> GraphPlan | None:
    if not order.format.graph:
        return None
    from ckptconv.api.converting.graph import plan_graph

    made = plan_graph(order.request, said, cast("OnnxOptions", order.own))
    if order.request.arch is None and order.request.inputs and not order.verify:
        raise order.odd_inputs()  # it was thought that there might be a class
    return made


def without_extras(made: Prepared) -> Prepared:
    """The same for a format that has no room for tensors outside of the model: the tree around them stays."""
    checkpoint = made.checkpoint
    left = checkpoint.replaced(
        extras={}, composites=checkpoint.composites_of(checkpoint),
        root=without_tensors(checkpoint.root, checkpoint.extras),
        notes=replace(checkpoint.notes.only(checkpoint), digest=None),
    )  # fmt: skip
    return replace(made, checkpoint=left)


def _named(checkpoint: Checkpoint, request: Request, *, graph: bool) -> Checkpoint:
    """The checkpoint with names that the architecture gives back, for a graph with those that its class holds."""
    arch = request.arch
    if arch is None:
        return checkpoint
    from ckptconv.api.fitting.naming import (  # it needs all of the ONNX reader
        restore_names_from_architecture,
        use_names_of_class,
    )
    from ckptconv.arch.huggingface import is_config

    named = restore_names_from_architecture(checkpoint, request)
    return use_names_of_class(named, arch, request.settings) if graph and is_config(arch) else named


def _finished(made: Checkpoint, values: Mapping[str, MetaNode], *, bare: bool, note: MetaNode) -> Checkpoint:
    """What is to be written. The model's tensors alone carry no note of their architecture."""
    checkpoint = (made.bare() if bare else made).with_metadata(values)
    if note is None or (bare and not values):
        return checkpoint
    from ckptconv.api.converting.noted import noted

    return noted(checkpoint, note)
