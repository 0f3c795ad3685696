"""Formats that other packages build on pickles and on torch's files.

joblib  joblib_machine  joblib's files, such as scikit-learn models: pickles with arrays between the opcodes
stable_baselines3       Stable-Baselines3's archives: JSON, and torch.save archives inside a zip archive
memmaps                 tensordict's folders: JSON, and a file for each tensor
"""
