"""DeepSpeed's checkpoints: folders that ``engine.save_checkpoint`` writes, one or two files for each rank. Read-only.

    latest                                               text: the tag, which is the name of the folder below
    TAG/mp_rank_00_model_states.pt                       stages 0 to 2: module (the whole state_dict) and metadata
    TAG/zero_pp_rank_R_mp_rank_00_model_states.pt        stage 3, one for each rank: module with emptied parameters
    TAG/[bf16_|fp16_]zero_pp_rank_R_mp_rank_00_optim_states.pt    rank R's part of the optimizer and its fp32 weights

All are torch.save archives (`containers.zip_archive`). These entries of the model states say where parameters are:

    param_shapes             [name → shape] for each parameter group, in storage order
    frozen_param_shapes      name → shape of the parameters that are not in the optimizer
    frozen_param_fragments   name → the whole parameter (stage 2), or this rank's part of it (stage 3)
    shared_params            name → the name under which the same parameter is stored
    buffer_names             which of the module's tensors are buffers

and these of the optimizer states, under ``optimizer_state_dict``:

    zero_stage, partition_count (a number, or one for each group)
    single_partition_of_fp32_groups   stages 1, 2: a flat tensor for each group. The ranks' tensors joined are the
                                      parameters one after another, with ``param_alignment_paddings`` between them and
                                      ``group_paddings`` elements of padding at the end, which the tensor leaves out
    fp32_flat_groups                  stage 3: a flat tensor for each group (``sub_group_size``), with ⌈n / ranks⌉
                                      elements of each parameter: the ranks' parts joined are the parameter
    param_slice_mappings              stages 1, 2: by group, name → fragment_address(numel, start) in this rank's tensor
    base_optimizer_state (1, 2), optimizer_state_dict (3)    the optimizer's state_dict, also of flat tensors; in an
                                      elastic checkpoint only the states of the groups, without padding

The output of ds_to_universal.py is read as well (`universal`). Refused by name: several mp_ranks (tensor parallelism)
unless universal, pipelines (``layer_00-model_states.pt``), experts (``layer_0_expert_0_…``), optimizers on NVMe
(``offloaded_tensors``), files from torch before 1.6.

Sources: deepspeed/runtime/engine.py (`_save_checkpoint`, `_save_zero_checkpoint`, `_get_zero_param_shapes`), zero/
stage_1_and_2.py, zero/stage3.py and bf16_optimizer.py (`state_dict`) in deepspeed/runtime, deepspeed/utils/
zero_to_fp32.py.
"""
