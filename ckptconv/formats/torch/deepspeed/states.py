"""The contents of one rank's files, model states and optimizer states, as checked values. Tensors are still stubs."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from ckptconv.core.metadata import TorchSize
from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError, UnsupportedError
from ckptconv.formats.torch.calls.harmless import ZERO_STAGE
from ckptconv.formats.torch.containers.saved import saved_in
from ckptconv.formats.torch.deepspeed.files import MODEL
from ckptconv.formats.torch.values.construct import TorchConstructors
from ckptconv.formats.torch.values.stubs import TensorStub
from ckptconv.io.limits import MAX_DIM, MAX_FILES, MAX_RANK, is_size

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from ckptconv.formats.torch.containers.saved import Saved
    from ckptconv.formats.torch.pickle import Global, Value
    from ckptconv.io.folder import Folder

FRAGMENT = "deepspeed.utils.tensor_fragment.fragment_address"

Shapes = dict[str, tuple[int, ...]]

LAYOUT_OF_MODEL = ("module", "param_shapes", "shared_params", "frozen_param_fragments")
LAYOUT_OF_OPTIMIZER = (
    "single_partition_of_fp32_groups", "fp32_flat_groups", "partition_count", "group_paddings",
    "param_alignment_paddings", "param_slice_mappings",
)  # fmt: skip
"""Keys that only describe where tensors are, and are not kept as metadata."""


@dataclass(slots=True, eq=False)
class Fragment:
    """A ``fragment_address``: `numel` elements of a parameter are in a rank's partition, from `start` on."""

    numel: Value = None
    start: Value = None


def _stage(number: Value) -> Value:
    return number if type(number) is int else NotImplemented


_OWN: Mapping[str, Callable[..., Value]] = {FRAGMENT: Fragment, str(ZERO_STAGE): _stage}


@dataclass(slots=True)
class DeepSpeedConstructors(TorchConstructors):
    """The constructors of torch files, and two of DeepSpeed's classes."""

    def constructor(self, name: Global) -> Callable[..., Value] | None:
        return _OWN.get(str(name)) or super(DeepSpeedConstructors, self).constructor(name)

    def build(self, instance: Value, state: Value) -> bool:
        if isinstance(instance, Fragment):
            if not isinstance(state, dict) or state.keys() != {"numel", "start"}:
                return False
            instance.numel, instance.start = state["numel"], state["start"]
            return True
        return super(DeepSpeedConstructors, self).build(instance, state)


@dataclass(slots=True)
class File:
    """A file of the checkpoint, and its unpickled contents. `error` makes an error with its path."""

    name: str
    folder: Folder
    saved: Saved

    @property
    def path(self) -> Path:
        return self.folder.path / self.name

    @property
    def entries(self) -> dict[Value, Value]:
        """The dict in the file. Raises CorruptFileError if it holds something else."""
        if not isinstance(self.saved.value, dict):
            raise self.error("it does not hold a dict, as DeepSpeed's files do")
        return self.saved.value

    def error(self, what: str) -> CorruptFileError:
        return CorruptFileError(what, path=self.path, hint=COPY_ALL_AGAIN)


def open_file(folder: Folder, name: str) -> File:
    """Read a file's pickle. Raises CkptconvError with its path."""
    return File(name, folder, saved_in(folder.open(name), DeepSpeedConstructors()))


@dataclass(frozen=True, slots=True)
class ModelStates:
    """A model_states file.

    part:    its mp_rank.
    divided: whether parameters are divided among the ranks, so that each rank has such a file (stage 3).
    shapes:  the param_shapes of each group; None if no parameter is in the optimizer.
    rest:    the metadata: everything except the keys that describe where tensors are.
    """

    file: File
    part: int
    divided: bool
    module: dict[Value, Value]
    shapes: list[Shapes] | None
    frozen_shapes: Shapes
    frozen: dict[str, TensorStub]
    shared: dict[str, str]
    buffers: frozenset[str]
    rest: dict[Value, Value]


def model_states(file: File) -> ModelStates:
    """Parse a model_states file. Raises CorruptFileError, UnsupportedError."""
    entries = file.entries
    if "module" not in entries:
        raise file.error("it has no 'module', which a model_states file has")
    module = entries["module"]
    if module is None:
        raise UnsupportedError(
            "its module is elsewhere, as that of a pipeline is", path=file.path,
            hint="load it with DeepSpeed, and save the module's state_dict()",
        )  # fmt: skip
    if not isinstance(module, dict) or not all(isinstance(name, str) for name in module):
        raise file.error("its 'module' is not a state_dict")
    for key in ("ds_autoep_layers", "autoep_layers", "num_experts"):
        if entries.get(key):
            raise UnsupportedError(
                f"it is a mixture of experts ({key}), whose parts are not put together",
                path=file.path, hint="load it with DeepSpeed, and save the module's state_dict()",
            )  # fmt: skip
    shapes, buffers = entries.get("param_shapes"), entries.get("buffer_names") or []
    if not isinstance(buffers, list) or not all(isinstance(name, str) for name in buffers):
        raise file.error("its buffer_names are not a list of names")
    frozen_shapes = _shapes(file, "frozen_param_shapes", entries.get("frozen_param_shapes") or {})
    named = MODEL.fullmatch(file.name)
    return ModelStates(
        file,
        part=int(named["part"]) if named else 0,
        divided=named is not None and named["rank"] is not None,
        module=module,
        shapes=None if shapes is None else _groups(file, shapes),
        frozen_shapes=frozen_shapes,
        frozen=_frozen(file, entries.get("frozen_param_fragments") or {}, frozen_shapes),
        shared=_names(file, "shared_params", entries.get("shared_params") or {}),
        buffers=frozenset(buffers),
        rest={key: value for key, value in entries.items() if key not in LAYOUT_OF_MODEL},
    )


def _groups(file: File, shapes: Value) -> list[Shapes]:
    if not isinstance(shapes, list):
        raise file.error("its param_shapes are not a list of groups")
    groups = [_shapes(file, f"param_shapes[{i}]", group) for i, group in enumerate(shapes)]
    seen: set[str] = set()
    for group in groups:
        if twice := seen & group.keys():
            raise file.error(f"its param_shapes have {min(twice)!r} in two groups")
        seen |= group.keys()
    return groups


def _shapes(file: File, what: str, shapes: Value) -> Shapes:
    if not isinstance(shapes, dict) or not all(isinstance(name, str) for name in shapes):
        raise file.error(f"its {what} are not shapes by name")
    for name, shape in shapes.items():
        if not isinstance(shape, (TorchSize, tuple, list)) or not all(type(n) is int for n in shape):
            raise file.error(f"its {what} have no shape for {name!r}")
        if len(shape) > MAX_RANK or any(not 0 <= n <= MAX_DIM for n in shape) or prod(shape) > MAX_DIM:
            raise file.error(f"its {what} have a shape for {name!r} that no tensor has")
    return {name: tuple(shape) for name, shape in shapes.items()}


def _frozen(file: File, fragments: Value, shapes: Shapes) -> dict[str, TensorStub]:
    if not isinstance(fragments, dict) or not all(
        isinstance(name, str) and isinstance(stub, TensorStub) for name, stub in fragments.items()
    ):
        raise file.error("its frozen_param_fragments are not tensors by name")
    if fragments.keys() != shapes.keys():
        odd = min(fragments.keys() ^ shapes.keys())
        raise file.error(f"only one of its frozen_param_shapes and frozen_param_fragments has {odd!r}")
    return fragments


def _names(file: File, what: str, names: Value) -> dict[str, str]:
    if not isinstance(names, dict) or not all(isinstance(name, str) for pair in names.items() for name in pair):
        raise file.error(f"its {what} are not names by name")
    return names


@dataclass(frozen=True, slots=True)
class OptimizerStates:
    """A rank's optim_states file.

    stage:      None if it states none, like BF16_Optimizer's files, whose layout is that of stage 1.
    partitions: this rank's flat tensor of each group.
    paddings:   elements of padding that each partition leaves out at its end; None if it does not say.
    between:    elements of padding after each parameter of each group; None if there are none.
    fragments:  where parameters are in the partitions, by group, if it says.
    inner:      the remaining entries of ``optimizer_state_dict``.
    rest:       the entries beside ``optimizer_state_dict``.
    """

    file: File
    stage: int | None
    ranks: int
    partitions: list[TensorStub]
    paddings: list[int] | None
    between: list[list[int]] | None
    fragments: list[dict[str, Fragment]] = field(default_factory=list)
    inner: dict[Value, Value] = field(default_factory=dict)
    rest: dict[Value, Value] = field(default_factory=dict)


def optimizer_states(file: File) -> OptimizerStates:
    """Parse an optim_states file. Raises CorruptFileError, UnsupportedError."""
    inner = file.entries.get("optimizer_state_dict")
    if not isinstance(inner, dict):
        raise file.error("it has no 'optimizer_state_dict', which an optim_states file has")
    if "ds_zero_partition_groups" in inner:
        raise UnsupportedError(
            "its experts are partitioned among ranks of their own, and are not put together",
            path=file.path, hint="ds_to_universal.py, which DeepSpeed has, knows how",
        )  # fmt: skip
    stage = inner.get("zero_stage")
    if stage is not None and (type(stage) is not int or stage not in (1, 2, 3)):
        raise file.error("its zero_stage is none of 1, 2 and 3")
    key = "fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"
    partitions = inner.get(key)
    if not isinstance(partitions, list) or not all(isinstance(stub, TensorStub) for stub in partitions):
        raise file.error(f"its {key} are not a list of tensors")
    groups = len(partitions)
    between = inner.get("param_alignment_paddings")
    return OptimizerStates(
        file,
        stage=stage,
        ranks=_count(file, inner.get("partition_count")),
        partitions=partitions,
        paddings=_paddings(file, "group_paddings", inner.get("group_paddings"), groups),
        between=None if between is None else _between(file, between, groups),
        fragments=_fragments(file, inner.get("param_slice_mappings"), groups),
        inner={key: value for key, value in inner.items() if key not in LAYOUT_OF_OPTIMIZER},
        rest={key: value for key, value in file.entries.items() if key != "optimizer_state_dict"},
    )


def _count(file: File, count: Value) -> int:
    """The number of ranks among which the groups are partitioned."""
    counts = count if isinstance(count, list) else [count]
    if not counts or not all(type(n) is int and 0 < n <= MAX_FILES for n in counts):
        raise file.error("its partition_count is not a number of ranks")
    if len(set(counts)) > 1:
        raise UnsupportedError(
            f"its groups are partitioned among different numbers of ranks ({', '.join(map(str, counts[:6]))})",
            path=file.path, hint="ds_to_universal.py, which DeepSpeed has, joins experts",
        )  # fmt: skip
    return int(counts[0])


def _paddings(file: File, what: str, numbers: Value, count: int) -> list[int] | None:
    if numbers is None:
        return None
    if (
        not isinstance(numbers, list) or len(numbers) != count
        or not all(map(is_size, numbers))
    ):  # fmt: skip
        raise file.error(f"its {what} are no {count} numbers of elements")
    return numbers


def _between(file: File, between: Value, groups: int) -> list[list[int]]:
    if not isinstance(between, list) or len(between) != groups or not all(isinstance(row, list) for row in between):
        raise file.error(f"its param_alignment_paddings are no {groups} lists of numbers")
    return [_paddings(file, f"param_alignment_paddings[{i}]", row, len(row)) or [] for i, row in enumerate(between)]


def _fragments(file: File, mappings: Value, groups: int) -> list[dict[str, Fragment]]:
    if mappings is None or mappings == []:
        return []
    if not isinstance(mappings, list) or len(mappings) != groups:
        raise file.error(f"its param_slice_mappings are no {groups} groups of names")
    for mapping in mappings:
        if not isinstance(mapping, dict) or not all(
            isinstance(name, str) and isinstance(at, Fragment) for name, at in mapping.items()
        ):
            raise file.error("its param_slice_mappings are not addresses by name")
    return mappings
