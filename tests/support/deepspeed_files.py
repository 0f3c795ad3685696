"""Folders as DeepSpeed's saving code lays them out (runtime/engine.py, zero/stage_1_and_2.py, zero/stage3.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

TAG = "global_step1"

Group = dict[str, torch.Tensor]


def partitions(group: Group, ranks: int, stage: int) -> list[torch.Tensor]:
    """Each rank's flat tensor of the group, with its padding."""
    if stage == 3:
        parts: list[list[torch.Tensor]] = [[] for _ in range(ranks)]
        for tensor in group.values():
            count = -(-tensor.numel() // ranks)
            flat = torch.cat([tensor.flatten(), torch.full((count * ranks - tensor.numel(),), -1.0)])
            for rank in range(ranks):
                parts[rank].append(flat[rank * count : (rank + 1) * count])
        return [torch.cat([torch.zeros(0), *part]) for part in parts]
    flat = torch.cat([torch.zeros(0), *(tensor.flatten() for tensor in group.values())])
    flat = torch.cat([flat, torch.full((-flat.numel() % (2 * ranks),), -1.0)])
    return list(flat.chunk(ranks)) if flat.numel() else [flat] * ranks


def model_states(groups: Sequence[Group], stage: int, **changes: Any) -> dict[str, Any]:
    weights = {name: tensor for group in groups for name, tensor in group.items()}
    module = {name: torch.zeros(0) if stage == 3 else tensor.bfloat16() for name, tensor in weights.items()}
    return {
        "module": module, "buffer_names": [], "optimizer": None,
        "param_shapes": [{name: tensor.shape for name, tensor in group.items()} for group in groups],
        "frozen_param_shapes": None, "shared_params": {}, "frozen_param_fragments": None, "global_steps": 1,
        "ds_config": {"zero_optimization": {"stage": stage}}, "ds_version": "0.19.8", **changes,
    }  # fmt: skip


def optimizer_states(groups: Sequence[Group], rank: int, ranks: int, stage: int, **changes: Any) -> dict[str, Any]:
    flats = [partitions(group, ranks, stage)[rank] for group in groups]
    state = {
        number: {"step": torch.tensor(3.0), "exp_avg": flat * 2, "exp_avg_sq": flat * flat}
        for number, flat in enumerate(flats)
    }
    optimizer = {"state": state, "param_groups": [{"lr": 0.5, "params": [i]} for i in range(len(flats))]}
    if stage == 3:
        inner = {
            "zero_stage": 3, "partition_count": ranks, "optimizer_state_dict": optimizer,
            "fp32_flat_groups": [flat.clone() for flat in flats],
        }  # fmt: skip
    else:
        sizes = [sum(tensor.numel() for tensor in group.values()) for group in groups]
        # As in stage_1_and_2.py: the last rank states all of a group's padding, and cuts its partition by that much
        # from the end, even if the ranks before it have some of the padding.
        paddings = [
            ranks * flat.numel() - size if rank == ranks - 1 else 0 for flat, size in zip(flats, sizes, strict=True)
        ]
        inner = {
            "zero_stage": stage, "base_optimizer_state": optimizer, "group_paddings": paddings,
            "partition_count": [ranks] * len(groups),
            "single_partition_of_fp32_groups": [
                flat[: flat.numel() - padding] for flat, padding in zip(flats, paddings, strict=True)
            ],
        }  # fmt: skip
    return {"optimizer_state_dict": inner | changes, "ds_version": "0.19.8"}


def model_file(rank: int, stage: int) -> str:
    return f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"


def optimizer_file(rank: int) -> str:
    return f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"


def write(
    folder: Path, groups: Sequence[Group], *, stage: int, ranks: int,
    model: Mapping[Any, Any] | None = None, optimizer: Mapping[str, Any] | None = None, changed: int = 0,
) -> Path:  # fmt: skip
    """A whole checkpoint; `model` and `optimizer` replace entries of the files of rank `changed`."""
    (folder / TAG).mkdir(parents=True)
    (folder / "latest").write_text(TAG)
    for rank in range(ranks):
        if rank == 0 or stage == 3:
            states = model_states(groups, stage) | dict(model or {} if rank == changed else {})
            torch.save(states, folder / TAG / model_file(rank, stage))
        states = optimizer_states(groups, rank, ranks, stage, **(optimizer or {} if rank == changed else {}))
        torch.save(states, folder / TAG / optimizer_file(rank))
    return folder
