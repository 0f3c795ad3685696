"""Models in several torch.save archives.

sharded  each tensor in one of several files, with an index, as on the Hugging Face hub
slices   a slice of each matrix in each file, as Meta released Llama
same     metadata that the files of several ranks agree on, for DeepSpeed's and Megatron's folders
"""
