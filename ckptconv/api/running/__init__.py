"""`verify`: runs two files on the same inputs, and compares their outputs.

Begin with `pair`, which runs both:

    side           one file and what runs it: a graph in onnxruntime, or a network in torch
    memory         one network at a time, and only if it fits
    feeds  arrays  the inputs: made up, or from an .npz file
    recording      records what one side computes
    pair           runs two sides and compares them
    comparing      compares two recordings
"""
