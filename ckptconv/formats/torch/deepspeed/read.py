"""Reader of DeepSpeed's folders: the pickles of all files, and tensors that lie in the ranks' flat ones.

The model's tensors are the fp32 weights of the optimizer, under the names and in the order of the module's state_dict;
its buffers, and parameters that the optimizer has not, are as the module has them (in stage 3 as rank 0 has them). The
16-bit weights, which are these rounded, are left out. What the files of the other ranks say differently from rank 0's
is kept under the file's name.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError, CorruptFileError
from ckptconv.formats.torch.assemble import assemble
from ckptconv.formats.torch.deepspeed.files import COPY_AGAIN, files_of, tag_folder
from ckptconv.formats.torch.deepspeed.flat import rows
from ckptconv.formats.torch.deepspeed.layout import Group, groups
from ckptconv.formats.torch.deepspeed.moments import KEYS, Moments, NotByParameterError
from ckptconv.formats.torch.deepspeed.same import differing
from ckptconv.formats.torch.deepspeed.states import (
    File,
    ModelStates,
    OptimizerStates,
    model_states,
    open_file,
    optimizer_states,
)
from ckptconv.formats.torch.pickle import Budget, StateOrderedDict, Value
from ckptconv.formats.torch.roots import plant_state_dict
from ckptconv.formats.torch.stubs import StorageStub, TensorStub

if TYPE_CHECKING:
    from collections import OrderedDict
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from ckptconv.core.checkpoint import Checkpoint, GlobalUse, Notes
    from ckptconv.core.metadata import Opaque
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.torch.deepspeed.files import Files
    from ckptconv.io.folder import Folder

NAME = "deepspeed"
OPTIMIZER = "optimizer_state_dict"


def read(folder: Folder) -> Checkpoint:
    """Open the checkpoint of this tag, or that which ``latest`` names: every file's pickle; no byte of a tensor.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError, UsageError, which name the file.
    """
    found = tag_folder(folder)
    try:
        return _Reader(files_of(found)).read()
    except CkptconvError as error:
        found.close()
        raise error.at(found.path) from error.__cause__
    except BaseException:
        found.close()
        raise


@dataclass(slots=True)
class _Reader:
    """`places` are the storages that planted tensors refer to, by identity, with what places such a tensor."""

    files: Files
    budget: Budget = field(default_factory=lambda: Budget(0))
    opened: list[File] = field(default_factory=list)
    places: dict[int, tuple[StorageStub, Callable[[str, TensorStub], LazyTensor]]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def read(self) -> Checkpoint:
        models = [model_states(self._open(name)) for name in self.files.model.values()]
        ranks = [optimizer_states(self._open(name)) for name in self.files.optimizer.values()]
        self.budget = Budget(sum(file.saved.size for file in self.opened))
        _check_together(self.files, models, ranks)
        tensors, beside = self._joined(models, ranks) if ranks else self._whole(models[0])
        tree = plant_state_dict(tensors, beside, self.budget)
        opened = assemble(
            tree, self._place, self.budget, format=NAME, machines=[file.saved.machine for file in self.opened],
            file=self.files.folder, findings=tuple(self.findings),
        )  # fmt: skip
        opened.notes = _said_once(opened.notes)
        return opened

    def _open(self, name: str) -> File:
        file = open_file(self.files.folder, name)
        self.opened.append(file)
        self.places |= {id(storage): (storage, self._placed_in(file)) for storage in file.saved.storages}
        return file

    def _placed_in(self, file: File) -> Callable[[str, TensorStub], LazyTensor]:
        def place(name: str, stub: TensorStub) -> LazyTensor:
            try:
                return file.saved.placer.place(name, stub)
            except CkptconvError as error:
                raise error.at(self.files.folder.path / file.name) from error.__cause__

        return place

    def _place(self, name: str, stub: TensorStub) -> LazyTensor:
        """A planted tensor: one that was put together, or one of a file's own."""
        _, place = self.places[id(stub.storage)]
        return place(name, stub)

    def _adopt(self, tensor: LazyTensor) -> TensorStub:
        """What stands for a tensor that was put together, in a tree."""
        storage = StorageStub("", tensor.info.dtype, "cpu", tensor.info.numel)
        self.places[id(storage)] = storage, lambda name, stub: tensor
        return TensorStub(storage, tensor.info.dtype, 0, tensor.info.shape, ())

    def _whole(self, model: ModelStates) -> tuple[OrderedDict[str, Value], dict[str, Value]]:
        """A checkpoint without optimizer states: the module has the weights."""
        if self.files.stage3:
            raise CorruptFileError(
                "the weights of stage 3 are in the ranks' optim_states files, and there are none",
                path=self.files.folder.path, hint=COPY_AGAIN,
            )  # fmt: skip
        if model.shapes:
            message = "there are no optim_states, which have the fp32 weights: these are the module's own"
            self.findings.append(Finding("no-optim-states", "warning", "", message))
        return _state_dict(model.module, model.module), {str(key): value for key, value in model.rest.items()}

    def _joined(
        self, models: Sequence[ModelStates], ranks: Sequence[OptimizerStates]
    ) -> tuple[OrderedDict[str, Value], dict[str, Value]]:
        """The optimizer's weights as the model's, and all that is said besides."""
        parts = [
            [self._place(f"group {i} of {states.file.name}", stub) for i, stub in enumerate(states.partitions)]
            for states in ranks
        ]
        made = groups(models[0], ranks, parts)
        weights: dict[str, LazyTensor] = {}
        for i, group in enumerate(made):
            weights |= group.tensors([flat[i] for flat in parts], self._alias)
        stubs = {name: self._adopt(tensor) for name, tensor in (weights | self._frozen(models)).items()}
        held = stubs | self._shared(models[0], stubs)
        return _state_dict(models[0].module, self._members(models[0], held)), self._beside(models, ranks, made)

    def _alias(self, name: str) -> Hashable:
        return id(self.files), name

    def _frozen(self, models: Sequence[ModelStates]) -> dict[str, LazyTensor]:
        """Parameters that the optimizer has not, whole or put together from each rank's part."""
        first = models[0]
        frozen: dict[str, LazyTensor] = {}
        for name, shape in first.frozen_shapes.items():
            parts = [self._place(f"frozen_param_fragments.{name}", model.frozen[name]) for model in models]
            if not self.files.stage3:
                if parts[0].info.shape != shape:
                    raise first.file.error(f"its frozen {name!r} is {list(parts[0].info.shape)}, and not {list(shape)}")
                frozen[name] = replace(parts[0], alias=self._alias(name))
                continue
            count = -(-prod(shape) // len(parts))
            for model, part in zip(models, parts, strict=True):
                if (
                    part.info.shape != (count,)
                    or part.info.dtype is not parts[0].info.dtype
                    or part.info.dtype.bits % 8
                ):
                    raise model.file.error(
                        f"its part of the frozen {name!r} is {part.info.dtype} {list(part.info.shape)}, and should be "
                        f"{parts[0].info.dtype} [{count}]"
                    )
            frozen[name] = rows(parts, 0, count, shape, self._alias(name))
        return frozen

    def _shared(self, model: ModelStates, stubs: Mapping[str, TensorStub]) -> dict[str, TensorStub]:
        """Further names of parameters, by ``shared_params``."""
        shared: dict[str, TensorStub] = {}
        for name, stored in model.shared.items():
            stub, own = stubs.get(stored), stubs.get(name)
            if own is not None and stub is not None and own.storage.numel and own.shape != stub.shape:
                raise model.file.error(f"its shared_params say that {name!r} is {stored!r}, and they have other shapes")
            if stub is not None and (own is None or own.storage.numel):
                shared[name] = stub
        return shared

    def _members(self, model: ModelStates, held: Mapping[str, TensorStub]) -> dict[str, Value]:
        """The state_dict in the module's order, what it lacks at its end."""
        members: dict[str, Value] = {}
        absent = []
        for key, value in model.module.items():
            if key in held:
                self._check_like(model, key, value, held[key])
                members[key] = held[key]
            elif (
                self.files.stage3 and key not in model.buffers and isinstance(value, TensorStub) and value.shape == (0,)
            ):
                absent.append(key)
            else:
                members[key] = value
        if absent:
            message = (
                f"{absent[0]!r}{f' and {len(absent) - 1:,} more' if len(absent) > 1 else ''} of the module are "
                "not in the checkpoint: DeepSpeed saved neither the optimizer's weights nor frozen ones for them"
            )
            self.findings.append(Finding("no-values", "warning", absent[0], message))
        return members | {key: value for key, value in held.items() if key not in members}

    def _check_like(self, model: ModelStates, name: str, value: Value, stub: TensorStub) -> None:
        """The module's own tensor has to be of the shape that the param_shapes say, where it was not emptied."""
        emptied = self.files.stage3 and isinstance(value, TensorStub) and value.shape == (0,)
        if isinstance(value, TensorStub) and not emptied and value.shape != stub.shape:
            raise model.file.error(
                f"its param_shapes say that {name!r} is {list(stub.shape)}, and its module has {list(value.shape)}"
            )

    def _beside(
        self, models: Sequence[ModelStates], ranks: Sequence[OptimizerStates], made: Sequence[Group]
    ) -> dict[str, Value]:
        """What the files say besides the weights, the same things once."""
        beside: dict[str, Value] = {}
        _put(beside, models[0].rest)
        inner, joined = dict(ranks[0].inner), self._moments(ranks, made)
        inner |= joined
        _put(beside, {OPTIMIZER: inner})
        _put(beside, differing(models[0].rest, ranks[0].rest, self.budget))
        for model in models[1:]:
            _put(beside, _of(model.file, differing(models[0].rest, model.rest, self.budget)))
        for states in ranks[1:]:
            own = {key: value for key, value in states.inner.items() if key not in joined}
            other = differing(ranks[0].inner, own, self.budget)
            rest = differing(ranks[0].rest, states.rest, self.budget)
            _put(beside, _of(states.file, rest | ({OPTIMIZER: other} if other else {})))
        return beside

    def _moments(self, ranks: Sequence[OptimizerStates], made: Sequence[Group]) -> dict[Value, Value]:
        """The optimizer's state by parameter, under its key; nothing where it has to be kept rank by rank."""
        key = next((key for key in KEYS if all(key in states.inner for states in ranks)), None)
        if key is None:
            return {}
        moments = Moments(made, self._place, self._adopt, self.budget)
        try:
            return {key: moments.join([states.inner[key] for states in ranks])}
        except NotByParameterError:
            message = (
                "the optimizer's state is not one of flat tensors like the weights': it is kept as each rank has it"
            )
            self.findings.append(Finding("optimizer-by-rank", "info", OPTIMIZER, message))
            return {}


def _check_together(files: Files, models: Sequence[ModelStates], ranks: Sequence[OptimizerStates]) -> None:
    """The files have to be of one checkpoint, and all of it."""
    for model in models[1:]:
        if (model.shapes, model.frozen_shapes) != (models[0].shapes, models[0].frozen_shapes):
            raise model.file.error(f"its param_shapes are others than those of {models[0].file.name}")
    for states in ranks:
        if states.ranks != len(ranks):
            raise states.file.error(
                f"it is one of {states.ranks:,} ranks' files, and the folder has {len(ranks):,} optim_states"
            )
        if states.stage != ranks[0].stage:
            raise states.file.error(f"it is of stage {states.stage}, and {ranks[0].file.name} of {ranks[0].stage}")
        if (states.between, len(states.partitions)) != (ranks[0].between, len(ranks[0].partitions)):
            raise states.file.error(f"its groups are padded otherwise than those of {ranks[0].file.name}")
    if not ranks:
        return
    if (ranks[0].stage == 3) is not files.stage3:
        raise ranks[0].file.error(f"it is of stage {ranks[0].stage}, and {models[0].file.name} is not")
    if files.stage3 and len(models) != len(ranks):
        raise CorruptFileError(
            f"there are {len(ranks):,} optim_states and {len(models):,} model_states, one each of every rank",
            path=files.folder.path, hint=COPY_AGAIN,
        )  # fmt: skip
    if models[0].shapes is None:
        raise models[0].file.error("it has no param_shapes, which say what the optim_states beside it hold")


def _state_dict(module: Mapping[Value, Value], members: Mapping[Value, Value]) -> OrderedDict[str, Value]:
    """The members as a state_dict, with the module's versions."""
    made = StateOrderedDict(members)
    made.state = module.state if isinstance(module, StateOrderedDict) else None
    return made


def _put(beside: dict[str, Value], entries: Mapping[Value, Value]) -> None:
    """Add entries under their keys, which are no other's; a client's may be called as ours are."""
    for key, value in entries.items():
        free, number = str(key), 2
        while free in beside or free == "state_dict":
            free, number = f"{key}#{number}", number + 1
        beside[free] = value


def _of(file: File, entries: Mapping[Value, Value]) -> dict[str, Value]:
    return {file.name.removesuffix(".pt"): dict(entries)} if entries else {}


def _said_once(notes: Notes) -> Notes:
    """The ranks name the same classes, and make objects of them that say nothing new; calls are all told."""
    uses: dict[str, GlobalUse] = {}
    for use in notes.globals:
        known = uses.setdefault(use.name, use)
        uses[use.name] = replace(known, called=known.called or use.called)
    return replace(notes, globals=tuple(uses.values()), unseen=tuple(_news(notes.unseen)))


def _news(unseen: Iterable[Opaque]) -> Iterable[Opaque]:
    told: set[str] = set()
    for one in unseen:
        if one.how == "called" or one.name not in told:
            yield one
        told.add(one.name)
