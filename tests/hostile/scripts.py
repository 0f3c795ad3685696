"""TorchScript archives whose code runs as they are loaded: a class that is given its state by a method of its own."""

from __future__ import annotations

import io
import warnings

import torch

from tests.hostile.cases import CODES, MARKER, Case


class Saves(torch.nn.Module):
    """It writes a file as it is given its state."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.ones(2)
        self.where = MARKER

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
        return self.w, self.where, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        self.w = state[0]
        self.where = state[1]
        self.training = state[2]
        torch.save(state[0], state[1])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Nothing of note."""
        return x


class Maps(Saves):
    """It makes a file and maps it."""

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        self.w = torch.from_file(state[1], True, 2)
        self.where = state[1]
        self.training = state[2]


class Sets(Saves):
    """It is given its state and nothing else."""

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        self.w = state[0]
        self.where = state[1]
        self.training = state[2]


def saved(module: torch.nn.Module) -> bytes:
    """An archive of it."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch.jit is no longer developed
        torch.jit.save(torch.jit.script(module), buffer)
    return buffer.getvalue()


def cases() -> list[Case]:
    """All of them."""
    code = (0, 1, 0, 0)  # the code stays behind
    made = [
        Case(name, "of loaders", saved(module), "would run code", code, False, True, ".pt", loader="torch.jit")
        for name, module in (("a script that saves", Saves()), ("a script that maps a file", Maps()))
    ]
    return [*made, Case("a script with a state", "names", saved(Sets()), "plain", CODES["plain"], suffix=".pt")]
