"""Questions about open checkpoints; answers are data.

Begin with `diff`, `validate`, `verify` and `stats`: one for each command.

    diff  wording                           what differs between two checkpoints, and how it is said
    compare_bytes  compare_values           …of tensors: equal or not; by how much
    rearranged  twice  ties  composites     …the same numbers elsewhere, rounded twice, shared, in quantized tensors
    compare_metadata                        …of metadata
    figures  float_figures  joint_figures   the figures of two tensors: of any kind, of floats, of few bits
    float_blocks  codes  histogram          what they are computed with
    stretch  tolerance                      …of one stretch; what counts as equal
    stats  tally  values                    statistics of tensors, and values that no model should hold
    pool  works  processes                  all of that on every core, in other processes too
    validate  verdict  blame                does it fit an architecture, and if not, why not
    prefixes  hypotheses  kin               …under another prefix, with other params, of a kindred architecture
    parametrized                            …weights that were pruned or normalized, in parts
    verify  first_difference                do both compute the same, and if not, from which layer on
    runners  torch_runner  onnx_runner      running a network, in torch or in onnxruntime
    layers  recording                       …its layers too, and keeping what it gave
    rounding  noise                         how far rounding alone may take it
"""
