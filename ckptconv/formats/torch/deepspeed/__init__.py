"""DeepSpeed's checkpoints: the folders that ``engine.save_checkpoint`` writes, a file or two of each rank. Read alone.

    latest                                               text: the tag, which is the name of the folder below
    TAG/mp_rank_00_model_states.pt                       stages 0 to 2: module (the whole state_dict), and what it is
    TAG/zero_pp_rank_R_mp_rank_00_model_states.pt        stage 3, one of each rank: module with emptied parameters
    TAG/[bf16_|fp16_]zero_pp_rank_R_mp_rank_00_optim_states.pt    rank R's part of the optimizer and its fp32 weights

All of them are archives of torch.save (`containers.zip_archive`). Of the model states these say where parameters lie:

    param_shapes             [name → shape] for each group of parameters, in the order in which they lie
    frozen_param_shapes      name → shape, of parameters that the optimizer has not
    frozen_param_fragments   name → the whole one (stage 2), or this rank's part of it (stage 3)
    shared_params            name → the name under which the same parameter is stored
    buffer_names             which of the module's tensors are buffers

and of the optimizer states, under ``optimizer_state_dict``:

    zero_stage, partition_count (a number, or one for each group)
    single_partition_of_fp32_groups   stages 1, 2: a flat tensor for each group. The ranks' one after another are the
                                      parameters one after another, ``param_alignment_paddings`` between them, and
                                      padding at the end, which the tensor leaves out: ``group_paddings`` elements
    fp32_flat_groups                  stage 3: a flat tensor for each group (``sub_group_size``), with ⌈n / ranks⌉
                                      elements of each parameter: the ranks' ones after another are the parameter
    param_slice_mappings              stages 1, 2: by group, name → fragment_address(numel, start) in this rank's tensor
    base_optimizer_state (1, 2), optimizer_state_dict (3)    the optimizer's state_dict, of flat tensors likewise; in an
                                      elastic checkpoint the states of the groups alone, without padding

What ds_to_universal.py makes of such a folder is read as well (`universal`). Refused by name: several mp_ranks (tensor
parallelism) in others than universal ones, pipelines (``layer_00-model_states.pt``), experts (``layer_0_expert_0_…``),
optimizers on NVMe (``offloaded_tensors``), files of torch before 1.6.

Sources: deepspeed/runtime/engine.py (`_save_checkpoint`, `_save_zero_checkpoint`, `_get_zero_param_shapes`), zero/
stage_1_and_2.py, zero/stage3.py and bf16_optimizer.py (`state_dict`) in deepspeed/runtime, deepspeed/utils/
zero_to_fp32.py.
"""
