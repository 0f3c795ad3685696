"""What `verify` does: both sides are run on the same inputs, and what they gave is compared.

Begin with `pair`, which runs two:

    side           a file and what runs it: a network or a graph
    feeds  arrays  what goes in: made up, or of an .npz file
    recording      what one side gave
    pair           two sides, run and compared
    comparing      two recordings, compared
"""
