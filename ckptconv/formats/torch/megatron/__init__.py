"""Megatron-LM's folders: Megatron-Core's distributed checkpoints, and the older ones with a file for each rank.

    latest_checkpointed_iteration.txt    "1000", or "release": which of the folders beside it is the newest
    iter_0001000/                        a checkpoint; release/ likewise

Since Megatron-Core, in the format of torch.distributed.checkpoint (`dist`):

    .metadata, __RANK_N.distcp    the tensors, each as a whole, and values of single ranks
    common.pt                     torch.save of what all ranks share: args, iteration, the optimizer's groups
    metadata.json                 {"sharded_backend": "torch_dist", …}

Before, and with ``--ckpt-format torch`` (`ranks`), for each tensor-parallel rank XX and pipeline stage YYY:

    mp_rank_XX[_YYY]/model_optim_rng.pt   torch.save of {"args": Namespace, "checkpoint_version", "iteration",
                                          "model": state_dict, "optimizer", "opt_param_scheduler", "rng_state"}
    mp_rank_XX[_YYY]/distrib_optim.pt     the distributed optimizer's part, which is not read but reported

Sources: Megatron-LM, megatron/training/checkpointing.py, megatron/core/dist_checkpointing/.
"""
