"""Four processes that save one checkpoint together: ``python -m tests.support.distributed FOLDER``.

    FOLDER/four          what torch.distributed.checkpoint.save wrote
    FOLDER/expected.pth  the same state_dict, whole

torch is imported once and the processes are forked, which takes seconds instead of a minute on a small machine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

WORLD = 4


def whole() -> dict[str, torch.Tensor]:
    """The tensors, before they are distributed."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "rows": normal(10, 6),
        "columns": normal(6, 10),
        "grid": normal(9, 7),
        "turned grid": normal(7, 9),
        "middle": normal(3, 8, 5),
        "rows twice": normal(13, 2),
        "few": normal(2, 3),
        "vector": normal(5).to(torch.bfloat16),
        "ints": torch.arange(24).reshape(6, 4),
        "bools": torch.arange(12).reshape(3, 4) % 3 == 0,
        "complex": torch.complex(normal(4, 6), normal(4, 6)),
        "everywhere": normal(3, 3),
    }


def cut(tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Each tensor as this process's part of a DTensor."""
    line, grid = init_device_mesh("cpu", (WORLD,)), init_device_mesh("cpu", (2, 2))
    how: dict[str, tuple[DeviceMesh, list[Any]]] = {
        "rows": (line, [Shard(0)]),
        "columns": (line, [Shard(1)]),
        "grid": (grid, [Shard(0), Shard(1)]),
        "turned grid": (grid, [Shard(1), Shard(0)]),
        "middle": (line, [Shard(1)]),
        "rows twice": (grid, [Shard(0), Shard(0)]),
        "few": (line, [Shard(0)]),
        "vector": (line, [Shard(0)]),
        "ints": (grid, [Shard(1), Replicate()]),
        "bools": (line, [Shard(1)]),
        "complex": (grid, [Replicate(), Shard(1)]),
        "everywhere": (line, [Replicate()]),
    }
    return {name: distribute_tensor(tensors[name], *how[name]) for name in tensors}


def work(rank: int, folder: Path) -> None:
    """What one process does."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=WORLD, init_method=f"file://{folder}/meeting")
    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Linear(7, 3))
    alone = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fully_shard(model)
    sharded = model.state_dict()
    assert any(isinstance(tensor, DTensor) for tensor in sharded.values())
    tensors = whole()
    common = {"epoch": 3, "scalar": torch.tensor(2.5), "flag": torch.tensor(True), "rates": [0.1, 0.2]}
    dcp.save({"model": sharded, "optimizer": {"state": cut(tensors)}, **common}, checkpoint_id=folder / "four")
    if rank == 0:
        torch.save({"model": alone, "optimizer": {"state": tensors}, **common}, folder / "expected.pth")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    mp.start_processes(work, args=(Path(sys.argv[1]),), nprocs=WORLD, start_method="fork")
