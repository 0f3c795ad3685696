"""Reads gguf_names/*.toml: llama.cpp's architectures, and their names for tensors.

The files explain their keys. They ship with ckptconv, so they are trusted and not checked.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = "root"
PREFIXES = ("blk", "enc.blk", "dec.blk")
EMBEDDINGS, OUTPUT = "token_embd.weight", "output.weight"
_ENDINGS = (".weight", ".bias")

TYPE_KEY, ADAPTER = "general.type", "adapter"
"""How metadata marks an adapter, which llama.cpp loads beside a model (``--lora``)."""


def is_gguf_adapter(metadata: Mapping[object, object]) -> bool:
    """Whether a GGUF's metadata marks it as an adapter."""
    return metadata.get(TYPE_KEY) == ADAPTER


def without_ending(name: str) -> str:
    """A tensor's name without ``.weight`` or ``.bias``."""
    return next((name.removesuffix(ending) for ending in _ENDINGS if name.endswith(ending)), name)


@dataclass(frozen=True, slots=True)
class Joining:
    """How several parts become one tensor, `target`."""

    target: str
    kind: Literal["concat", "stack"]
    parts: tuple[str, ...]
    axis: int
    merge: int | None = None
    axes: tuple[int, ...] | None = None

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Joining:
        """Read from a row of `join` or `cut`."""
        kind: Literal["concat", "stack"] = "stack" if "stack" in row else "concat"
        axes = tuple(row["axes"]) if "axes" in row else None
        return cls(row["target"], kind, tuple(row[kind]), row["axis"], row.get("merge"), axes)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Files that are not translated: those in which `key` has a value not in `but`, or that lack the part `needs`."""

    why: str
    key: str = ""
    but: tuple[object, ...] = ()
    needs: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Refusal:
        """Read from a row of `refused`."""
        return cls(**{**row, "but": tuple(row.get("but", ()))})


@dataclass(slots=True)
class Architecture:
    """One architecture, with everything from the sets that it includes. The files explain the fields."""

    at: dict[str, str] = field(default_factory=dict)
    names: dict[str, dict[str, str]] = field(default_factory=lambda: {place: {} for place in (ROOT, *PREFIXES)})
    also: dict[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)
    halves: dict[str, str] = field(default_factory=dict)
    qkv: str = ""
    delta: str = ""
    less_one: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    axes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    shape: dict[str, str] = field(default_factory=dict)
    join: tuple[Joining, ...] = ()
    refused: tuple[Refusal, ...] = ()
    classes: tuple[str, ...] = ()
    inside: str = ""
    left: tuple[str, ...] = ()
    output: str = ""
    kinds: tuple[str, ...] = ()
    some: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()
    further: str = ""
    twins: dict[str, str] = field(default_factory=dict)
    unadapted: tuple[str, ...] = ()
    ahead: tuple[str, ...] = ()
    whole: dict[str, str] = field(default_factory=dict)
    cut: tuple[Joining, ...] = ()
    either: bool = False

    def take(self, row: Mapping[str, Any], sets: Mapping[str, Any]) -> None:
        """Add what a row of any of the files says; a single value replaces an earlier one."""
        for name in row.get("like", ()):
            self.take(sets[name], sets)
        self.at |= row.get("at", {})
        for place in self.names:
            self.names[place] |= row.get(place, {})
        self.also |= row.get("with", {})
        self.halves |= row.get("halves", {})
        self.qkv = row.get("qkv", self.qkv)
        self.delta = row.get("delta", self.delta)
        self.less_one += tuple(row.get("less-one", ()))
        self.log += tuple(row.get("log", ()))
        self.axes |= {part: tuple(axes) for part, axes in row.get("axes", {}).items()}
        self.shape |= row.get("shape", {})
        self.join += tuple(map(Joining.of, row.get("join", ())))
        self.classes += tuple(row.get("classes", ()))
        self.inside = row.get("inside", self.inside)
        self.left += tuple(row.get("left", ()))
        self.output = row.get("output", self.output)
        self.kinds += tuple(row.get("kinds", ()))
        self.some += tuple(row.get("some", ()))
        self.pictures += tuple(row.get("pictures", ()))
        self.further = row.get("further", self.further)
        self.twins |= row.get("twins", {})
        self.unadapted += tuple(row.get("unadapted", ()))
        self.ahead += tuple(row.get("ahead", ()))
        self.whole |= row.get("whole", {})
        self.cut += tuple(map(Joining.of, row.get("cut", ())))
        self.either = row.get("either", self.either)
        self.refused += tuple(map(Refusal.of, row.get("refused", ())))

    def names_with(self, parts: set[str]) -> dict[str, dict[str, str]]:
        """The names by place, for a file that has these parts."""
        found = {place: dict(names) for place, names in self.names.items()}
        for part, more in self.also.items():
            if part in parts:
                for place, names in more.items():
                    found[place] |= names
        return found


@cache
def architectures() -> Mapping[str, Architecture]:
    """All architectures by name, in alphabetical order."""
    rows, sets = names_file("decoders") | names_file("encoders"), names_file("sets")
    found = {name: Architecture() for name in sorted(rows)}
    for name, architecture in found.items():
        architecture.take(rows[name], sets)
    return found


@cache
def by_class() -> Mapping[str, str]:
    """The architectures that to-gguf supports, by the names of transformers' classes."""
    return {cls: name for name, architecture in architectures().items() for cls in architecture.classes}


def names_file(name: str) -> dict[str, Any]:
    """The contents of a file of `gguf_names`."""
    return tomllib.loads((resources.files(__package__) / "gguf_names" / f"{name}.toml").read_text("utf-8"))
