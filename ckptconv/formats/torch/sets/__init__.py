"""Models that lie in several of torch.save's archives.

sharded  tensors dealt out to files, and an index, as the Hugging Face hub has them
slices   a slice of each matrix in each file, as Meta released Llama
same     what the files of several ranks say alike, for DeepSpeed's and Megatron's folders
"""
