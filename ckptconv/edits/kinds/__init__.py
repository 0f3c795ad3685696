"""The kinds of edits: what each one needs, and the functions that carry it out.

    table           for each kind: how many sources and targets a step has, and which details
    change          an edit being made, with checked access to its details
    layout          transpose, reshape, permute, split, concat, stack: the same values, arranged differently
    values          cast, map, dequantize, quantize, remove-parametrization, fold-batch-norm: computed
    sharing         rename, drop, tie, untie, zeros: names, and which of them share a tensor

The functions take a change and one of its steps, and return the tensors of the step's targets, in order.
"""
