"""Reads configs.toml, which explains its keys. It ships with ckptconv, so it is trusted and not checked."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class Row:
    """What a config.json says for one architecture, with everything from the sets that it includes."""

    cls: str = ""
    model_type: str = ""
    keys: dict[str, str] = field(default_factory=dict)
    says: dict[str, Any] = field(default_factory=dict)
    has: dict[str, str] = field(default_factory=dict)
    absent: dict[str, Any] = field(default_factory=dict)
    none: tuple[str, ...] = ()
    rotary: str = ""
    rope: str = ""
    idle: tuple[str, ...] = ()
    outside: str = ""

    def take(self, row: Mapping[str, Any], sets: Mapping[str, Any]) -> None:
        """Add what a row of the file says; an empty text takes a key away."""
        for name in row.get("like", ()):
            self.take(sets[name], sets)
        self.cls, self.model_type = row.get("class", self.cls), row.get("type", self.model_type)
        self.keys = _updated(self.keys, row.get("keys", {}))
        self.says = _updated(self.says, row.get("says", {}))
        self.has |= row.get("has", {})
        self.absent |= row.get("absent", {})
        self.none += tuple(row.get("none", ()))
        self.rotary, self.rope = row.get("rotary", self.rotary), row.get("rope", self.rope)
        self.idle += tuple(row.get("idle", ()))
        self.outside = row.get("outside", self.outside)


def _updated(values: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in (values | dict(more)).items() if value != ""}


@cache
def rows() -> Mapping[str, Row]:
    """The rows by architecture."""
    document = tomllib.loads((resources.files(__package__) / "configs.toml").read_text("utf-8"))
    sets = document.pop("set")
    found = {name: Row() for name in document}
    for name, row in found.items():
        row.take(document[name], sets)
    return found
