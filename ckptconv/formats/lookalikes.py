"""Files and folders that people hand to a checkpoint tool, and that are of no format that is read: what they are, and
what to do instead.
"""

from __future__ import annotations

import re

MADE_FROM = "convert what it was made from"
OF_ONNX = "convert the ONNX file that it was made from"
BESIDE_PROGRAM = "name the .pdiparams beside it"
OF_TORCHFILE = "numpy.savez what torchfile.load gives: that is read"
NO_TENSORS = "there are no tensors in it"

LOOKALIKES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "git lfs pull"),
    (4, b"ORTM", "a model of onnxruntime's own format (.ort)", "name the ONNX file that it was made from"),
    *((4, magic, "a program of ExecuTorch's (.pte)", "name the checkpoint that it was made from")
      for magic in (b"ET12", b"ET13")),
    *((0, magic, "an engine of TensorRT's", OF_ONNX) for magic in (b"ptrt", b"ftrt")),
    *((0, magic, "a model of RKNN's", OF_ONNX) for magic in (b"RKNN", b"CYPTRKNN")),
    (0, b"\x01HEF", "a model of Hailo's (.hef)", OF_ONNX),
    (0, b"7767517", "a graph of ncnn's (.param)", "convert what it was made from: ncnn's weights alone say no shapes"),
    *((0, magic + b"\1\0\0\0\3\0\0\0V 1", "a file of Lua Torch's (.t7)", OF_TORCHFILE)
      for magic in (b"\4\0\0\0", b"\3\0\0\0")),
    (0, b"4\n1\n3\nV 1", "a file of Lua Torch's (.t7), as text", OF_TORCHFILE),
    (0, b'{"base_code":{"magic":"pir"', "a program of PaddlePaddle's, without weights", BESIDE_PROGRAM),
    (0, b"{L\0\0\0\0\0\0\0\x07learner", "a model of XGBoost's, of trees", NO_TENSORS),
    (0, b'{"learner":', "a model of XGBoost's, of trees, as JSON", NO_TENSORS),
    (0, b"tree\nversion=v", "a model of LightGBM's, of trees", NO_TENSORS),
    (0, b"CBM1", "a model of CatBoost's, of trees", NO_TENSORS),
    (0, b"\x84\xa5nodes", "a model of spaCy's (Thinc)",
     "numpy.savez what get_param gives of the layers in nlp.get_pipe(NAME).model.walk(): that is read"),
    (4, b"loss_", "a network of dlib's (.dat)", MADE_FROM),
    (0, b"\0B<", "a model of Kaldi's, as of Vosk", MADE_FROM),
    *((2, b"\n\x05" + first, "a vocabulary of SentencePiece's", "name the file of the weights")
      for first in (b"<unk>", b"<pad>")),
    (0, b"\xba\x16\x4f\x2f", "a model of fastText's", "numpy.savez what model.get_input_matrix() gives"),
    (0, b"PAR1", "a Parquet file, of data", "name the file of the weights"),
    (0, b"MATLAB 5.0", "a file of MATLAB's", "numpy.savez what scipy.io.loadmat gives: that is read"),
    (0, b"BZh", "a bzip2 file", "bunzip2 it first, or tar xjf an archive"),
    (0, b"\xfd7zXZ", "an xz file", "unxz it first, or tar xJf an archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", "unzstd it first, or tar --zstd -xf an archive"),
    (0, b"\x04\x22\x4d\x18", "an lz4 file, and no pickle is in it", "unlz4 it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first, as 7z x does"),
    (0, b"Rar!\x1a\x07", "a RAR archive", "unpack it first, as unrar x does"),
    *((0, bytes([0x78, level]), "a zlib stream, and no pickle is in it", "inflate it first, as pigz -dz does")
      for level in (0x01, 0x5E, 0x9C, 0xDA)),
    (0, b"ZF0x", "a compressed array of joblib's of before 0.10", "joblib.dump what joblib.load gives: that is read"),
    (0, b"\x08\x01\x12", "a graph of TensorFlow's (saved_model.pb)", "name the folder that it lies in"),
    (0, b"<!DOCTYPE", "a web page", "download the file itself; a login may be needed"),
    (0, b"<html", "a web page", "download the file itself; a login may be needed"),
    (0, b"PK\x05\x06", "a zip archive with nothing in it", "save it again, with tensors in it"),
    (0, b"\x0c\xdb:*", "the manifest of a store of TensorStore's", "name the folder that it is in"),
    (0, b'{"tree_metadata"', "the list of a tree of Orbax's", "name the folder that it is in"),
    (0, b'{"item_handlers"', "what Orbax says of a checkpoint", "name the folder that it is in"),
    (0, b"\x81\xa6params", "msgpack without an array of flax's",
     "flax.serialization.to_bytes(params) writes one with arrays"),
)  # fmt: skip
"""Files that people hand to a checkpoint tool by mistake: (offset, bytes, what it is, what to do). A negative offset
counts from the end.
"""

STARTS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"[1-9]\d{0,8} [1-9]\d{0,4}\n\S+ "), "a file of word vectors, as word2vec and fastText write them",
     "numpy.savez what gensim's KeyedVectors.load_word2vec_format(FILE).vectors is: that is read"),
)  # fmt: skip
"""The same, by an expression for their start: how many words, how many numbers for each, a word."""

SUFFIXES: dict[str, tuple[str, str]] = {
    ".pdmodel": ("a program of PaddlePaddle's, without weights", BESIDE_PROGRAM),
    ".weights": ("weights of Darknet's, as of YOLO", "torch.save a network that loads them: that is read"),
    ".t7": ("a file of Lua Torch's", OF_TORCHFILE),
    ".engine": ("an engine of TensorRT's", MADE_FROM), ".plan": ("an engine of TensorRT's", MADE_FROM),
    ".pb": ("a graph of TensorFlow's, its weights frozen into it", MADE_FROM),
    ".mnn": ("a model of MNN's", MADE_FROM), ".rknn": ("a model of RKNN's", MADE_FROM),
    ".pte": ("a program of ExecuTorch's", MADE_FROM), ".dlc": ("a model of Qualcomm's", MADE_FROM),
}  # fmt: skip
"""Files with nothing at their start that tells them, by what they are called: (what that is, what to do)."""

FOLDERS: tuple[tuple[str, str, str], ...] = (
    ("saved_model.pb", "a SavedModel of TensorFlow's without an .index in its folder variables",
     "copy all of its files again, unless it is a graph without weights"),
    ("model_index.json", "a pipeline of diffusers', of several models", "name one of the folders in it, such as unet"),
    ("coremldata.bin", "a compiled model of Core ML's (.mlmodelc)", "name the .mlpackage that it was made from"),
    ("zero_to_fp32.py", "one of DeepSpeed's without the file 'latest'", "name a folder in it, such as global_step500"),
)  # fmt: skip
"""Folders that people hand to it: (a file in it, what it is, what to do)."""
