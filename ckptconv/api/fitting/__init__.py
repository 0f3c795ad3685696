"""Finding a checkpoint's architecture, comparing the checkpoint with it, and using the result.

Begin with `compare`, which `validate` and `convert` share:

    network_form      the checkpoint under torch's names and with plain weights, as architectures describe it
    resolve           the architecture that ``--arch`` means, or that the evidence points to
    compare  causes   whether a checkpoint fits it, and single causes that explain why it does not
    own_configuration  the check of a Keras archive against the configuration in it
    installed         classes that the library lacks, built by the installed transformers or diffusers
    program           requires a fit, and gives what the network computes
    naming  matching  gives a graph's tensors the names that its exporter dropped
"""
