"""Megatron-Core's distributed checkpoints: torch.distributed.checkpoint's folder, and ``common.pt``.

The listing's names are flat. Equal layers are stacked into one tensor, with the layer as the first axis and a chunk for
each (``decoder.layers.mlp.linear_fc1.weight``). They are split again into a tensor for each layer, with its name in the
module's state_dict (``decoder.layers.0.mlp.linear_fc1.weight``). Tensors under ``optimizer`` are extras. The halves of
gated layers, and padded vocabularies, are stored as in the whole model.

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
from ckptconv.formats.torch.dcp.read import Entries, read_listing
from ckptconv.formats.torch.pickle import Budget
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.build import add_beside, build_tree_around
from ckptconv.formats.torch.tree.names import merge_uses
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
    """Open the listing, its values, and ``common.pt``. Raises CkptconvError with the file's path."""
    listing, size = read_listing(folder)
    entries = [layer for entry in listing.entries for layer in _unstacked(entry)]
    if len(entries) > MAX_TENSORS:
        raise LimitError(f"it has more than {MAX_TENSORS:,} tensors")
    reader = Entries(folder, size)
    model: OrderedDict[str, Value] = OrderedDict()
    beside: dict[Value, Value] = {}
    for entry in entries:
        value = reader.value(entry)
        if entry.dtype is None or _OPTIMIZER.fullmatch(entry.name):
            add_beside(beside, {entry.name: value})
        elif model.setdefault(entry.name, value) is not value:
            raise CorruptFileError(f"it has {entry.name!r} twice", path=folder.path, hint="do not trust it")
    machines = reader.machines
    if COMMON in folder.names:
        common = saved_in(folder.open(COMMON))
        reader.places.add(common.storages, common.placer.place)
        machines = [common.machine, *machines]
        reader.size += common.size
        add_beside(beside, common.value if isinstance(common.value, dict) else {COMMON: common.value})
    budget = Budget(reader.size)
    tree = build_tree_around(model, beside, budget)
    checkpoint = assemble(tree, reader.places.place, budget, format=NAME, machines=machines, file=outer)
    uses = [GlobalUse(str(name), called) for name, called in listing.globals.items()]
    checkpoint.notes = replace(checkpoint.notes, globals=merge_uses((*uses, *checkpoint.notes.globals)))
    return checkpoint


def _unstacked(entry: Entry) -> Iterator[Entry]:
    """An entry for each layer, if the tensor is a stack of layers with a chunk for each; otherwise the entry itself."""
    stacked = _STACKED.fullmatch(entry.name)
    if (
        stacked is None
        or entry.dtype is None
        or not entry.shape
        or any(chunk.size[:1] != (1,) for chunk in entry.chunks)
    ):
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
        name = f"{stacked['before']}{layer}.{stacked['after']}"
        yield Entry(name, (name,), tuple(chunks[layer]), entry.dtype, entry.shape[1:])
