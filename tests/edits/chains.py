"""Random chains of edits on random names, with numbers without dimensions, ties and empty tensors among them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

State = dict[str, torch.Tensor]

WORDS = ("attn", "mlp", "norm", "q", "k", "up", "conv", "fc", "weight", "bias", "scale", "num_batches_tracked", "w1")


@dataclass(frozen=True)
class Chain:
    """What changes tensors: `choose` draws, `telling` is whether each tensor has numbers of its own."""

    choose: Random
    rng: torch.Generator
    telling: bool

    @classmethod
    def of(cls, seed: int, *, telling: bool = False) -> Chain:
        return cls(Random(seed), torch.Generator().manual_seed(seed), telling)

    def start(self) -> State:
        """A numbered stack of a few modules, and some tensors beside it."""
        choose, state = self.choose, State()
        stack = choose.choice(["layers", "blocks", "h"])
        leaves = [
            (self.path(3), choose.choice([0, 0, 1, 2, 2, 3]), choose.random()) for _ in range(choose.randint(1, 5))
        ]
        shapes = {path: [choose.choice([2, 3, 4, 6, 8]) for _ in range(rank)] for path, rank, _ in leaves}
        for i in range(choose.randint(1, 4)):
            for path, _, how in leaves:
                state[f"{stack}.{i}.{path}"] = self.values(shapes[path], how)
        for _ in range(choose.randint(0, 3)):
            shape = [choose.choice([2, 3, 4]) for _ in range(choose.choice([0, 1, 2]))]
            state[self.path(2)] = self.values(shape, choose.random())
        if not self.telling and choose.random() < 0.3:
            state["tied"] = state[choose.choice(list(state))]
            state["void.weight"] = torch.empty(0, 3)
        return state

    def path(self, most: int) -> str:
        return ".".join(self.choose.sample(WORDS, self.choose.randint(1, most)))

    def values(self, shape: list[int], how: float) -> torch.Tensor:
        if self.telling or how < 0.6:
            return torch.randn(shape, generator=self.rng)
        if how < 0.8:
            return torch.full(shape, float(self.choose.choice([0, 1])))
        return torch.randint(0, self.choose.choice([1, 3, 1000]), shape, generator=self.rng)

    def rename(self, state: State) -> State:
        """A prefix, a component wherever it is, or that of one name or of some."""
        how = self.choose.choice(["prefix", "all", "one"] if self.telling else ["prefix", "all", "one", "some"])
        if how == "prefix":
            prefix = self.choose.choice(["model.", "x.y."])
            return {prefix + name: tensor for name, tensor in state.items()}
        chosen = self.choose.choice(list(state))
        old = self.choose.choice([part for part in chosen.split(".") if not part.isdigit()])
        new = self.choose.choice(WORDS) + self.choose.choice(["", "_x"])
        made: State = {}
        for name, tensor in state.items():
            meant = name == chosen if how == "one" else how == "all" or self.choose.random() < 0.5
            made[".".join(new if part == old else part for part in name.split(".")) if meant else name] = tensor
        return made if len(made) == len(state) else state

    def alike(self, state: State, rank: int) -> list[str]:
        """Names that differ in their numbers alone, of tensors of that rank at least."""
        chosen = [name for name, tensor in state.items() if tensor.dim() >= rank and tensor.numel()]
        kind = _open(self.choose.choice(chosen)) if chosen else None
        return [name for name in chosen if _open(name) == kind]

    def concat(self, state: State) -> State:
        """Tensors and others of the same layers, in all of them."""
        firsts, seconds = self.alike(state, 1), self.alike(state, 1)
        pairs = dict(zip(firsts, seconds, strict=False)) if len(firsts) == len(seconds) else {}
        if set(firsts) & set(seconds) or not all(_joins(state[a], state[b]) for a, b in pairs.items()):
            return state
        made: State = {}
        for name, tensor in state.items():
            if name not in pairs.values():
                made[f"{name}_all" if name in pairs else name] = (
                    torch.cat([tensor, state[pairs[name]]]) if name in pairs else tensor
                )
        return made

    def split(self, state: State) -> State:
        """Halves by rows."""
        chosen = [name for name in self.alike(state, 1) if state[name].shape[0] > 3]
        made: State = {}
        for name, tensor in state.items():
            half = tensor.shape[0] // 2 if name in chosen else 0
            made |= {f"{name}_a": tensor[:half].clone(), f"{name}_b": tensor[half:].clone()} if half else {name: tensor}
        return made

    def stack(self, state: State) -> State:
        """What stands in all layers, as one."""
        chosen = [name for name in self.alike(state, 0) if any(map(str.isdigit, name))]
        whole = ".".join(part for part in chosen[0].split(".") if not part.isdigit()) if chosen else ""
        same = len({(state[name].shape, state[name].dtype) for name in chosen}) == 1
        if len(chosen) < 2 or not same or whole in state:
            return state
        made = {name: tensor for name, tensor in state.items() if name not in chosen}
        return {**made, whole: torch.stack([state[name] for name in chosen])}

    def transpose(self, state: State) -> State:
        chosen = [name for name in self.alike(state, 2) if state[name].dim() == 2]
        return {name: t.T.contiguous() if name in chosen else t for name, t in state.items()}

    def cast(self, state: State) -> State:
        """All floats, or those of one kind; what is tied stays tied where both are cast."""
        dtype = self.choose.choice([torch.float16, torch.bfloat16, torch.float64])
        chosen = list(state) if self.choose.random() < 0.5 else self.alike(state, 0)
        made: dict[int, torch.Tensor] = {}
        return {
            name: made.setdefault(id(t), t.to(dtype)) if name in chosen and t.is_floating_point() else t
            for name, t in state.items()
        }

    def untie(self, state: State) -> State:
        name = self.choose.choice(list(state))
        return {**state, name: state[name].clone()}


KINDS: dict[str, Callable[[Chain, State], State]] = {
    "rename": Chain.rename, "concat": Chain.concat, "split": Chain.split, "stack": Chain.stack,
    "transpose": Chain.transpose, "cast": Chain.cast, "untie": Chain.untie,
}  # fmt: skip


def _open(name: str) -> tuple[str, ...]:
    return tuple("#" if part.isdigit() else part for part in name.split("."))


def _joins(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.shape[1:] == b.shape[1:] and a.dim() == b.dim()
