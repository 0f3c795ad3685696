"""ggml's files that predate GGUF; whisper.cpp still writes them.

layouts  what comes before the tensors, for each kind of model
read     the reader: finds the layout that fits, then reads the tensors
"""
