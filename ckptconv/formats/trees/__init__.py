"""Trees of values that files of several families hold.

nested       JAX's nested dicts of arrays: which arrays are the model's, and their names
omegaconf    OmegaConf's settings, as plain values
tensordicts  pickled TensorDicts, as plain dicts
"""
