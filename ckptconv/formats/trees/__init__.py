"""Trees of values that several families have.

nested       JAX's: which arrays of dicts in dicts are the model's
omegaconf    settings of OmegaConf, as the values in them
tensordicts  pickled TensorDicts, as the dicts that they are
"""
