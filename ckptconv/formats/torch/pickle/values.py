"""What a pickle is turned into where it is not plain data, and who decides what may be built."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ckptconv.errors import LimitError
from ckptconv.io.limits import FREE_NODES, MAX_NODES, NODES_A_BYTE

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.metadata import How

Value = Any  # what is on the stack: whatever the pickle made


@dataclass(frozen=True, slots=True)
class Global:
    """A name that the pickle mentions."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class StateOrderedDict(OrderedDict[Value, Value]):
    """An OrderedDict that may have been given attributes, as ``state_dict()`` gives ``_metadata``."""

    state: Value = None


@dataclass(slots=True, eq=False)
class Thing:
    """An object that was not built. `how` as in `ckptconv.core.metadata.Opaque`."""

    name: str
    how: How
    args: tuple[Value, ...] = ()
    kwargs: dict[str, Value] = field(default_factory=dict)
    state: Value = None
    items: list[Value] = field(default_factory=list)
    pairs: list[tuple[Value, Value]] = field(default_factory=list)


class Constructors(Protocol):
    """What a pickle may build: ours, by exact name."""

    def value(self, name: Global) -> Value:
        """What a name that is only mentioned stands for; the Global itself where it is not known."""

    def constructor(self, name: Global) -> Callable[..., Value] | None:
        """Our constructor for a name, where there is one; its result may be NotImplemented, for "not with these"."""

    def is_harmless(self, name: Global, args: tuple[Value, ...]) -> bool:
        """Whether a call of `name` only makes a plain value, so that it is worth no alarm."""

    def build(self, instance: Value, state: Value) -> bool:
        """Give `instance` its state; False where it is none of ours."""

    def persistent(self, identifier: Value) -> Value:
        """What a persistent id stands for."""


class Budget:
    """How many values a pickle of `size` bytes may come to: a short one can ask for one list a million times."""

    def __init__(self, size: int) -> None:
        self._most = self._left = min(MAX_NODES, FREE_NODES + NODES_A_BYTE * size)

    def take(self, count: int) -> None:
        """Count values. Raises LimitError once there are too many."""
        self._left -= count
        if self._left < 0:
            raise LimitError(f"the pickle comes to more than {self._most:,} values", hint="do not trust it")
