"""Joins the ranks' files: the weights, the optimizer's state, and the other metadata."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError
from ckptconv.formats.torch.deepspeed.frozen import check_alike, frozen
from ckptconv.formats.torch.deepspeed.layout import Group, groups
from ckptconv.formats.torch.deepspeed.members import members
from ckptconv.formats.torch.deepspeed.moments import KEYS, Moments, NotByParameterError
from ckptconv.formats.torch.deepspeed.reading import OPTIMIZER, Reading
from ckptconv.formats.torch.sets.same import differing
from ckptconv.formats.torch.tree.build import add_beside
from ckptconv.formats.torch.tree.placing import placed_stub

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ckptconv.formats.torch.deepspeed.states import File, ModelStates, OptimizerStates
    from ckptconv.formats.torch.pickle import Value


@dataclass(slots=True)
class Ranks:
    """The files of all ranks, in order. There is only one in `models`, except in stage 3."""

    reading: Reading
    models: Sequence[ModelStates]
    ranks: Sequence[OptimizerStates]

    def join(self) -> tuple[dict[str, Value], dict[Value, Value]]:
        """The model's tensors, and everything else in the files. Raises CkptconvError with the file's path."""
        _check_together(self.models, self.ranks)
        place = self.reading.place
        parts = [
            [place(f"group {i} of the partitions", stub) for i, stub in enumerate(states.partitions)]
            for states in self.ranks
        ]
        result = groups(self.models[0], self.ranks, parts)
        weights = frozen(self.reading, self.models)
        for i, group in enumerate(result):
            weights |= group.tensors([flat[i] for flat in parts], self.reading.alias)
        held = {name: placed_stub(tensor) for name, tensor in weights.items()}
        return members(self.reading, self.models[0], held), self._beside(result)

    def _beside(self, made: Sequence[Group]) -> dict[str, Value]:
        """Everything in the files except the weights. Equal values are kept once; where another rank differs from rank
        0, its values are under its file's name.
        """
        model, first, budget = self.models[0], self.ranks[0], self.reading.budget
        key, joined = self._moments(made)
        beside: dict[Value, Value] = {}
        add_beside(beside, model.rest)
        if not joined:
            add_beside(beside, {"param_shapes": model.file.entries["param_shapes"]})  # needed to read the flat tensors
        add_beside(beside, {OPTIMIZER: {at: value for at, value in first.inner.items() if at != key} | joined})
        add_beside(beside, differing(model.rest, first.rest, budget))
        for other in self.models[1:]:
            add_beside(beside, _under_file_name(other.file, differing(model.rest, other.rest, budget)))
        for states in self.ranks[1:]:
            kept = {at: value for at, value in states.inner.items() if at != key}
            inner = differing(first.inner, kept, budget)
            rest = differing(first.rest, states.rest, budget)
            add_beside(beside, _under_file_name(states.file, rest | ({OPTIMIZER: inner} if inner else {})))
        return beside

    def _moments(self, made: Sequence[Group]) -> tuple[str, dict[str, Value]]:
        """The key of the optimizer's state, and the state by parameter; ("", {}) if it cannot be split."""
        key = next((key for key in KEYS if all(key in states.inner for states in self.ranks)), "")
        if not key:
            return "", {}
        moments = Moments(made, self.reading.place, self.reading.budget)
        try:
            return key, moments.join([states.inner[key] for states in self.ranks])
        except NotByParameterError:
            message = "the optimizer's state is not one of flat tensors like the weights': it is as each rank has it"
            self.reading.findings.append(Finding("optimizer-by-rank", "info", OPTIMIZER, message))
            return "", {}


def _under_file_name(file: File, entries: Mapping[Value, Value]) -> dict[str, Value]:
    return {file.name.removesuffix(".pt"): dict(entries)} if entries else {}


def _check_together(models: Sequence[ModelStates], ranks: Sequence[OptimizerStates]) -> None:
    """Check that the files are all those of one checkpoint. Raises CorruptFileError."""
    model, first = models[0], ranks[0]
    check_alike(models)
    for states in ranks:
        if states.ranks != len(ranks):
            raise states.file.error(
                f"it is one of {states.ranks:,} ranks' files, and the folder has {len(ranks):,} optim_states"
            )
        if states.stage != first.stage:
            raise states.file.error(f"it is of stage {states.stage}, and {first.file.name} of stage {first.stage}")
        if states.between != first.between:
            raise states.file.error(f"its param_alignment_paddings are others than those of {first.file.name}")
    if (first.stage == 3) is not model.divided:
        raise first.file.error(f"it is of stage {first.stage}, and {model.file.name} is of another")
    if model.divided and len(models) != len(ranks):
        raise CorruptFileError(
            f"there are {len(ranks):,} optim_states and {len(models):,} model_states, one each of every rank",
            path=model.file.folder.path, hint=COPY_ALL_AGAIN,
        )  # fmt: skip
    if model.shapes is None:
        raise model.file.error("it has no param_shapes, which say what the optim_states beside it hold")
