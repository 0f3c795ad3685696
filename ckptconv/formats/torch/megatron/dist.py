"""Distributed checkpoints of Megatron-Core: torch.distributed.checkpoint's, and ``common.pt``.

The listing's names are flat. Layers that are alike are one tensor, with the layer as the first axis and a chunk for
each (``decoder.layers.mlp.linear_fc1.weight``); they get the names of the module's state_dict again, a tensor for each
layer (``decoder.layers.0.mlp.linear_fc1.weight``). Tensors under ``optimizer`` are extras. A gated layer's halves and
padded vocabularies are as the whole model has them.

Sources: megatron/core/dist_checkpointing/ (serialization.py, mapping.py, strategies/torch.py); megatron/core/
transformer/transformer_block.py (`sharded_state_dict`).
"""

from __future__ import annotations

import re
from collections import OrderedDict, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptconv.core.notes import GlobalUse
from ckptconv.errors import CorruptFileError, LimitError
from ckptconv.formats.torch.containers.saved import saved_in
from ckptconv.formats.torch.dcp.listing import Chunk, Entry
from ckptconv.formats.torch.dcp.read import Entries, listed
from ckptconv.formats.torch.pickle import Budget
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.names import told_once
from ckptconv.formats.torch.tree.roots import plant_state_dict, put
from ckptconv.io.limits import MAX_TENSORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.io.folder import Folder

NAME = "megatron"
COMMON = "common.pt"

_STACKED = re.compile(r"(?P<before>(?:.*\.)?layers\.)(?P<after>(?!\d+\.).+)")
_OPTIMIZER = re.compile(r"(chained_\d+\.)?optimizer\..+")


def read(outer: Folder, folder: Folder) -> Checkpoint:
    """Open the listing, its values, and what all ranks have in common. Raises CkptconvError, which names the file."""
    listing, size = listed(folder)
    entries = [one for entry in listing.entries for one in _layers(entry)]
    if len(entries) > MAX_TENSORS:
        raise LimitError(f"it has more than {MAX_TENSORS:,} tensors")
    making = Entries(folder, size)
    model: OrderedDict[str, Value] = OrderedDict()
    beside: dict[Value, Value] = {}
    for entry in entries:
        value = making.value(entry)
        if entry.dtype is None or _OPTIMIZER.fullmatch(entry.name):
            put(beside, {entry.name: value})
        elif model.setdefault(entry.name, value) is not value:
            raise CorruptFileError(f"it has {entry.name!r} twice", path=folder.path, hint="do not trust it")
    machines = making.machines
    if COMMON in folder.names:
        common = saved_in(folder.open(COMMON))
        making.places.add(common.storages, common.placer.place)
        machines = [common.machine, *machines]
        making.size += common.size
        put(beside, common.value if isinstance(common.value, dict) else {COMMON: common.value})
    budget = Budget(making.size)
    tree = plant_state_dict(model, beside, budget)
    made = assemble(tree, making.places.place, budget, format=NAME, machines=machines, file=outer)
    uses = [GlobalUse(str(name), called) for name, called in listing.globals.items()]
    made.notes = replace(made.notes, globals=told_once((*uses, *made.notes.globals)))
    return made


def _layers(entry: Entry) -> Iterator[Entry]:
    """A tensor for each layer, where they were stacked and each chunk is of one; else the entry itself."""
    found = _STACKED.fullmatch(entry.name)
    if found is None or entry.dtype is None or not entry.shape or any(chunk.size[:1] != (1,) for chunk in entry.chunks):
        yield entry
        return
    chunks: dict[int, list[Chunk]] = defaultdict(list)
    for chunk in entry.chunks:
        inner = replace(chunk, begin=chunk.begin[1:], size=chunk.size[1:], stored=chunk.size)
        chunks[chunk.begin[0]].append(inner)
    if len(chunks) != entry.shape[0] or sorted(chunks) != list(range(len(chunks))):
        yield entry
        return
    for layer in range(entry.shape[0]):
        name = f"{found['before']}{layer}.{found['after']}"
        yield Entry(name, (name,), tuple(chunks[layer]), entry.dtype, entry.shape[1:])
