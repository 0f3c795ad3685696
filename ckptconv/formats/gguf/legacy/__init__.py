"""ggml's files of before GGUF, which whisper.cpp still writes.

layouts  what stands before the tensors, model by model
read     the tensors, and which of the layouts it is
"""
