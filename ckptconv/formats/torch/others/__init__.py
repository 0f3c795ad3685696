"""What other packages make of pickles and of torch's files.

joblib  joblib_machine  joblib's files, as of scikit-learn's models: pickles with arrays between the opcodes
stable_baselines3       Stable-Baselines3's archives: JSON, and torch.save's archives in an archive
memmaps                 tensordict's folders: JSON, and a file for each tensor
"""
