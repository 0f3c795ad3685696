"""Which dialects there are (``--translate``), and what each makes of a set of tensors: begin with `translation`."""

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
    from collections.abc import Callable, Iterable, Mapping

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
"""Whose names and layouts come out."""


def by_names(names: Iterable[str]) -> str:
    """The dialect that names alone tell, whatever the format; "" where they tell none."""
    if ldm.known(names):
        return "ldm"
    return "whisper" if whisper.known(names) else ""


def changes_in(dialect: str, tensors: Tensors, metadata: Mapping[object, object]) -> dict[str, Change]:
    """What becomes of each tensor. Reads nothing.

    Raises UsageError for an unknown dialect, EditError where no name has a word of it, UnsupportedError for what it
    cannot do, LimitError where it would be cut into too many tensors.
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
    """A warning for each module whose tensors stay as they are, since torch has no such, or are left out. Raises as
    `changes_in`.
    """
    changes = changes_in(dialect, tensors, metadata)
    why = {change.left: name for name, change in reversed(changes.items())}
    return [
        Finding("left-out" if changes[name].gone else "left-alone", "warning", name, reason)
        for reason, name in reversed(why.items())
        if reason
    ]


def translation(dialect: str, tensors: Mapping[str, LazyTensor], metadata: Mapping[object, object]) -> list[Edit]:
    """The edits that make other names and layouts of a dialect's. Reads nothing but what a file may have twice.

    Raises as `changes_in`.
    """
    return edits_for(changes_in(dialect, infos_of(tensors), metadata), tensors)
