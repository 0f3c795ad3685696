"""Names and layouts that other frameworks have for a network's tensors, as torch's modules have them (`translation`).

One module for each: `flax`, `keras`, `gguf` (llama.cpp's), `ldm` (single files of diffusion models), `meta` (Llama's
own releases) and `mlx` (mlx-lm's); `to_gguf`, `to_mmproj` and `to_ldm` go the other way. What a module is, names do not
say, so that each module here tells which layers come out wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.edit import Edit, Step
from ckptconv.core.report import Finding
from ckptconv.edits.dialects import flax, gguf, keras, ldm, meta, mlx, to_gguf, to_ldm, to_mmproj
from ckptconv.edits.dialects.change import Change, check_parts, count_parts, dropped, edits_of
from ckptconv.errors import EditError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from ckptconv.core.tensor import LazyTensor, TensorInfo

    Tensors = Mapping[str, TensorInfo]

MLX = "mlx"

TO_GGUF = "to-gguf"
TO_LDM = "to-ldm"
TO_MMPROJ = "to-mmproj"
"""Those that go from the names of transformers and diffusers to others."""

DIALECTS: Mapping[str, Callable[[Tensors, Mapping[object, object]], dict[str, Change]]] = {
    "flax": flax.changes,
    "gguf": gguf.changes,
    "keras": keras.changes,
    "ldm": ldm.changes,
    "meta": meta.changes,
    MLX: mlx.changes,
    TO_GGUF: to_gguf.changes,
    TO_LDM: to_ldm.changes,
    TO_MMPROJ: to_mmproj.changes,
}


GIVES = {
    "flax": "torch's", "gguf": "transformers'", "keras": "torch's", "ldm": "diffusers'", "meta": "transformers'",
    MLX: "transformers'", TO_GGUF: "llama.cpp's", TO_LDM: "a single file's", TO_MMPROJ: "llama.cpp's",
}  # fmt: skip
"""Whose names and layouts come out."""


def by_names(names: Iterable[str]) -> str:
    """The dialect that names alone tell, whatever the format; "" where they tell none."""
    return "ldm" if ldm.known(names) else ""


def changes_in(dialect: str, tensors: Tensors, metadata: Mapping[object, object]) -> dict[str, Change]:
    """What becomes of each tensor. Reads nothing.

    Raises UsageError for an unknown dialect, EditError where no name has a word of it, UnsupportedError for what it
    cannot do, LimitError where it would be cut into too many tensors.
    """
    if dialect not in DIALECTS:
        raise UsageError(f"--translate {dialect!r}: there is no such dialect", hint=f"one of {', '.join(DIALECTS)}")
    changes = DIALECTS[dialect](tensors, metadata)
    check_parts(count_parts(changes, tensors))
    if all(change in (Change.to(name), Change.to(name.replace("/", "."))) for name, change in changes.items()):
        raise EditError(
            f"--translate {dialect} finds none of its words in these names", hint="ckptconv inspect --list shows them"
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
    infos = {name: tensor.info for name, tensor in tensors.items()}
    changes = changes_in(dialect, infos, metadata)
    gone = dropped(changes, tensors)
    drop = [Edit("drop", (gone[0],), (), {}, tuple(Step((name,), ()) for name in gone))] if gone else []
    return [*drop, *edits_of({name: change for name, change in changes.items() if name not in gone}, infos)]
