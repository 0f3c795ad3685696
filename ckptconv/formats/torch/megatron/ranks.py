"""Megatron's older folders, with a file for each rank: slices of the model's tensors, which are joined.

The module in a tensor's name tells how the tensor was cut among the tensor-parallel ranks:

    cut by       module                                                            Megatron class
    rows         linear_qkv linear_fc1 query_key_value dense_h_to_4h  and biases   ColumnParallelLinear
                 word_embeddings output_layer                                      VocabParallelEmbedding
    columns      linear_proj linear_fc2 self_attention.dense dense_4h_to_h         RowParallelLinear
    not cut      norms, position embeddings, the biases of the row before          equal in all ranks

In a gated layer (linear_fc1 has twice as many rows as linear_fc2 has columns), each rank has a part of the gate
followed by a part of the other half; in the whole tensor each half is contiguous. Pipeline stages count their layers
from 0. Vocabularies stay padded. The older names (``language_model.encoder…``) are nested dicts, joined by dots.

Refused by name: experts, virtual pipelines, other tensors if there are several tensor-parallel ranks, missing ranks,
heads in the order from before version 2, fewer query groups than ranks.

Sources: Megatron-LM, tools/checkpoint/loader_base.py and schema_core.py; megatron/core/tensor_parallel/layers.py;
megatron/training/checkpointing.py (`fix_query_key_value_ordering`).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ckptconv.core.metadata import Opaque
from ckptconv.core.report import Finding
from ckptconv.errors import COPY_ALL_AGAIN, CkptconvError, CorruptFileError, UnsupportedError, located
from ckptconv.formats.torch.containers.saved import saved_in
from ckptconv.formats.torch.containers.slice_files import RANK, rank_file, ranks_in
from ckptconv.formats.torch.containers.zip_archive import open_archive
from ckptconv.formats.torch.megatron.slices import Parts, join_slices
from ckptconv.formats.torch.pickle import Budget, UnbuiltObject
from ckptconv.formats.torch.sets.same import differing
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.build import add_beside, build_tree_around
from ckptconv.formats.torch.tree.names import merge_uses
from ckptconv.formats.torch.tree.placing import Places, placed_stub
from ckptconv.formats.torch.values.stubs import TensorStub
from ckptconv.io.limits import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.tensor import LazyTensor
    from ckptconv.formats.torch.containers.saved import Saved
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.io.folder import Folder

NAME = "megatron"
OPTIMIZER = "distrib_optim.pt"
TENSOR, STAGES = "tensor_model_parallel_size", "pipeline_model_parallel_size"

_LAYER = re.compile(r"(?P<before>(?:.*\.)?layers\.)(?P<layer>\d{1,6})(?P<after>\..+)")
_EXTRA = "_extra_state"
_ONE_RANK = "name one rank's file for what that has; Megatron-Core's --ckpt-format torch_dist is read whole"


@dataclass(slots=True)
class Rank:
    """The file of one rank.

    tensor: its number among the tensor-parallel ranks.
    stage:  its pipeline stage.
    model:  its tensors by name, with layers counted from the first stage's.
    rest:   everything else in the file.
    """

    name: str
    tensor: int
    stage: int
    saved: Saved
    model: dict[str, TensorStub] = field(default_factory=dict)
    rest: dict[Value, Value] = field(default_factory=dict)

    def fail(self, what: str) -> CorruptFileError:
        return CorruptFileError(f"{self.name}: {what}", hint=COPY_ALL_AGAIN)


def read(outer: Folder, folder: Folder) -> Checkpoint:
    """Open every rank's pickle. Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError, with the path."""
    names = ranks_in(folder)
    if not names:
        raise UnsupportedError("there is no mp_rank_00/model_optim_rng.pt in this folder", hint="name a file in it")
    if len(names) > 1:
        return _join_ranks(outer, folder, names)
    source = folder.inside(names[0]).open(rank_file(folder, names[0]))
    with located(source.path):
        alone = open_archive(source, tuple(_optimizer_finding(folder, names)))
    args = _args(alone.metadata)
    if _number(args, TENSOR, 1) * _number(args, STAGES, 1) > 1:
        raise _missing_ranks(1, _number(args, TENSOR, 1), _number(args, STAGES, 1))
    alone.format = NAME
    return alone


def _optimizer_finding(folder: Folder, names: Sequence[str]) -> Iterator[Finding]:
    if any(OPTIMIZER in folder.inside(name).names for name in names):
        message = f"the distributed optimizer's state ({OPTIMIZER}) is not read"
        yield Finding("optimizer", "info", OPTIMIZER, message)


def _join_ranks(outer: Folder, folder: Folder, names: Sequence[str]) -> Checkpoint:
    ranks = [_read_rank(folder, name) for name in names]
    grid = _grid(ranks)
    budget = Budget(sum(rank.saved.size for rank in ranks))
    findings = list(_optimizer_finding(folder, names))
    places = Places()
    for rank in ranks:
        places.add(rank.saved.storages, _placed(rank))
        _split_contents(rank, budget)
    if dropped := _extra_states(ranks):
        message = (
            f"TransformerEngine's state of {dropped:,} modules (_extra_state) is left out, which the ranks differ in"
        )
        findings.append(Finding("extra-state", "info", "_extra_state", message))
    _number_layers(grid)
    tensors: OrderedDict[str, Value] = OrderedDict()
    for stage in grid:
        for name in stage[0].model:
            if name in tensors:
                raise stage[0].fail(f"it has {name!r}, which a stage before it has as well")
            tensors[name] = placed_stub(_whole(name, stage))
    first = ranks[0].rest
    beside: dict[Value, Value] = {}
    add_beside(beside, first)
    for rank in ranks[1:]:
        if own := differing(first, rank.rest, budget):
            add_beside(beside, {rank.name: own})
    tree = build_tree_around(tensors, beside, budget)
    machines = [rank.saved.machine for rank in ranks]
    checkpoint = assemble(
        tree, places.place, budget, format=NAME, machines=machines, file=outer, findings=tuple(findings)
    )
    checkpoint.notes = replace(checkpoint.notes, globals=merge_uses(checkpoint.notes.globals))
    return checkpoint


def _read_rank(folder: Folder, name: str) -> Rank:
    """Read a rank's file. Raises CkptconvError with its path, and UnsupportedError for what is not joined."""
    parsed = RANK.fullmatch(name)
    assert parsed is not None
    saved = saved_in(folder.inside(name).open(rank_file(folder, name)))
    value = saved.value
    if not isinstance(value, dict):
        raise CorruptFileError(f"{name}: it does not hold a dict, as Megatron's files do", hint=COPY_ALL_AGAIN)
    args = _args(value)
    if parsed[3] or _number(args, "expert_model_parallel_size", 1) > 1 or _number(args, "num_experts", 0):
        raise UnsupportedError(f"{name}: experts are not joined", hint=_ONE_RANK)
    if "model1" in value or "model0" in value or _number(args, "virtual_pipeline_model_parallel_size", 1) > 1:
        raise UnsupportedError(f"{name}: virtual pipelines are not joined", hint=_ONE_RANK)
    return Rank(name, int(parsed[1]), int(parsed[2] or 0), saved)


def _args(value: Mapping[Any, Any]) -> Mapping[str, Any]:
    """The training arguments, if the file has them: from a pickle's values, or from metadata."""
    args = value.get("args")
    state = args.state if isinstance(args, (UnbuiltObject, Opaque)) else None
    return state if isinstance(state, dict) else {}


def _number(args: Mapping[str, Any], key: str, default: int) -> int:
    number = args.get(key)
    return number if type(number) is int else default


def _grid(ranks: Sequence[Rank]) -> list[list[Rank]]:
    """The ranks by stage, then by tensor-parallel rank. Raises CorruptFileError if some are missing."""
    places = {(rank.stage, rank.tensor): rank for rank in ranks}
    args = _args(ranks[0].saved.value)
    stages = max(_number(args, STAGES, 1), *(rank.stage + 1 for rank in ranks))
    width = max(_number(args, TENSOR, 1), *(rank.tensor + 1 for rank in ranks))
    if len(places) != len(ranks) or len(ranks) != stages * width:
        raise _missing_ranks(len(ranks), width, stages)
    version = ranks[0].saved.value.get("checkpoint_version", 0)
    if width > 1 and not (isinstance(version, (int, float)) and version >= 2):
        raise UnsupportedError(
            f"its heads are in the order of version {version!s:.20}, which is not joined", hint=_ONE_RANK
        )
    groups = _number(args, "num_query_groups", width) if args.get("group_query_attention") is not False else width
    if groups % width:
        raise UnsupportedError(f"{groups:,} groups of queries on {width:,} ranks are not joined", hint=_ONE_RANK)
    return [[places[stage, tensor] for tensor in range(width)] for stage in range(stages)]


def _missing_ranks(found: int, width: int, stages: int) -> CorruptFileError:
    there = "is 1 rank" if found == 1 else f"are {found:,} ranks"
    return CorruptFileError(
        f"there {there}, of {width:,} for each of {stages:,} pipeline stage{'s' * (stages > 1)}", hint=COPY_ALL_AGAIN
    )


def _placed(rank: Rank) -> Callable[[str, TensorStub], LazyTensor]:
    def place(name: str, stub: TensorStub) -> LazyTensor:
        try:
            return rank.saved.placer.place(name, stub)
        except CkptconvError as error:
            error.message = f"{rank.name}: {error.message}"
            error.args = (error.message,)
            raise

    return place


def _split_contents(rank: Rank, budget: Budget) -> None:
    """Split the contents into the model's tensors, by name, and the rest. Raises CorruptFileError, LimitError."""
    model = rank.saved.value.get("model")
    if not isinstance(model, dict):
        raise rank.fail("it has no dict 'model'")
    plain: dict[str, Value] = {}
    for name, value in _leaves(model, "", 0, budget):
        if name in rank.model or name in plain:
            raise rank.fail(f"its model has {name!r} twice")
        if isinstance(value, TensorStub):
            rank.model[name] = value
        else:
            plain[name] = value
    rank.rest = {key: value for key, value in rank.saved.value.items() if key != "model"}
    if plain:
        add_beside(rank.rest, {"model": plain})


def _leaves(node: Value, prefix: str, depth: int, budget: Budget) -> Iterator[tuple[str, Value]]:
    for key, value in node.items():
        budget.take(1)
        name = f"{prefix}{key!s}"
        if isinstance(value, dict) and value and depth < MAX_DEPTH:
            yield from _leaves(value, f"{name}.", depth + 1, budget)
        else:
            yield name, value


def _extra_states(ranks: Sequence[Rank]) -> int:
    """Leave out what TransformerEngine keeps for each module; of how many modules of a rank that is."""
    most = 0
    for rank in ranks:
        inner = rank.rest.get("model")
        holders: tuple[dict[Any, Any], ...] = (rank.model, inner) if isinstance(inner, dict) else (rank.model,)
        found = [(holder, name) for holder in holders for name in holder if str(name).endswith(_EXTRA)]
        most = max(most, sum(holder[name] is not None for holder, name in found))
        for holder, name in found:
            del holder[name]
        if inner == {}:
            del rank.rest["model"]
    return most


def _number_layers(grid: Sequence[Sequence[Rank]]) -> None:
    """Count layers from the pipeline's first. Raises CorruptFileError where a stage has not all from 0 on."""
    done: dict[str, int] = {}
    for stage in grid:
        counts: dict[str, set[int]] = {}
        for name in stage[0].model:
            if layer := _LAYER.fullmatch(name):
                counts.setdefault(layer["before"], set()).add(int(layer["layer"]))
        for before, numbers in counts.items():
            if numbers != set(range(len(numbers))):
                raise stage[0].fail(f"its {before}N are not counted from 0")
        for rank in stage:
            rank.model = {_renamed(name, done): stub for name, stub in rank.model.items()}
        for before, numbers in counts.items():
            done[before] = done.get(before, 0) + len(numbers)


def _renamed(name: str, done: Mapping[str, int]) -> str:
    layer = _LAYER.fullmatch(name)
    if layer is None:
        return name
    return f"{layer['before']}{int(layer['layer']) + done.get(layer['before'], 0)}{layer['after']}"


def _whole(name: str, stage: Sequence[Rank]) -> LazyTensor:
    """A tensor of all ranks of a stage. Raises CorruptFileError, UnsupportedError."""
    parts: Parts = {}
    for rank in stage:
        if rank.model.keys() != stage[0].model.keys():
            raise rank.fail(f"its tensors are not those of {stage[0].name}")
        parts[rank.name] = _placed(rank)(name, rank.model[name])
    if len(parts) == 1:
        return parts[stage[0].name]
    return join_slices(name, parts, {key: stub.shape for key, stub in stage[0].model.items()}, _ONE_RANK)
