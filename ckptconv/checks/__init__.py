"""Checks of open checkpoints. Results are data.

Begin with the module of a command: `diff`, `validate`, `verify`, or `stats` for ``inspect --stats``.

    diff  wording                           what differs between two checkpoints, and the findings about it
    compare_bytes  compare_values           …tensors: whether they are equal; by how much they differ
    rearranged  double_rounding             …tensors whose numbers stand elsewhere, or were rounded twice
    ties  composites                        …ties; quantized and sparse tensors
    compare_metadata                        …metadata
    figures  float_figures  joint_figures   the figures of two tensors: of any type, of floats, of types with few bits
    float_blocks  codes  histogram          …computed with these
    stretch  tolerance                      …for one range of elements; what counts as equal
    stats  tally  values                    statistics of tensors, and values that no model should hold
    pool  works  processes                  doing all of that on every core, also in other processes
    validate  verdict                       whether a checkpoint fits an architecture
    blame  case                             …and why not: the causes, the findings that they explain
    layer_counts  folded_norms              …whole layers, batch norms that were folded
    prefixes  hypotheses                    …with another prefix, with other params
    related_architecture                    …or damaged, or of a related architecture
    verify  first_difference                whether outputs are the same, and the first layer that differs
    runners  torch_runner  onnx_runner      running a network, in torch or in onnxruntime
    layers  recording                       …with the outputs of its layers; keeping the outputs
    rounding  noise                         how far rounding alone may move the outputs
"""
