"""Universal checkpoints, made by ds_to_universal.py: a folder for each parameter, with a file for each tensor.

    TAG/[zero_pp_rank_R_]mp_rank_00_model_states.pt    as in the original checkpoint
    TAG/zero/NAME/fp32.pt, exp_avg.pt, exp_avg_sq.pt   {"param": the whole tensor, "cat_dim": …}; a flat
                                                       tensor if the original was of stage 3
    TAG/zero/NAME/step.pt                              a tensor with one number, or the number
    TAG/zero/optimizer_state.pt                        the rest of the optimizer's state: hyperparameters, …

There are also copies of buffers and frozen parameters, cast to fp32; instead, the module's own are read.

Source: deepspeed/checkpoint/ds_to_universal.py.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError, UnsupportedError
from ckptconv.formats.torch.deepspeed.files import UNIVERSAL
from ckptconv.formats.torch.deepspeed.flat import run
from ckptconv.formats.torch.deepspeed.frozen import check_alike, frozen
from ckptconv.formats.torch.deepspeed.members import members
from ckptconv.formats.torch.deepspeed.moments import NotByParameterError, named
from ckptconv.formats.torch.deepspeed.reading import OPTIMIZER, Reading
from ckptconv.formats.torch.deepspeed.states import LAYOUT_OF_OPTIMIZER
from ckptconv.formats.torch.sets.same import differing
from ckptconv.formats.torch.tree.build import add_beside
from ckptconv.formats.torch.tree.placing import placed_stub
from ckptconv.formats.torch.values.stubs import TensorStub

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.torch.deepspeed.states import File, ModelStates, Shapes
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.io.folder import Folder

WEIGHTS = "fp32.pt"
STATE = "optimizer_state.pt"


@dataclass(slots=True)
class Universal:
    """Reads a universal checkpoint. `models` are the model_states of all ranks; if there are several mp_ranks, each has
    a slice of the parameters.
    """

    reading: Reading
    models: Sequence[ModelStates]
    folder: Folder

    def join(self) -> tuple[dict[str, Value], dict[Value, Value]]:
        """The model's tensors, and everything else in the files. Raises CkptconvError with the file's path."""
        first = self.models[0]
        shapes = {name: shape for model in self.models for group in model.shapes or () for name, shape in group.items()}
        cut = len({model.part for model in self.models}) > 1
        if cut:
            self._refuse_frozen(shapes)
        else:
            check_alike(self.models)
        parameters = self.folder.inside(UNIVERSAL)
        weights, state = self._tensors(parameters, shapes, cut)
        weights |= {} if cut else frozen(self.reading, self.models)
        held = {name: placed_stub(tensor) for name, tensor in weights.items()}
        beside: dict[Value, Value] = {}
        add_beside(beside, first.rest)
        add_beside(beside, {OPTIMIZER: self._optimizer(parameters, state)})
        for model in self.models[1:]:
            own = differing(first.rest, model.rest, self.reading.budget)
            add_beside(beside, {model.file.name.removesuffix(".pt"): own} if own else {})
        return members(self.reading, first, held, whole=False), beside

    def _refuse_frozen(self, shapes: Shapes) -> None:
        first = self.models[0]
        for name, value in first.module.items():
            known = name in shapes or name in first.buffers or name in first.shared
            if isinstance(value, TensorStub) and not known:
                raise UnsupportedError(
                    f"the frozen {name!r} is cut for tensor parallelism, how is not in the checkpoint",
                    path=first.file.path, hint="load it with DeepSpeed, and save the module's state_dict()",
                )  # fmt: skip

    def _tensors(
        self, parameters: Folder, shapes: Shapes, cut: bool
    ) -> tuple[dict[str, LazyTensor], dict[str, dict[Value, Value]]]:
        """The weights of each parameter, and its optimizer state."""
        weights: dict[str, LazyTensor] = {}
        state: dict[str, dict[Value, Value]] = {}
        for name in parameters.folders:
            folder = parameters.inside(name)
            files = [file for file in folder.names if file.endswith(".pt")]
            if WEIGHTS not in files:
                raise CorruptFileError(f"there is no {WEIGHTS} in this folder", path=folder.path, hint=COPY_ALL_AGAIN)
            opened = {file: self.reading.open(folder, file) for file in files}
            if name not in shapes:
                continue  # a copy of one of the module's own tensors
            shape = None if cut else shapes[name]
            weights[name] = self._tensor(opened.pop(WEIGHTS), shape, name)
            state[name] = {key.removesuffix(".pt"): self._state(file, shape) for key, file in opened.items()}
        for name in shapes:
            if name not in weights:
                raise CorruptFileError(
                    f"there is no folder for the parameter {name!r}", path=parameters.path, hint=COPY_ALL_AGAIN
                )
        return weights, state

    def _state(self, file: File, shape: tuple[int, ...] | None) -> Value:
        """A value of the optimizer's state: a number, or a tensor."""
        value = file.saved.value
        if isinstance(value, (int, float)):
            return value
        single = isinstance(value, TensorStub) and value.shape == ()
        tensor = self._tensor(file, () if single else shape, None)
        return placed_stub(replace(tensor, alias=None))

    def _tensor(self, file: File, shape: tuple[int, ...] | None, name: str | None) -> LazyTensor:
        """The tensor in a file; a flat one gets its shape. `shape` is None if the tensor's own is right."""
        value = file.saved.value
        stub = value.get("param") if isinstance(value, dict) else value
        if not isinstance(stub, TensorStub):
            raise file.error("it holds no tensor, which is what a file of a universal checkpoint holds")
        tensor = self.reading.place(file.name.removesuffix(".pt"), stub)
        alias = None if name is None else self.reading.alias(name)
        unpadded = isinstance(value, dict) and "vocab_tensor" in value
        if shape is None or tensor.info.shape == shape or unpadded:
            return replace(tensor, alias=alias)
        if tensor.info.shape != (prod(shape),) or tensor.info.dtype.bits % 8:
            raise file.error(f"it holds a tensor of {list(tensor.info.shape)}, and the param_shapes say {list(shape)}")
        return run(tensor, 0, replace(tensor.info, shape=shape), alias)

    def _optimizer(self, parameters: Folder, state: dict[str, dict[Value, Value]]) -> dict[Value, Value]:
        """The optimizer's state by parameter, and its other values."""
        if STATE not in parameters.names:
            return {"state": state}
        file = self.reading.open(parameters, STATE)
        groups = [list(group) for group in self.models[0].shapes or ()]
        inner = file.entries.get(OPTIMIZER)
        of_groups = inner.get("state") if isinstance(inner, dict) else None
        for number, names in enumerate(groups):
            row = of_groups.get(number) if isinstance(of_groups, dict) else None
            for key, value in (row if isinstance(row, dict) else {}).items():
                self._spread(key, value, [state[name] for name in names])
        left_out = (*LAYOUT_OF_OPTIMIZER, OPTIMIZER, "param_groups")
        rest = {key: value for key, value in file.entries.items() if key not in left_out}
        param_groups = file.entries.get("param_groups")
        with suppress(NotByParameterError):  # else they keep the numbers
            param_groups = named(param_groups, groups)
        return rest | {"state": state, "param_groups": param_groups}

    def _spread(self, key: Value, value: Value, states: Sequence[dict[Value, Value]]) -> None:
        """Give a value that stage 3 keeps only for a group, such as the step count, to each of its parameters. Flat
        tensors are skipped: they are in the parameters' files.
        """
        if isinstance(value, TensorStub):
            if value.shape != ():
                return
            tensor = replace(self.reading.place("the optimizer's state", value), alias=None)
            for state in states:
                state.setdefault(key, placed_stub(tensor))
        else:
            for state in states:
                state.setdefault(key, value)
