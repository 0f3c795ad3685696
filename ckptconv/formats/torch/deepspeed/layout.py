"""Where each parameter is in the ranks' flat tensors, checked against everything that the files say about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from ckptconv.formats.torch.deepspeed.flat import Chain, rows
from ckptconv.io.limits import MAX_DIM

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.torch.deepspeed.states import ModelStates, OptimizerStates, Shapes


@dataclass(frozen=True, slots=True)
class Group:
    """The parameters of a group.

    places:  by name, the element at which a parameter begins in the whole group (in stage 3: in each rank's part), and
             its shape.
    lengths: elements of each rank's flat tensor.
    padded:  the same, including the padding that the tensor leaves out.
    ranks:   in stage 3, the number of ranks among which each parameter is divided; None if the group as a whole is.
    """

    places: Mapping[str, tuple[int, tuple[int, ...]]]
    lengths: tuple[int, ...]
    padded: tuple[int, ...]
    ranks: int | None

    def fits(self, parts: Sequence[LazyTensor]) -> bool:
        """Whether these flat tensors, one for each rank, have the size of the group."""
        if any(len(part.info.shape) != 1 or part.info.dtype is not parts[0].info.dtype for part in parts):
            return False
        return tuple(part.info.numel for part in parts) in (self.lengths, self.padded)

    def tensors(self, parts: Sequence[LazyTensor], alias: Callable[[str], Hashable]) -> dict[str, LazyTensor]:
        """The tensor of each parameter, from flat tensors that fit."""
        if self.ranks is not None:
            return {
                name: rows(parts, at, -(-prod(shape) // self.ranks), shape, alias(name))
                for name, (at, shape) in self.places.items()
            }
        chain = Chain(parts)
        return {name: chain.tensor(at, shape, alias(name)) for name, (at, shape) in self.places.items()}


def groups(model: ModelStates, ranks: Sequence[OptimizerStates], parts: Sequence[Sequence[LazyTensor]]) -> list[Group]:
    """The groups; ``parts[rank][group]`` are their flat tensors. Raises CorruptFileError with the file's path."""
    shapes = model.shapes or []
    for states, flat in zip(ranks, parts, strict=True):
        if len(flat) != len(shapes):
            raise states.file.error(
                f"it has partitions of {len(flat)} groups, and {model.file.name} names the parameters of {len(shapes)}"
            )
    result = []
    for i, group in enumerate(shapes):
        column = [flat[i] for flat in parts]
        _check_parts(i, ranks, column)
        make = _divided if ranks[0].stage == 3 else _flattened
        result.append(make(i, group, model, ranks, tuple(part.info.numel for part in column)))
    return result


def _check_parts(i: int, ranks: Sequence[OptimizerStates], parts: Sequence[LazyTensor]) -> None:
    dtype = Counter(part.info.dtype for part in parts).most_common(1)[0][0]
    for states, part in zip(ranks, parts, strict=True):
        if len(part.info.shape) != 1:
            raise states.file.error(f"its partition of group {i} has {len(part.info.shape)} dimensions, and not one")
        if part.info.dtype is not dtype:
            raise states.file.error(f"its partition of group {i} is {part.info.dtype}, and the other ranks' {dtype}")
        if dtype.bits % 8:
            raise states.file.error(f"its partition of group {i} is {dtype}, whose elements share bytes")


def _check_equal(i: int, ranks: Sequence[OptimizerStates], lengths: Sequence[int], what: str) -> None:
    usual, _ = Counter(lengths).most_common(1)[0]
    for states, length in zip(ranks, lengths, strict=True):
        if length != usual:
            raise states.file.error(
                f"its partition of group {i} has {length:,} elements{what}, and the other ranks' have {usual:,}"
            )


def _divided(
    i: int, shapes: Shapes, model: ModelStates, ranks: Sequence[OptimizerStates], lengths: tuple[int, ...]
) -> Group:
    """Stage 3: each parameter is divided among the ranks."""
    _check_equal(i, ranks, lengths, "")
    places, at = {}, 0
    for name, shape in shapes.items():
        places[name] = at, shape
        at += -(-prod(shape) // len(ranks))
    if at != lengths[0]:
        raise model.file.error(
            f"its param_shapes ask for {at:,} elements of each rank in group {i}, and the optim_states have "
            f"{lengths[0]:,}"
        )
    return Group(places, lengths, lengths, len(ranks))


def _flattened(
    i: int, shapes: Shapes, model: ModelStates, ranks: Sequence[OptimizerStates], lengths: tuple[int, ...]
) -> Group:
    """Stages 1 and 2: the group is divided among the ranks."""
    padded = lengths
    if all(states.paddings is not None for states in ranks) and ranks[0].stage is not None:
        paddings = [states.paddings[i] for states in ranks if states.paddings is not None]
        padded = _with_padding(lengths, paddings)
        _check_equal(i, ranks, padded, " with its padding")
    between = ranks[0].between[i] if ranks[0].between is not None else [0] * len(shapes)
    if len(between) != len(shapes):
        raise ranks[0].file.error(
            f"its param_alignment_paddings are {len(between)} in group {i}, which has {len(shapes)} parameters"
        )
    places, at = {}, 0
    for (name, shape), padding in zip(shapes.items(), between, strict=True):
        places[name] = at, shape
        at += prod(shape) + padding
    # The padding at the end depends on the version; the reference tolerates up to two elements for each rank.
    step, held = 2 * len(ranks), sum(lengths)
    end = max((begin + prod(shape) for begin, shape in places.values()), default=0)
    if end > held or -(-at // step) != -(-held // step):
        raise model.file.error(
            f"its param_shapes ask for {at:,} elements in group {i}, and the ranks' partitions have {held:,}"
        )
    if not any(between) and not _reordered(ranks[0]):
        _check_fragments(i, places, ranks, padded)
    return Group(places, lengths, padded, None)


def _with_padding(lengths: Sequence[int], paddings: Sequence[int]) -> tuple[int, ...]:
    """The partitions' lengths, including the padding that they leave out.

    The last rank's padding is that of all ranks, and DeepSpeed cuts its partition by ``tensor[: length - padding]``. If
    ranks before it have a share of the padding (few elements, or many ranks), that index is negative and counts from
    the end.
    """
    padded = [length + padding for length, padding in zip(lengths, paddings, strict=True)]
    whole = padded[0]
    if lengths[-1] == len(range(whole)[: whole - paddings[-1]]):
        padded[-1] = whole
    return tuple(padded)


def _reordered(states: OptimizerStates) -> bool:
    """Whether parameters are dealt out in turns (``round_robin_gradients``). param_slice_mappings then have the places
    from before that, with which DeepSpeed 0.19.8 itself takes the wrong weights (ds_to_universal.py).
    """
    config = states.rest.get("ds_config")
    stage = config.get("zero_optimization") if isinstance(config, dict) else None
    return not isinstance(stage, dict) or bool(stage.get("round_robin_gradients"))


def _check_fragments(
    i: int, places: Mapping[str, tuple[int, tuple[int, ...]]], ranks: Sequence[OptimizerStates], padded: Sequence[int]
) -> None:
    """Check that each rank's own record of its partition (param_slice_mappings) agrees with the shapes."""
    start = 0
    for states, length in zip(ranks, padded, strict=True):
        for name, at in (states.fragments[i] if states.fragments else {}).items():
            if name not in places:
                raise states.file.error(
                    f"its param_slice_mappings have {name!r}, and the param_shapes of group {i} not"
                )
            begin, shape = places[name]
            low, high = max(begin, start), min(begin + prod(shape), start + length)
            if (at.numel, at.start) != (high - low, low - start):
                raise states.file.error(
                    f"it says that elements {_shown(at.start, at.numel)} of its partition of group {i} are {name!r}, "
                    f"and by the param_shapes {_shown(low - start, high - low)} are"
                )
        start += length


def _shown(start: object, count: object) -> str:
    if type(start) is not int or type(count) is not int or max(abs(start), abs(count)) > MAX_DIM:
        return "of no numbers"
    return f"{start:,} to {start + count:,}" if count > 0 else "none"
