"""The dialects of ``--translate``, and the edits that translate from one: begin with `translation`."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.core.tensor import infos_of
from ckptconv.edits.adapters import to_llama_cpp
from ckptconv.edits.dialects import flax, gguf, keras, ldm, meta, mlx, to_ldm, to_mmproj, whisper
from ckptconv.edits.dialects.change import Change, check_parts, count_parts, edits_for
from ckptconv.edits.name_rule import GGUF, MLX, TO_GGUF, TO_LDM, TO_MMPROJ
from ckptconv.errors import EditError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ckptconv.core.edit import Edit
    from ckptconv.core.tensor import LazyTensor, TensorInfo

    Tensors = Mapping[str, TensorInfo]

DIALECTS: Mapping[str, Callable[[Tensors, Mapping[object, object]], dict[str, Change]]] = {
    "flax": flax.changes,
    GGUF: gguf.changes,
    "keras": keras.changes,
    "ldm": ldm.changes,
    "meta": meta.changes,
    MLX: mlx.changes,
    TO_GGUF: to_llama_cpp.changes,
    TO_LDM: to_ldm.changes,
    TO_MMPROJ: to_mmproj.changes,
    "whisper": whisper.changes,
}


GIVES = {
    "flax": "torch's", GGUF: "transformers'", "keras": "torch's", "ldm": "diffusers'", "meta": "transformers'",
    MLX: "transformers'", TO_GGUF: "llama.cpp's", TO_LDM: "a single file's", TO_MMPROJ: "llama.cpp's",
    "whisper": "transformers'",
}  # fmt: skip
"""Whose names and layouts a translation gives."""


def changes_in(dialect: str, tensors: Tensors, metadata: Mapping[object, object]) -> dict[str, Change]:
    """What becomes of each tensor in a translation. Reads nothing.

    Raises UsageError for an unknown dialect, EditError where no name belongs to it, UnsupportedError for what it cannot
    translate, LimitError where tensors would be cut into too many.
    """
    if dialect not in DIALECTS:
        near = get_close_matches(dialect, DIALECTS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join(DIALECTS)}"
        raise UsageError(f"--translate {dialect!r}: there is no such dialect", hint=hint)
    changes = DIALECTS[dialect](tensors, metadata)
    check_parts(count_parts(changes, tensors), sum(info.nbytes for info in tensors.values()))
    if all(change in (Change.to(name), Change.to(name.replace("/", "."))) for name, change in changes.items()):
        raise EditError(
            f"--translate {dialect} finds none of its words in these names",
            hint=f"they may be {GIVES[dialect]} already: leave it out; ckptconv inspect --list shows them",
        )
    return changes


def left_alone(dialect: str, tensors: Tensors, metadata: Mapping[object, object]) -> list[Finding]:
    """A warning for each reason why tensors are not translated, at the first such tensor. Raises as `changes_in`.

    They are left out, or stay as they are because torch has no such module.
    """
    changes = changes_in(dialect, tensors, metadata)
    first_by_reason = {change.note: name for name, change in reversed(changes.items())}
    return [
        Finding("left-out" if changes[name].dropped else "left-alone", "warning", name, reason)
        for reason, name in reversed(first_by_reason.items())
        if reason
    ]


def translation(dialect: str, tensors: Mapping[str, LazyTensor], metadata: Mapping[object, object]) -> list[Edit]:
    """The edits that translate names and layouts from a dialect. Raises as `changes_in`.

    Reads nothing, except tensors that a file may hold twice, to see whether the two are equal.
    """
    return edits_for(changes_in(dialect, infos_of(tensors), metadata), tensors)
