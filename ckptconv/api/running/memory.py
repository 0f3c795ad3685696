"""The memory that running takes: for one network at a time, and only if there is enough.

A network takes as much memory as its model in F32, and twice as much in float64. So only one is in memory at a time:
loading another one releases it, and it is loaded again when it is needed again. Where memory does not suffice, that is
an error before anything is loaded; Linux would stop the process without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.memory import available_memory, give_back_freed_memory
from ckptconv.core.text import approximately, size
from ckptconv.errors import MemoryLimitError

if TYPE_CHECKING:
    from pathlib import Path

    from ckptconv.api.running.side import Side
    from ckptconv.core.checkpoint import Checkpoint


class Memory:
    """The memory for one network, shared by the sides that are compared."""

    def __init__(self) -> None:
        self._holder: Side | None = None

    def give_to(self, side: Side) -> None:
        """Release the network in memory, since `side` is about to load one."""
        if self._holder is not None:
            self._holder.release()
        self._holder = side
        give_back_freed_memory()


@dataclass(frozen=True, slots=True)
class Needs:
    """What running a file takes, activations apart.

    network: bytes of the network that runs.
    numel:   elements of all tensors, tied ones once.
    largest: elements of the largest one, of which the float64 run makes a copy.
    """

    path: Path
    network: int
    numel: int
    largest: int

    @classmethod
    def of(cls, path: Path, checkpoint: Checkpoint, *, graph: bool) -> Needs:
        """The needs of a checkpoint: torch runs F32, or F64 if all floats are that, onnxruntime the file's types."""
        infos = {tensor.identity(name): tensor.info for name, tensor in checkpoint.items()}.values()
        numbers = [info.numel for info in infos]
        floats = {info.dtype.bits for info in infos if info.dtype.kind == "float"}
        width = 8 if floats == {64} else 4
        network = sum(info.nbytes for info in infos) if graph else width * sum(numbers)
        return cls(path, network, sum(numbers), max(numbers, default=0))

    def check_network(self) -> None:
        """Raise MemoryLimitError unless the network can be loaded."""
        hint = "a machine with more memory; ckptconv diff compares weights in little memory, without running them"
        self._check(self.network, "running it", hint)

    def check_reference(self, *, loaded: bool) -> None:
        """Raise MemoryLimitError unless the network can run in float64. `loaded`: it is in memory in its own type."""
        more = 8 * (self.numel + self.largest) - (self.network if loaded else 0)
        hint = "--rtol and --atol say how far outputs may differ, without that run"
        self._check(more, "the float64 run that gives the bound", hint)

    def _check(self, needed: int, what: str, hint: str) -> None:
        available = available_memory()
        if available is not None and needed > available:
            raise MemoryLimitError(
                f"{what} takes {size(needed)} of memory, for {approximately(self.numel)} parameters, but only "
                f"{size(available)} are free",
                path=self.path, hint=hint,
            )  # fmt: skip
