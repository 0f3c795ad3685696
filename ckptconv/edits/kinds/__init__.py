"""The kinds of edits: what each needs, and what it makes of the tensors of a step.

    table           how many names each kind has on its two sides, and what it may say besides
    change          an edit on its way, and what it says, within bounds
    layout          the same numbers in another order, under other shapes, in several tensors or in one
    values          other numbers: cast, computed, quantized and back
    sharing         names, and which of them stand for one tensor

A maker takes a change and one of its steps and gives the tensors of the step's targets, in their order.
"""
