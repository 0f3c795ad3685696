"""Files and folders that people hand to a checkpoint tool although it cannot read them: what each is, and what to do
instead. `detect` words its errors with these tables.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Lookalike(NamedTuple):
    """What something is that cannot be read ("a TensorRT engine"), and the hint that says what to do instead."""

    what: str
    hint: str


MADE_FROM = "convert what it was made from"
OF_ONNX = "convert the ONNX file that it was made from"
BESIDE_PROGRAM = "name the .pdiparams beside it"
OF_TORCHFILE = "numpy.savez what torchfile.load gives: that is read"
OF_SPACY = "numpy.savez what get_param gives of the layers in nlp.get_pipe(NAME).model.walk(): that is read"
NO_TENSORS = "there are no tensors in it"

LOOKALIKES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "git lfs pull"),
    (4, b"ORTM", "a model in onnxruntime's own format (.ort)", "name the ONNX file that it was made from"),
    *((4, magic, "an ExecuTorch program (.pte)", "name the checkpoint that it was made from")
      for magic in (b"ET12", b"ET13")),
    *((0, magic, "a TensorRT engine", OF_ONNX) for magic in (b"ptrt", b"ftrt")),
    *((0, magic, "an RKNN model", OF_ONNX) for magic in (b"RKNN", b"CYPTRKNN")),
    (0, b"\x01HEF", "a Hailo model (.hef)", OF_ONNX),
    (0, b"\xdd\x85\x76\0", "an ncnn graph in binary (.param.bin)", "name the .param that it was made from"),
    *((0, magic + b"\1\0\0\0\3\0\0\0V 1", "a file of Lua Torch's (.t7)", OF_TORCHFILE)
      for magic in (b"\4\0\0\0", b"\3\0\0\0")),
    (0, b"4\n1\n3\nV 1", "a file of Lua Torch's (.t7), as text", OF_TORCHFILE),
    (0, b'{"base_code":{"magic":"pir"', "a PaddlePaddle program, without weights", BESIDE_PROGRAM),
    (0, b"{L\0\0\0\0\0\0\0\x07learner", "an XGBoost model of trees", NO_TENSORS),
    (0, b'{"learner":', "an XGBoost model of trees, as JSON", NO_TENSORS),
    (0, b"tree\nversion=v", "a LightGBM model of trees", NO_TENSORS),
    (0, b"CBM1", "a CatBoost model of trees", NO_TENSORS),
    (0, b"\x84\xa5nodes", "a spaCy model (Thinc)", OF_SPACY),
    *((1, b"\xa5vocab" + length, "a spaCy pipeline, from its to_bytes", OF_SPACY) for length in (b"\xc5", b"\xc6")),
    *((1, b"\xa3cfg" + length, "a component of a spaCy pipeline, from its to_bytes", OF_SPACY)
      for length in (b"\xd9", b"\xda")),
    (0, b"\x82\xa8metadata", "a record of Burn's (.mpk)", "save it with burn-store's SafetensorsStore: that is read"),
    (4, b"CIR0", "a Circle model (.circle)", "convert the .tflite that it was made from"),
    (4, b"MSL2", "a MindSpore Lite model (.ms)", "name the .ckpt that it was made from"),
    (0, b"IMOD", "a model for Huawei's Ascend (.om)", OF_ONNX),
    (4, b"loss_", "a dlib network (.dat)", MADE_FROM),
    (0, b"\0B<", "a Kaldi model, such as Vosk's", MADE_FROM),
    *((2, b"\n\x05" + first, "a SentencePiece vocabulary", "name the file of the weights")
      for first in (b"<unk>", b"<pad>")),
    (0, b"\xba\x16\x4f\x2f", "a fastText model", "numpy.savez what model.get_input_matrix() gives"),
    *((0, magic + b"\x5e\x3a\x7f", "an encrypted checkpoint of MindSpore's",
       "save what mindspore.load_checkpoint(FILE, dec_key=…) gives: that is read")
      for magic in (b"\xd8", b"\xd9", b"\xda")),
    (0, b"PAR1", "a Parquet file, of data", "name the file of the weights"),
    (0, b"MATLAB 5.0", "a MATLAB file", "numpy.savez what scipy.io.loadmat gives: that is read"),
    (0, b"BZh", "a bzip2 file", "bunzip2 it first, or tar xjf an archive"),
    (0, b"\xfd7zXZ", "an xz file", "unxz it first, or tar xJf an archive"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", "unzstd it first, or tar --zstd -xf an archive"),
    (0, b"\x04\x22\x4d\x18", "an lz4 file without a pickle in it", "unlz4 it first"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", "unpack it first, as 7z x does"),
    (0, b"Rar!\x1a\x07", "a RAR archive", "unpack it first, as unrar x does"),
    *((0, bytes([0x78, level]), "a zlib stream without a pickle in it", "inflate it first, as pigz -dz does")
      for level in (0x01, 0x5E, 0x9C, 0xDA)),
    (0, b"ZF0x", "a compressed array from joblib before 0.10", "joblib.dump what joblib.load gives: that is read"),
    (0, b"\x08\x01\x12", "a TensorFlow graph (saved_model.pb)", "name the folder that it is in"),
    (0, b"<!DOCTYPE", "a web page", "download the file itself; a login may be needed"),
    (0, b"<html", "a web page", "download the file itself; a login may be needed"),
    (0, b"PK\x05\x06", "a zip archive with nothing in it", "save it again, with tensors in it"),
    (0, b"\x0c\xdb:*", "the manifest of a TensorStore store", "name the folder that it is in"),
    (0, b'{"tree_metadata"', "the list of an Orbax tree", "name the folder that it is in"),
    (0, b'{"item_handlers"', "what Orbax says of a checkpoint", "name the folder that it is in"),
    (0, b"\x81\xa6params", "msgpack without a Flax array",
     "flax.serialization.to_bytes(params) writes one with arrays"),
)  # fmt: skip
"""Known files by their magic bytes: (offset, bytes, what it is, hint). A negative offset counts from the end."""

STARTS: tuple[tuple[re.Pattern[bytes], str, str], ...] = (
    (re.compile(rb"[1-9]\d{0,8} [1-9]\d{0,4}\n\S+ "), "a file of word vectors, as word2vec and fastText write them",
     "numpy.savez what gensim's KeyedVectors.load_word2vec_format(FILE).vectors is: that is read"),
    (re.compile(rb"\S+(?: -?\d+\.\d+(?:e-?\d+)?){8}"), "a file of word vectors, as GloVe writes them",
     "numpy.savez what gensim's KeyedVectors.load_word2vec_format(FILE, no_header=True).vectors is: that is read"),
    (re.compile(rb'\{\s*"features_info":'), "a CatBoost model of trees, as JSON", NO_TENSORS),
    (re.compile(rb'\{"name": ?"tree", ?"version":'), "a LightGBM model of trees, as JSON", NO_TENSORS),
)  # fmt: skip
"""Known files by a pattern at their start: (pattern, what it is, hint). Word vectors begin with the number of words,
the length of each vector, and the first word; JSON for people has white space.
"""

SUFFIXES: dict[str, Lookalike] = {
    ".pdmodel": Lookalike("a PaddlePaddle program, without weights", BESIDE_PROGRAM),
    ".t7": Lookalike("a file of Lua Torch's", OF_TORCHFILE),
    ".engine": Lookalike("a TensorRT engine", MADE_FROM),
    ".plan": Lookalike("a TensorRT engine", MADE_FROM),
    ".pb": Lookalike("a TensorFlow graph with its weights frozen into it", MADE_FROM),
    ".mnn": Lookalike("an MNN model", MADE_FROM),
    ".rknn": Lookalike("an RKNN model", MADE_FROM),
    ".pte": Lookalike("an ExecuTorch program", MADE_FROM),
    ".dlc": Lookalike("a Qualcomm model", MADE_FROM),
    ".bson": Lookalike("a BSON file, such as Flux.jl's", "npzwrite, of Julia's NPZ, writes arrays that are read"),
    ".mindir": Lookalike("a graph of MindSpore's", "name the .ckpt of the network"),
    ".tnnmodel": Lookalike("a TNN model", MADE_FROM),
    ".nb": Lookalike("a Paddle Lite model", "convert the .pdiparams that it was made from"),
    ".kmodel": Lookalike("a model for Kendryte's processors", MADE_FROM),
    ".axmodel": Lookalike("a model for Axera's processors", OF_ONNX),
    ".blob": Lookalike("a model for Intel's Myriad, such as DepthAI's", MADE_FROM),
    ".vmfb": Lookalike("a program of IREE's", MADE_FROM),
}
"""Known files that have no magic bytes, by their suffix."""

FOLDERS: tuple[tuple[str, str, str], ...] = (
    ("saved_model.pb", "a TensorFlow SavedModel without an .index in its folder variables",
     "copy all of its files again, unless it is a graph without weights"),
    ("model_index.json", "a diffusers pipeline, of several models", "name one of the folders in it, such as unet"),
    ("coremldata.bin", "a compiled Core ML model (.mlmodelc)", "name the .mlpackage that it was made from"),
    ("zero_to_fp32.py", "one of DeepSpeed's without the file 'latest'", "name a folder in it, such as global_step500"),
)  # fmt: skip
"""Known folders: (the name of a file in it, what the folder is, hint)."""

AGENTS = {
    "rllib_checkpoint.json": "an RLlib algorithm's", "class_and_ctor_args.pkl": "a component of an RLlib algorithm's"
}  # fmt: skip
"""RLlib's folders, by a file in them. Source: ray/rllib/utils/checkpoints.py (`Checkpointable`)."""

NETWORKS = (
    ("learner_group/learner/rl_module", "module_state.pkl"), ("learner/rl_module", "module_state.pkl"),
    ("rl_module", "module_state.pkl"), ("", "module_state.pkl"), ("policies", "policy_state.pkl"),
)  # fmt: skip
"""RLlib's networks, in the new API and the old: (a folder with a subfolder for each policy, the file in these)."""
