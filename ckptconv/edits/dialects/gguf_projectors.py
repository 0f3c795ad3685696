"""Reads gguf_names/projectors.toml: llama.cpp's companion files of a language model for images or audio (mmproj).

The file explains its keys. It ships with ckptconv, so it is trusted and not checked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from ckptconv.edits.dialects.gguf_config import class_of
from ckptconv.edits.dialects.gguf_table import names_file
from ckptconv.errors import EditError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Mapping

VISION = "vision_config"
CLIP = "clip"
"""llama.cpp's architecture name for all of these files."""


@dataclass(slots=True)
class Projector:
    """One kind of projector, with everything from the sets that it includes. The file explains the fields."""

    name: str
    classes: tuple[str, ...] = ()
    config: str = VISION
    tower: str = ""
    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    frames: str = ""
    halves: tuple[str, ...] = ()
    column: tuple[str, ...] = ()
    add_one: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    past: bool = False
    row: dict[str, str] = field(default_factory=dict)
    f32: tuple[str, ...] = ()
    f16: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()

    def take(self, row: Mapping[str, Any], sets: Mapping[str, Any], at: str) -> None:
        """Add what a row says; a single value replaces an earlier one."""
        for name in row.get("like", ()):
            self.take(sets[name], sets, at)
        inside = {f"{at}.{part}": name for part, name in row.get("parts", {}).items()}
        for old, new in (row.get("names", {}) | inside).items():
            self.names[old] = (new,) if isinstance(new, str) else tuple(new)
        self.classes += tuple(row.get("classes", ()))
        self.config = row.get("config", self.config)
        self.tower = row.get("tower", self.tower)
        self.frames = row.get("frames", self.frames)
        self.halves += tuple(row.get("halves", ()))
        self.column += tuple(row.get("column", ()))
        self.add_one += tuple(row.get("add-one", ()))
        self.left += tuple(row.get("left", ()))
        self.past = row.get("past", self.past)
        self.row |= row.get("row", {})
        self.f32 += tuple(row.get("f32", ()))
        self.f16 += tuple(row.get("f16", ()))
        self.needed += tuple(row.get("needed", ()))


@cache
def projectors() -> Mapping[str, Projector]:
    """All projectors, by llama.cpp's names."""
    rows = names_file("projectors")
    sets = rows.pop("sets")
    found = {name: Projector(name) for name in rows}
    for name, projector in found.items():
        projector.take(rows[name], sets, rows[name]["at"])
    return found


@cache
def _tower_classes() -> tuple[str, ...]:
    """The transformers classes that have such a file."""
    return tuple(sorted({name for projector in projectors().values() for name in projector.classes}))


def is_mmproj(metadata: Mapping[object, object]) -> bool:
    """Whether the metadata is that of such a file."""
    return metadata.get("general.architecture") == CLIP


def projector_of(config: Mapping[object, object]) -> Projector:
    """The projector for the class in a configuration. Raises EditError if the configuration has none, UnsupportedError
    for one that to-mmproj does not support.
    """
    name = class_of(config, "to-mmproj")
    candidates = [projector for projector in projectors().values() if name in projector.classes]
    if not candidates:
        raise UnsupportedError(
            f"--translate to-mmproj does not know how llama.cpp has the pictures or sounds of a {name[:80]!r}",
            hint=f"it knows {', '.join(_tower_classes())}",
        )
    own = config.get(candidates[0].config)
    if not isinstance(own, dict):
        raise EditError(
            f"--translate to-mmproj: the configuration has no {candidates[0].config}",
            hint="it is in the model's config.json, where the model has a tower",
        )
    tower = own.get("model_type")
    for projector in candidates:
        if len(candidates) == 1 or projector.tower == tower:
            return projector
    raise UnsupportedError(
        f"--translate to-mmproj: llama.cpp has no {name} with a tower of {str(tower)[:40]!r}",
        hint=f"it has {' and '.join(projector.tower for projector in candidates)}",
    )
