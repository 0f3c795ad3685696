"""``--like FILE``: gives tensors the names and layouts of another framework's file of the same model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.api.editing.dialects import MARK, dialect_of, dialect_of_names, is_from_mlx_lm
from ckptconv.api.editing.originals import KERAS, OTHER_FRAMEWORKS
from ckptconv.api.evidence import merged_values
from ckptconv.core.edit import Edit, Step
from ckptconv.core.report import Finding
from ckptconv.core.text import listed, plural
from ckptconv.edits.like import check_reduced, plan
from ckptconv.edits.name_rule import GGUF, MLX
from ckptconv.edits.ordered import OrderedMap
from ckptconv.edits.quantized.marks import kinds_in
from ckptconv.errors import EditError, UsageError, located

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ckptconv.api.editing.state import State
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.metadata import MetaNode
    from ckptconv.formats.base import Format


def become_like(state: State, path: str, template: Checkpoint) -> None:
    """Give the tensors of `state` the names, layouts and order of the template, which was opened from `path`.

    Raises UsageError if the template's names are torch's already, EditError if it is not of the same network, and what
    a translation of it raises.
    """
    option = f"--like {path!r}"
    with located(path):
        dialect = _dialect_to_undo(template, option)
        try:
            planned = plan(state.tensors, template, dialect, merged_values(template))
        except EditError as error:
            own = dialect_of(state.source)
            if own in OTHER_FRAMEWORKS and state.tensors.keys() == state.source.keys():
                error.hint = f"--translate {own} before it makes torch's names of those here"
            raise
        before = dict(state.tensors)
        if planned.unneeded:
            steps = tuple(Step((name,), ()) for name in planned.unneeded)
            state.apply(Edit("drop", planned.unneeded[:1], (), {}, steps), option)
        for edit in planned.edits:
            state.apply(edit, option)
        check_reduced(planned, before, {**state.tensors, **{name: template[name] for name in planned.kept}})
    tensors = {**state.tensors, **{name: template[name] for name in planned.kept}}
    state.tensors = OrderedMap({name: tensors[name] for name in template})
    state.origins |= dict.fromkeys(planned.kept, ())
    if planned.kept:
        count, names = plural(len(planned.kept), "tensor"), listed([repr(name) for name in planned.kept], 3)
        message = f"{path}: what has no counterpart in torch keeps the values that it has there: {count}, {names}"
        state.findings.append(Finding("kept", "warning", planned.kept[0], message, None, str(len(planned.kept))))


def metadata_for(format: Format, template: Checkpoint, stated: Collection[MetaNode]) -> dict[str, MetaNode]:
    """What a file of the template's kind needs of its metadata, but for the keys that are `stated` already: a .keras is
    nothing without its configuration, and mlx-lm tells its own layouts by a mark.
    """
    needed: Mapping[MetaNode, MetaNode] = {MARK: MLX} if is_from_mlx_lm(template) else {}
    if format.dialect == KERAS and format.name == template.format:
        needed = template.metadata
    return {key: value for key, value in needed.items() if isinstance(key, str) and key not in stated}


def _dialect_to_undo(template: Checkpoint, option: str) -> str:
    if kinds_in(template):
        raise UsageError(
            f"{option}: its weights are quantized", hint="--quantize makes such weights; name a file with plain ones"
        )
    dialect = dialect_of_names(template)
    if dialect == GGUF:
        raise UsageError(
            f"{option}: this is a GGUF", hint="--translate to-gguf makes one from a transformers folder, whole"
        )
    if not dialect:
        raise UsageError(
            f"{option}: its names and layouts are torch's, as far as they are known here",
            hint="--rename and --rules change names; --like takes a file of Flax, Keras, mlx-lm or another release",
        )
    return dialect
