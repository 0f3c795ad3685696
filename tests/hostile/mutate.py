"""Random changes to files, of the kinds that find bugs in readers."""

from __future__ import annotations

import pickletools
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

MOST = 1 << 16
"""Bytes of a mutant."""

NUMBERS = [0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 100, 127, 128, 255, 256, 1000, 1024, 4096, 32767, 32768, 65535]
NUMBERS += [(1 << n) + d for n in (24, 31, 32, 47, 53, 61, 62, 63, 64) for d in (-1, 0, 1)]

JOBLIB = [
    b"cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81", b"X\x05\0\0\0shape", b"X\x05\0\0\0order", b"X\x01\0\0\0F",
    b"X\x02\0\0\0O8", b"X\x02\0\0\0V4", b"X\x02\0\0\0S1", b"\1\xff", b"\2\xff\xff", b"\x10" + b"\xff" * 16,
    b"K\0\x85", b"K\1\x85", b"K\2K\2\x86", b"ub", b"sb", b"h\1}b", b"}b",
]  # fmt: skip
PICKLE = [
    b"(", b".", b"0", b"1", b"2", b"N", b"\x88", b"\x89", b"]", b"}", b")", b"\x8f", b"\x90", b"\x91", b"a", b"e", b"s", b"u",
    b"t", b"\x85", b"\x86", b"\x87", b"l", b"d", b"R", b"b", b"\x81", b"\x92", b"o", b"Q", b"\x93", b"\x94", b"q\x00", b"h\x00",
    b"q\x01", b"h\x01", b"h\x02", b"r\xff\xff\xff\xff", b"j\x00\x00\x00\x00", b"K\x00", b"K\x01", b"M\xff\xff", b"J\xff\xff\xff\xff",
    b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"G\x7f\xf8\0\0\0\0\0\0", b"F1e999\n", b"I01\n", b"L5L\n", b"X\x01\0\0\0a", b"C\x01b",
    b"B\xff\xff\xff\xff", b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", b"\x96\x01\0\0\0\0\0\0\0x", b"\x82\x01", b"\x97", b"\x98",
    b"\x80\x02", b"\x80\x05", b"\x95\x10\0\0\0\0\0\0\0", b"cos\nsystem\n", b"ccollections\nOrderedDict\n",
    b"ccollections\ndefaultdict\n", b"ccollections\nCounter\n", b"cbuiltins\nset\n", b"cbuiltins\nlist\n", b"cbuiltins\ndict\n",
    b"cbuiltins\nbytearray\n", b"cbuiltins\ncomplex\n", b"c_codecs\nencode\n", b"ctorch\nSize\n", b"ctorch\ndevice\n",
    b"ctorch\nFloatStorage\n", b"ctorch.storage\nUntypedStorage\n", b"ctorch\nfloat32\n", b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_tensor_v3\n", b"ctorch._utils\n_rebuild_parameter\n", b"ctorch._utils\n_rebuild_qtensor\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy.core.multiarray\nscalar\n", b"cnumpy.core.numeric\n_frombuffer\n", b"ccopyreg\n_reconstructor\n", b"cbuiltins\nobject\n",
    b"cbuiltins\ngetattr\n", b"cm\nC\n", b"(im\nC\n", b"X\x07\0\0\0storage", b"X\x03\0\0\0cpu", b"X\x09\0\0\0_metadata",
    b"X\x0a\0\0\0state_dict", b"X\x02\0\0\0f8", b"X\x02\0\0\0M8", b"X\x01\0\0\0<",
]  # fmt: skip
JSON = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"null", b"true", b"NaN", b"Infinity", b"-1", b"1e999", b"0.5", b"1" * 30, b"\\u0000",
    b"\\ud800", b'"dtype"', b'"shape"', b'"data_offsets"', b'"__metadata__"', b'"F32"', b'"F4"', b'"C64"', b'"U8"', b'"ckptconv"',
    b'\\"$dict\\"', b'\\"$set\\"', b'\\"$int\\"', b'\\"$opaque\\"', b'\\"$numpy.array\\"', b'\\"$state_dict\\"', b'\\"$tensor\\"',
    b'\\"$stored\\"', b'\\"$bytes\\"', b'\\"$complex\\"', b'\\"ties\\"', b'\\"names\\"', b'\\"encodings\\"', b'\\"version\\"',
]  # fmt: skip
ZIP = [
    b"PK\3\4",
    b"PK\1\2",
    b"PK\5\6",
    b"PK\6\6",
    b"PK\6\7",
    b"\1\0\x08\0",
    b"data.pkl",
    b"data/0",
    b"version",
    b"byteorder",
    b"big",
]
WIRE = [bytes([n << 3 | w]) for n in (1, 2, 4, 5, 7, 8, 9, 10, 13, 14, 15) for w in (0, 1, 2, 5)]
WIRE += [b"\xff" * 9 + b"\x01", b"\x80\x80\x00", b"\x08\x0a", b"location", b"offset", b"length"]
HDF5 = [
    b"\x89HDF\r\n\x1a\n", b"OHDR", b"OCHK", b"TREE", b"SNOD", b"HEAP", b"GCOL", b"FRHP", b"FHDB", b"FHIB", b"BTHD", b"BTLF",
    b"BTIN", b"FAHD", b"FADB", b"EAHD", b"EAIB", b"EASB", b"EADB", b"\xff" * 8, b"\0" * 8, *(bytes([n, 0, 8, 0]) for n in range(24)),
    *(bytes([v << 4 | n]) for n in range(12) for v in (1, 3)),
]  # fmt: skip
TFLITE = [
    b"TFL3", b"\xff" * 4, b"\xff" * 8, *(bytes([n, 0]) for n in range(4, 24, 2)), *(bytes([n, 0, 0, 0]) for n in range(24)),
    bytes(4), b"\0\0\0\x80", b"\0\0\0\x40", b"PK\5\6",
]  # fmt: skip
XML = [
    b"<net version='11'>", b"<layers>", b"</layers>", b"<layer name='w' type='Const'>", b"</layer>", b"<body>", b"<data/>",
    b"<!DOCTYPE net [<!ENTITY a 'aa'>]>", b"&a;", b"&#0;", b"<![CDATA[", b"]]>", b"<!--", b"-->", b"<?xml version='1.0'?>",
    b"shape='", b"offset='", b"size='", b"element_type='", b"'", b'"', b">", b"/>", b"f32", b"i4", b"u3", b"nf4", b"string",
    b"-1", b"9" * 19, b"1,1,1", b"0", b"_compressed", b"type='Convert'", b"decompression", b"<rt_info>", b"</rt_info>",
]  # fmt: skip
TFJS = [
    *JSON[:18], b'"weightsManifest"', b'"modelTopology"', b'"paths"', b'"weights"', b'"name"', b'"quantization"', b'"scale"', b'"min"',
    b'"uint8"', b'"float16"', b'"string"', b'"complex64"', b'"int32"', b'"group":"optimizer"', b'"layers.weights.bin"', b'"../x"',
]  # fmt: skip
GGML = [
    b"lmgg", b"fmgg", b"tjgg", *(bytes([n, 0, 0, 0]) for n in range(20)), b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80",
    b"\xd0\7\0\0", b"d\0\0\0", b"e\0\0\0", b"encoder.w", b"silero-16k",
]  # fmt: skip
COREML = [
    *WIRE, b"@model_path/weights/weight.bin", b"const", b"val", b"\xca\x3e", b"\xa2\x1f", b"\xb2\x1f", b"\xd2\x0c", b"\xa2\6",
]  # fmt: skip
MXNET = [
    b"\x12\1" + bytes(6), *(magic + b"\xfa\x93\xf9" for magic in (b"\xc8", b"\xc9", b"\xca")), b"\xff" * 4, b"\xff" * 8,
    *(bytes([n, 0, 0, 0]) for n in range(13)), *(bytes([n]) + bytes(7) for n in range(4)), b"arg:", b"aux:",
]  # fmt: skip
MINDSPORE = [*WIRE, b"Float32", b"BFloat16", b"Int4", b"str", b"crc_num", b"moment1.", b"\x08\0", b"\x0a\2\2\2"]
MLC = [
    *JSON[:18], b'"records"', b'"dataPath"', b'"byteOffset"', b'"nbytes"', b'"f32-to-bf16"', b'"raw"', b'"bool"', b'"float32"',
]  # fmt: skip
DARKNET = [
    b"[net]", b"[conv]", b"[connected]", b"[route]", b"[shortcut]", b"[reorg]", b"[upsample]", b"[crop]", b"[implicit]", b"[local]",
    b"\nstride=", b"\nsize=", b"\nfilters=", b"\ngroups=", b"\nextra=", b"\nlayers=", b"\nfrom=", b"-1", b"0", b"9" * 12, b",",
    b"\nweights_type=per_channel", b"\nbatch_normalize=1", b"\nflipped=1", b"\nshare_index=-1", b"\ndontload=1", b"\n#",
]  # fmt: skip
NCNN = [
    b"\nConvolution", b"\nGemm", b"\nLSTM", b"\nMemoryData", b"\nEmbed", b"\nDeconvolutionDepthWise", b"\nx.Custom", b"7767517\n",
    b" 0=", b" 1=", b" 2=", b" 6=", b" 7=", b" 8=", b" 18=", b" 19=1", b" 21=", b"-23310=1,", b"=-1", b"=0", b"9" * 10, b",",
    b'="', b" 1 1 ", b" x", b"\r",
]  # fmt: skip
PADDLE = [
    *WIRE,
    bytes(16),
    b"\x08\5",
    b"\x10\1",
    b"\x12\2\1\1",
    b"\xff" * 4,
    *JSON[:18],
    b'"#": "p"',
    b'"A"',
    b'"O"',
    b'"D"',
    b"t_f16",
    b"[-1]",
    b'"program"',
]
GGUF = [
    b"GGUF",
    *(bytes([n, 0, 0, 0]) for n in range(42)),
    *(bytes([n]) + bytes(7) for n in range(8)),
    b"\xff" * 8,
    b"general.alignment",
]
NPY = [
    b"\x93NUMPY\1\0", b"\x93NUMPY\2\0", b"\n\x93NUMPY", b"'descr'", b"'fortran_order'", b"'shape'", b"True", b"False",
    b"'<f4'", b"'|O'", b"'<V2'", b"'>i8'", b"'<U1'", b"'?'", b"[('a', '<f4')]", b"(", b")", b",", b"{", b"}", b"-1", b"1L", b"9" * 30,
]  # fmt: skip
NPZ = [*ZIP, b".npy", b"ckptconv.json", *NPY]
MSGPACK = [
    *(bytes([n]) for n in (0x80, 0x81, 0x8F, 0x90, 0x91, 0x93, 0xA0, 0xA1, 0xC0, 0xC1, 0xC3, 0xFF)), b"\xc4\x01a", b"\xd9\x01a",
    *(bytes([n]) + b"\xff" * 4 for n in (0xC6, 0xC9, 0xCA, 0xCE, 0xD2, 0xDB, 0xDD, 0xDF)), b"\xcb\x7f\xf0" + bytes(6),
    b"\xd4\x02\x00", b"\xd6\xff" + bytes(4), b"\xd7\xff" + bytes(8), b"\xc7\x0c\xff" + bytes(12), b"\xc7\x10\x01", b"\xd8\x03",
    b"\x93\x90\xa7float32\xc4\x04" + bytes(4), b"\xa8bfloat16", b"\xa4int4", b"\xa5str32", b"\xa6params", b"\xabbatch_stats",
    b"\xb9__msgpack_chunked_array__\xc3", b"\xa5shape\x81\xa10\x04", b"\xa6chunks\x81\xa10", b"\xafPLACEHOLDER://x",
]  # fmt: skip
ORBAX = [
    *JSON[:18], b'"tree_metadata"', b'"key_metadata"', b'"key_type": 1', b'"value_type"', b'"scalar"', b'"string"', b'"jax.Array"',
    b'"None"', b'"skip_deserialize": true', b'"value_metadata_tree"', b'"store_array_data_equal_to_fill_value": true',
    b'"chunks":[', b'"dtype":">f4"', b'"dtype":"int4"', b'"dtype":"bfloat16"', b'"order":"F"', b'"compressor":null', b'"fill_value":"NaN"',
    b'"codecs":[', b'"sharding_indexed"', b'"transpose"', b'"crc32c"', b"\x28\xb5\x2f\xfd\x20", b"/.zarray", b"/zarr.json", b"/0", b"/c/0",
    *(bytes([n]) for n in (0, 1, 2, 127, 128, 255)), b"\xff" * 9 + b"\x01", b"../", b"d/0",
]  # fmt: skip
FOLDER = [
    *JSON[:18], *PICKLE[60:], b"\x1e", b"\x1f", b"config.json\x1f", b"modules.json\x1f", b"x.jinja\x1f", b"MLmodel\x1f", b"a.pkl\x1f\x80\x02",
    b"tokenizer_config.json\x1f", b"hyperparams.yaml\x1f", b"model.safetensors.index.json\x1f", b"model_index.json\x1f", b"a.bin\x1f",
    b'"auto_map"', b'"chat_template"', b'"template"', b'"attn_implementation"', b'"class_name"', b'"type"', b'"weight_map"', b"a/", b".py",
    b"!new:", b"!apply:", b"!!python/", b"loader_module: ", b"_target_: ", b"{{", b"}}", b"{%", b"%}", b"{#", b"|", b"~", b"__class__",
    b"attribute=", b"|map(", b"|join", b"set x = ", b"macro m(a)", b"for x in ", b"x[", b"\\x5f", b"'", b"(" * 20, b"[" * 2000, b'{"a":' * 1200,
]  # fmt: skip
TAR = [b"ustar\x0000", b"0000000\0", b"7777777\0", b"pickle\0", b"storages\0", b"tensors\0", b"\0" * 512]


def mutant(seed: bytes, others: Sequence[bytes], tokens: Sequence[bytes], chance: random.Random) -> bytes:
    """The seed with one to eight changes."""
    data = bytearray(seed[:MOST])
    for _ in range(1 << chance.choice((0, 0, 0, 1, 2, 3))):
        chance.choice(_CHANGES)(data, others, tokens, chance)
    return bytes(data[:MOST])


def _flip(data: bytearray, _: Sequence[bytes], __: Sequence[bytes], chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def _byte(data: bytearray, _: Sequence[bytes], __: Sequence[bytes], chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.randrange(256)


def _cut(data: bytearray, _: Sequence[bytes], __: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    del data[at : at + _length(chance)]


def _end(data: bytearray, _: Sequence[bytes], __: Sequence[bytes], chance: random.Random) -> None:
    if not chance.randrange(4):
        del data[chance.randrange(len(data) + 1) :]


def _double(data: bytearray, _: Sequence[bytes], __: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    piece = bytes(data[at : at + _length(chance)])
    data[at:at] = piece * (1 if chance.randrange(8) else chance.randrange(1, 200))


def _move(data: bytearray, _: Sequence[bytes], __: Sequence[bytes], chance: random.Random) -> None:
    at, to = chance.randrange(len(data) + 1), chance.randrange(len(data) + 1)
    piece = bytes(data[at : at + _length(chance)])
    data[to:to] = piece


def _token(data: bytearray, _: Sequence[bytes], tokens: Sequence[bytes], chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    token = chance.choice(tokens)
    data[at : at + (len(token) if chance.randrange(2) else 0)] = token


def _opcode(data: bytearray, _: Sequence[bytes], tokens: Sequence[bytes], chance: random.Random) -> None:
    """A token where an opcode of a pickle starts, or one opcode moved."""
    if not data.startswith(b"\x80"):
        return
    starts = [0]
    with suppress(Exception):  # as far as it can be followed
        starts += [place for _, _, place in pickletools.genops(bytes(data)) if place is not None]
    at, other = chance.choice(starts), chance.randrange(len(starts))
    piece = bytes(data[starts[other] : starts[min(other + 1, len(starts) - 1)]])
    data[at:at] = chance.choice(tokens) if chance.randrange(2) else piece


def _number(data: bytearray, _: Sequence[bytes], __: Sequence[bytes], chance: random.Random) -> None:
    width, order = chance.choice("BHIQ"), chance.choice("<<>")
    number = chance.choice(NUMBERS) % (1 << 8 * struct.calcsize(width))
    at = chance.randrange(len(data) + 1)
    data[at : at + struct.calcsize(width)] = struct.pack(order + width, number)


def _digits(data: bytearray, _: Sequence[bytes], __: Sequence[bytes], chance: random.Random) -> None:
    places = [i for i, byte in enumerate(data[:4096]) if 48 <= byte < 58]
    if places:
        at = chance.choice(places)
        data[at : at + 1] = str(chance.choice(NUMBERS)).encode()


def _splice(data: bytearray, others: Sequence[bytes], _: Sequence[bytes], chance: random.Random) -> None:
    other = chance.choice(others)
    start, at = chance.randrange(len(other) + 1), chance.randrange(len(data) + 1)
    data[at : at + _length(chance)] = other[start : start + _length(chance) * 4]


def _length(chance: random.Random) -> int:
    return 1 + chance.randrange(1 << chance.randrange(9))


_CHANGES = (
    _flip,
    _byte,
    _cut,
    _end,
    _double,
    _move,
    _token,
    _token,
    _opcode,
    _opcode,
    _opcode,
    _number,
    _number,
    _digits,
    _splice,
)
