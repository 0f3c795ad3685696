"""One file of each format, spelled out by hand: it is read as what it says, and written exactly so."""

from __future__ import annotations

from struct import pack
from typing import TYPE_CHECKING
from zlib import crc32

import h5py
import torch
import xxhash
from safetensors.torch import load_file

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.core.metadata import StateDict, TorchSize
from ckptconv.core.tensor import TensorInfo
from ckptconv.formats import registry
from ckptconv.testing import Plain, Sample
from ckptconv.testing.worker import write
from tests.support.craft import archive, state_dict, tensor
from tests.support.craft import text as text_
from tests.support.nodes import load, same_object

if TYPE_CHECKING:
    from pathlib import Path

ONE_TWO = bytes.fromhex("0000803f00000040")  # 1.0, 2.0
SHARED = Plain(DType.F32, (2,), ONE_TWO)
SAMPLE = Sample(
    "golden", {"w": SHARED, "v": SHARED}, {"widths": [3, 4], "shape": (2,), "name": "net", "state_dict": StateDict()}
)
VALUE = {
    "widths": [3, 4], "shape": (2,), "name": "net", "state_dict": {"w": torch.tensor([1.0, 2.0])}
}  # fmt: skip


def xxh3(data: bytes) -> str:
    return xxhash.xxh3_128(data).hexdigest()


DIGEST = xxh3(
    b'["v","F32",[2],"%(w)s"]\n["w","F32",[2],"%(w)s"]\n["tie",["v","w"]]\n'
    b'["metadata",{"name":"net","shape":{"$tuple":[2]},"widths":[3,4]}]\n' % {b"w": xxh3(ONE_TWO).encode()}
)

SAFETENSORS_HEADER = (
    '{"__metadata__":{"widths":"[3, 4]",'
    '"shape":"[2]",'
    '"name":"net",'
    '"format":"pt",'
    '"v":"w",'
    '"ckptconv":"{'
    '\\"version\\":1,'
    '\\"root\\":{\\"widths\\":[3,4],\\"shape\\":{\\"$tuple\\":[2]},\\"name\\":\\"net\\",'
    '\\"state_dict\\":{\\"$state_dict\\":{}}},'
    '\\"ties\\":[[\\"v\\",\\"w\\",1]],'
    f'\\"digest\\":\\"xxh3-128:{DIGEST}\\"'
    '}"},'
    '"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
).encode("ascii")
SAFETENSORS_HEADER += b" " * (-len(SAFETENSORS_HEADER) % 8)
SAFETENSORS = pack("<Q", len(SAFETENSORS_HEADER)) + SAFETENSORS_HEADER + ONE_TWO


def text(value: bytes, memo: int) -> bytes:
    return b"X" + pack("<I", len(value)) + value + b"q" + bytes([memo])


STORAGE_0 = b"K\x02tQ"  # two elements; end of the tuple; a persistent id
VIEW = (
    b"K\x00"  # offset
    b"K\x02\x85"  # size (2,)
    b"K\x01\x85"  # stride (1,)
    b"\x89"  # requires_grad: False
    b"h\x05)R"  # hooks: OrderedDict()
    b"tR"
)
PICKLE = b"".join(
    [
        b"\x80\x02}(",
        text(b"widths", 0), b"](K\x03K\x04e",
        text(b"shape", 1), b"K\x02\x85",
        text(b"name", 2), text(b"net", 3),
        text(b"state_dict", 4), b"ccollections\nOrderedDict\nq\x05)R(",
        text(b"w", 6),
        b"ctorch._utils\n_rebuild_tensor_v2\nq\x07(",
        b"(", text(b"storage", 8), b"ctorch\nFloatStorage\nq\x09", text(b"0", 10), text(b"cpu", 11), STORAGE_0,
        VIEW,
        text(b"v", 12),
        b"h\x07(", b"(h\x08h\x09h\x0ah\x0b", STORAGE_0, VIEW,
        b"uu.",
    ]
)  # fmt: skip
RECORDS = [
    (b"archive/data.pkl", PICKLE),
    (b"archive/.format_version", b"1"),
    (b"archive/.storage_alignment", b"64"),
    (b"archive/byteorder", b"little"),
    (b"archive/data/0", ONE_TWO),
    (b"archive/version", b"3\n"),
]


def torch_archive() -> bytes:
    """Version needed 2.0, flag: UTF-8 names, stored, 1980-01-01, data on 64-byte boundaries behind an "FB" field."""
    local, directory = b"", b""
    for name, data in RECORDS:
        start = len(local)
        room = -(start + 30 + len(name) + 4) % 64
        extra = b"FB" + pack("<H", room) + b"Z" * room
        common = pack("<5H3I", 20, 0x0800, 0, 0, 0x0021, crc32(data), len(data), len(data))
        local += b"PK\3\4" + common + pack("<2H", len(name), len(extra)) + name + extra
        assert len(local) % 64 == 0
        local += data
        directory += b"PK\1\2" + pack("<H", 20) + common + pack("<5H2I", len(name), 0, 0, 0, 0, 0, start) + name
    end = pack("<4H2IH", 0, 0, len(RECORDS), len(RECORDS), len(directory), len(local), 0)
    return local + directory + b"PK\5\6" + end


FLAX = (
    b"\x82"  # a map of two
    b"\xa4step" b"\x03"
    b"\xa6params" b"\x81" b"\xa7Dense_0" b"\x82"
    b"\xa6kernel" b"\xc7\x16\x01"  # an extension of 22 bytes, of type 1
    b"\x93" b"\x92\x01\x02" b"\xa7float32" b"\xc4\x08" + ONE_TWO +  # shape, dtype, data
    b"\xa4bias" b"\xd8\x01"  # of 16 bytes
    b"\x93" b"\x91\x01" b"\xa8bfloat16" b"\xc4\x02" b"\x80\x3f"
)  # fmt: skip


def test_a_file_of_flax_is_read_as_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "x.msgpack").write_bytes(FLAX)
    with ckptconv.open(tmp_path / "x.msgpack") as checkpoint:
        assert checkpoint.metadata == {"step": 3}
        kernel, bias = checkpoint["Dense_0.kernel"], checkpoint["Dense_0.bias"]
        assert (kernel.info, bytes(kernel.read())) == (TensorInfo(DType.F32, (1, 2), 8), ONE_TWO)
        assert (bias.info, bytes(bias.read())) == (TensorInfo(DType.BF16, (1,), 2), b"\x80\x3f")


ZARRAY = (
    b'{"zarr_format":2,"shape":[1,2],"chunks":[1,2],"dtype":"<f4","order":"C","compressor":null,"filters":null,'
    b'"fill_value":null}'
)
OCDBT_NODE = b"".join(
    [
        b"\x0c\xdb\x20\xde" + pack("<Q", 170) + b"\0\0",  # of the tree of keys, 170 bytes, version 0, not compressed
        b"\0\1\3\0d/0",  # a leaf; one file, of a path of three bytes and no base path
        b"\2\2\x09\3w/.zarray0.0",  # two keys, which share two bytes; how many follow
        b"\x7b\x08\0\1",  # the values' lengths; the first is in this node, the second in a file
        b"\0\0" + ZARRAY,  # which file, which offset; the first
        bytes.fromhex("a1ff69ef"),  # CRC-32C
    ]
)
OCDBT_MANIFEST = b"".join(
    [
        b"\x0c\xdb\x3a\x2a" + pack("<Q", 69) + b"\0\0" + bytes(16),  # its uuid
        b"\0\x80\x08\x80\x80\x80\x04\4\0",  # alone; most bytes; 2^4 versions; no compression
        b"\1\3\0d/0",
        b"\1\1\0\0\x08\xaa\1",  # a version: generation 1, height 0; its root: file 0, offset 8, 170 bytes
        b"\2\xaa\1\x08" + bytes(8) + b"\0",  # statistics and a time; no older versions
        bytes.fromhex("ed46fd49"),
    ]
)


def test_a_store_of_tensorstore_is_read_as_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "0").write_bytes(ONE_TWO + OCDBT_NODE)
    (tmp_path / "manifest.ocdbt").write_bytes(OCDBT_MANIFEST)
    with ckptconv.open(tmp_path) as checkpoint:
        assert list(checkpoint) == ["w"]
        assert checkpoint["w"].info == TensorInfo(DType.F32, (1, 2), 8)
        assert bytes(checkpoint["w"].read()) == ONE_TWO


TFLITE = b"".join(
    [
        pack("<I4s", 24, b"TFL3"),  # the root is at 24
        pack("<7Hxx", 14, 16, 4, 0, 8, 0, 12),  # 8: vtable of a Model, of 16 bytes: version, subgraphs, buffers
        pack("<i3I", 24 - 8, 3, 40 - 32, 120 - 36),  # 24: the Model
        pack("<2I", 1, 56 - 44),  # 40: one subgraph
        pack("<3Hxx", 6, 8, 4),  # 48: vtable of a SubGraph, of 8 bytes: tensors
        pack("<iI", 56 - 48, 64 - 60),  # 56: the SubGraph
        pack("<2I", 1, 84 - 68),  # 64: one tensor
        pack("<6H", 12, 20, 4, 16, 8, 12),  # 72: vtable of a Tensor, of 20 bytes: shape, type, buffer, name
        pack("<iIIIB3x", 84 - 72, 104 - 88, 1, 112 - 96, 0),  # 84: the Tensor; FLOAT32, of the buffer 1
        pack("<Ii", 1, 2),  # 104: the shape
        pack("<I", 1) + b"w\0\0\0",  # 112: the name
        pack("<3I", 2, 140 - 124, 152 - 128),  # 120: two buffers
        pack("<2Hxxxx", 4, 4),  # 132: vtable of an empty Buffer
        pack("<i", 140 - 132),  # 140: the empty Buffer
        pack("<3Hxx", 6, 8, 4),  # 144: vtable of a Buffer, of 8 bytes: data
        pack("<iI", 152 - 144, 160 - 156),  # 152: the Buffer
        pack("<I", 8) + ONE_TWO,  # 160: the data
    ]
)  # fmt: skip


def test_a_model_of_tensorflow_lite_is_read_as_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "x.tflite").write_bytes(TFLITE)
    with ckptconv.open(tmp_path / "x.tflite") as checkpoint:
        assert list(checkpoint) == ["w"]
        assert checkpoint["w"].info == TensorInfo(DType.F32, (2,), 8)
        assert bytes(checkpoint["w"].read()) == ONE_TWO


IR = b"""<?xml version="1.0"?>
<net name="n" version="11"><layers><layer id="0" name="w" type="Const" version="opset1">
<data element_type="f32" shape="2" offset="4" size="8" /></layer></layers><edges></edges></net>
"""


def test_a_model_of_openvinos_is_read_as_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "x.xml").write_bytes(IR)
    (tmp_path / "x.bin").write_bytes(bytes(4) + ONE_TWO)
    with ckptconv.open(tmp_path / "x.xml") as checkpoint:
        assert list(checkpoint) == ["w"]
        assert checkpoint["w"].info == TensorInfo(DType.F32, (2,), 8)
        assert bytes(checkpoint["w"].read()) == ONE_TWO


GGJT = b"".join(
    [
        b"tjgg", pack("<I", 3),  # magic, version
        pack("<7I", 1, 2, 256, 1, 1, 2, 0),  # 8: n_vocab, n_embd, n_mult, n_head, n_layer, n_rot, ftype
        pack("<I", 1) + b"a" + pack("<f", 0.5),  # 36: a token, its score
        pack("<4I", 1, 11, 0, 2) + b"norm.weight",  # 45: one dimension, a name of 11 bytes, F32; the dimension
        bytes(24), ONE_TWO,  # 72: up to 96
    ]
)  # fmt: skip


def test_a_ggml_file_of_before_gguf_is_read_as_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(GGJT)
    with ckptconv.open(tmp_path / "x.bin") as checkpoint:
        assert list(checkpoint) == ["norm.weight"]
        assert checkpoint.metadata["vocabulary"] == ["a"]
        assert bytes(checkpoint["norm.weight"].read()) == ONE_TWO


MLPROGRAM = (
    bytes.fromhex(
        "0808"
        "1200"  # specificationVersion 8, no description
        "b21f50"  # 502, mlProgram
        "124e"
        "0a046d61696e"  # functions: "main"
        "1246"
        "12026f70"  # opset "op"
        "1a40"
        "0a026f70"  # block_specializations: "op"
        "123a"
        "1a38"  # a block, its operation
        "0a05636f6e7374"  # type "const"
        "1a030a0177"  # outputs: "w"
        "2a2a"
        "0a0376616c"  # attributes: "val"
        "1223"
        "120c"
        "0a0a080b1001"
        "1a040a020802"  # a value: a tensor of F32, of one dimension, of 2
        "2a13"
        "0a0f"  # in a file
    )
    + b"@model_path/w.b"
    + bytes.fromhex("1040")
)  # at byte 64


def test_a_program_of_core_ml_is_read_as_what_it_says(tmp_path: Path) -> None:
    header = pack("<2I", 1, 2).ljust(64, b"\0")  # one blob, version 2
    (tmp_path / "w.b").write_bytes(header + pack("<2I2Q", 0xDEADBEEF, 2, 8, 128).ljust(64, b"\0") + ONE_TWO)
    (tmp_path / "x.mlmodel").write_bytes(MLPROGRAM)
    with ckptconv.open(tmp_path / "x.mlmodel") as checkpoint:
        assert list(checkpoint) == ["w"]
        assert checkpoint["w"].info == TensorInfo(DType.F32, (2,), 8)
        assert bytes(checkpoint["w"].read()) == ONE_TWO


PDIPARAMS = pack("<IQIi", 0, 0, 0, 4) + b"\x08\x05\x10\x02" + ONE_TWO  # versions, no levels; F32, one dimension of 2
PARAMS = b"".join(
    [
        pack("<3Q", 0x112, 0, 1),  # magic, reserved, one array
        pack("<IiIq", 0xF993FAC9, 0, 1, 2),  # version 2, dense, one dimension of 2
        pack("<3i", 1, 0, 0), ONE_TWO,  # on the CPU, F32
        pack("<2Q", 1, 5), b"arg:w",  # one name
    ]
)  # fmt: skip
CAFFEMODEL = bytes.fromhex(
    "0a016e"  # name "n"
    "a2061b"  # 100, a layer
    "0a0163" "12055363616c65"  # "c", of the type "Scale"
    "3a0f" "3a030a0102" "2a08"  # a blob: its shape, its data
)  # fmt: skip


def test_files_of_paddlepaddle_mxnet_and_caffe_are_read_as_what_they_say(tmp_path: Path) -> None:
    (tmp_path / "x.pdiparams").write_bytes(PDIPARAMS)
    parameter = '{"#":"p","A":[0,1,1,"w"],"O":{"TT":{"#":"0.t_dtensor","D":[{"#":"0.t_f32"},[2]]}}}'
    (tmp_path / "x.json").write_text('{"program":{"regions":[{"blocks":[{"ops":[' + parameter + "]}]}]}}")
    (tmp_path / "x.params").write_bytes(PARAMS)
    (tmp_path / "x.caffemodel").write_bytes(CAFFEMODEL + ONE_TWO)
    for file, name in (("x.pdiparams", "w"), ("x.params", "w"), ("x.caffemodel", "c.weight")):
        with ckptconv.open(tmp_path / file) as checkpoint:
            assert list(checkpoint) == [name]
            assert checkpoint[name].info == TensorInfo(DType.F32, (2,), 8)
            assert bytes(checkpoint[name].read()) == ONE_TWO


UNDEFINED = b"\xff" * 8
HDF5_MESSAGES = (
    pack("<2HB3x", 1, 16, 0) + pack("<3B5xQ", 1, 1, 0, 2)  # dataspace: version 1, one dimension, of 2
    + pack("<2HB3x", 3, 24, 1)  # datatype: class 1 (floats) of version 1, little-endian
    + pack("<4BI2H4BI4x", 0x11, 0x20, 31, 0, 4, 0, 32, 23, 8, 0, 23, 127)  # sign in bit 31, exponent from bit 23 on
    + pack("<2HB3x", 5, 8, 1) + pack("<4BI", 2, 2, 2, 1, 0)  # fill value: the default
    + pack("<2HB3x", 8, 24, 0) + pack("<2BQQ6x", 3, 1, 1176, 8)  # layout of version 3: one run, its address, its size
)  # fmt: skip
HDF5 = b"".join(
    [
        b"\x89HDF\r\n\x1a\n", bytes(5), b"\x08\x08\0", pack("<2HI", 4, 16, 0),  # superblock: versions, sizes, B-trees
        pack("<2Q", 0, 2**64 - 1), pack("<2Q", 1184, 2**64 - 1),  # base, no free space, end of the file, no driver
        pack("<2Q2I2Q", 0, 96, 1, 0, 136, 680),  # the root group: its header, its B-tree, its names
        pack("<2BH2I4x", 1, 0, 1, 1, 24) + pack("<2HB3x2Q", 17, 16, 0, 136, 680),  # 96: header with a symbol table
        (b"TREE\0\0\1\0" + UNDEFINED * 2 + pack("<3Q", 0, 728, 8)).ljust(544, b"\0"),  # 136: one child
        b"HEAP" + bytes(4) + pack("<3Q", 16, 1, 712),  # 680: names
        b"\0" * 8 + b"w".ljust(8, b"\0"),  # 712
        (b"SNOD\1\0\1\0" + pack("<2Q2I16x", 8, 1056, 0, 0)).ljust(328, b"\0"),  # 728: "w", its header
        pack("<2BH2I4x", 1, 0, 4, 1, 104) + HDF5_MESSAGES,  # 1056
        ONE_TWO,
    ]
)  # fmt: skip


def test_an_hdf5_file_is_read_as_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "x.h5").write_bytes(HDF5)
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["w"][()].tobytes() == ONE_TWO
    with ckptconv.open(tmp_path / "x.h5") as checkpoint:
        assert list(checkpoint) == ["w"]
        assert checkpoint["w"].info.dtype is DType.F32
        assert bytes(checkpoint["w"].read()) == ONE_TWO


def floats(count: int) -> bytes:
    """A tensor of so many floats, which are all of storage "0"."""
    return tensor(numel=count, size=b"K%c\x85" % count)


def listed(*values: bytes) -> bytes:
    return b"](" + b"".join(values) + b"e"


SHAPE = b"ctorch\nSize\nK\x03\x85\x85R"
STAGE = b"cdeepspeed.runtime.zero.config\nZeroStageEnum\nK\x01\x85R"
"""[3], and what every rank's file says."""


def of_rank(elements: int, padding: int) -> bytes:
    inner = {
        "zero_stage": STAGE,
        "partition_count": b"K\x02",
        "group_paddings": listed(b"K%c" % padding),
        "single_partition_of_fp32_groups": listed(floats(elements)),
    }
    return state_dict(optimizer_state_dict=state_dict(**inner)[2:-1])


def test_a_folder_of_deepspeeds_is_read_as_what_it_says(tmp_path: Path) -> None:
    folder = tmp_path / "global_step1"
    folder.mkdir()
    (tmp_path / "latest").write_text("global_step1")
    model = {
        "module": b"}" + text_("w") + floats(3) + b"s" + text_("tied") + floats(3) + b"s",
        "param_shapes": listed(b"}" + text_("w") + SHAPE + b"s"),
        "shared_params": b"}" + text_("tied") + text_("w") + b"s",
        "global_steps": b"K\x01",
    }
    archive(folder / "mp_rank_00_model_states.pt", state_dict(**model), {"0": bytes(12)})
    name = "zero_pp_rank_%d_mp_rank_00_optim_states.pt"
    archive(folder / (name % 0), of_rank(2, 0), {"0": ONE_TWO})
    archive(folder / (name % 1), of_rank(1, 1), {"0": pack("<f", 3.0)})
    with ckptconv.open(tmp_path) as checkpoint:
        assert bytes(checkpoint["w"].read()) == pack("<3f", 1.0, 2.0, 3.0)
        assert checkpoint["tied"].info == TensorInfo(DType.F32, (3,), 12)
        assert checkpoint.ties == [["w", "tied"]]
        assert checkpoint.metadata == {
            "global_steps": 1, "optimizer_state_dict": {"zero_stage": 1}, "param_shapes": [{"w": TorchSize([3])}],
        }  # fmt: skip


def test_a_tar_archive_is_read_as_what_it_says(tmp_path: Path) -> None:
    """A header and the contents, both in blocks of 512 bytes, and two blocks of zeros."""
    header = b'{"w":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
    contents = bytes([len(header), 0, 0, 0, 0, 0, 0, 0]) + header + b"\5\6"
    fields = [
        b"./m.safetensors".ljust(100, b"\0"), b"0000644\0", b"0000000\0", b"0000000\0", b"%011o\0" % len(contents),
        b"00000000000\0", b"        ", b"0", bytes(100), b"ustar\00000", bytes(247),
    ]  # fmt: skip
    fields[6] = b"%06o\0 " % sum(b"".join(fields))
    blocks = b"".join(fields) + contents.ljust(512, b"\0") + bytes(1024)
    (tmp_path / "x.tar").write_bytes(blocks)
    with ckptconv.open(tmp_path / "x.tar") as checkpoint:
        assert {name: bytes(tensor.read()) for name, tensor in checkpoint.items()} == {"w": b"\5\6"}
        assert blocks[512 + 8 + len(header) :][:2] == b"\5\6"


def test_slices_in_safetensors_files_are_read_as_what_they_say(tmp_path: Path) -> None:
    """``w`` is [[1, 2], [3, 4]], one column in each of two files; ``whole`` is in the second alone."""
    headers = [
        b'{"__metadata__":{"DCP_SHARDING_INFO":"{\\"w\\": {\\"saved_offsets\\": [0, 0]}}","DCP_VERSION":"1.0",'
        b'"format":"pt"},"w":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]}}',
        b'{"__metadata__":{"DCP_SHARDING_INFO":"{\\"w\\": {\\"saved_offsets\\": [0, 1]}, \\"whole\\": '
        b'{\\"saved_offsets\\": []}}","DCP_VERSION":"1.0","format":"pt"},'
        b'"w":{"dtype":"U8","shape":[2,1],"data_offsets":[0,2]},"whole":{"dtype":"U8","shape":[],"data_offsets":[2,3]}}',
    ]
    for number, (header, data) in enumerate(zip(headers, [b"\1\3", b"\2\4\7"], strict=True), start=1):
        file = tmp_path / f"shard-0000{number}-model-00001-of-00001.safetensors"
        file.write_bytes(pack("<Q", len(header)) + header + data)
    with ckptconv.open(tmp_path) as checkpoint:
        assert {name: (tensor.info.shape, bytes(tensor.read())) for name, tensor in checkpoint.items()} == {
            "w": ((2, 2), b"\1\2\3\4"), "whole": ((), b"\7"),
        }  # fmt: skip
        assert not checkpoint.metadata


def test_a_safetensors_file_has_exactly_these_bytes(tmp_path: Path) -> None:
    write(registry.by_name("safetensors"), SAMPLE, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").read_bytes() == SAFETENSORS


def test_a_safetensors_file_is_read_as_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(SAFETENSORS)
    assert load_file(tmp_path / "x.safetensors")["w"].tolist() == [1, 2]
    with ckptconv.open(tmp_path / "x.safetensors") as checkpoint:
        assert checkpoint.metadata == {"widths": [3, 4], "shape": (2,), "name": "net"}
        assert checkpoint.ties == [["w", "v"]]
        assert bytes(checkpoint["v"].read()) == ONE_TWO
        assert checkpoint.notes.digest == f"xxh3-128:{DIGEST}"


def test_a_torch_archive_has_exactly_these_bytes(tmp_path: Path) -> None:
    write(registry.by_name("torch"), SAMPLE, tmp_path / "x.pth")
    assert (tmp_path / "x.pth").read_bytes() == torch_archive()


def test_a_torch_archive_is_read_as_what_it_says(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(torch_archive())
    found = load(tmp_path / "x.pth")
    assert found["state_dict"].pop("v").data_ptr() == found["state_dict"]["w"].data_ptr()
    assert same_object({**found, "state_dict": dict(found["state_dict"])}, VALUE)
    with ckptconv.open(tmp_path / "x.pth") as checkpoint:
        assert checkpoint.metadata == {"widths": [3, 4], "shape": (2,), "name": "net"}
        assert checkpoint.ties == [["w", "v"]]
        assert bytes(checkpoint["v"].read()) == ONE_TWO
