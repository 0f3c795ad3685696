"""HDF5 files, with h5py as their writer and the judge of what is in them."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import h5py
import ml_dtypes
import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.errors import LossError
from ckptconv.formats.detect import detect
from ckptconv.io.source import Source
from ckptconv.testing.damage import limited_memory

if TYPE_CHECKING:
    from pathlib import Path

VERSIONS = ["earliest", "v108", "v110", "latest"]
WIDE = [
    f"{order}{word}" for order in "<>" for word in ["i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"]
]
DTYPES = ["?", "i1", "u1", *WIDE]
GROWTH: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int | None, ...] | None]] = {
    # shape, shape of a chunk, largest shape: each finds its chunks another way
    "one chunk": ((6, 7), (6, 7), None),
    "a fixed grid": ((20, 30), (7, 8), None),
    "a larger grid": ((6, 7, 8), (2, 3, 5), (12, 14, 20)),
    "pages of a fixed grid": ((4000,), (2,), None),
    "growing": ((20, 30), (7, 8), (None, 30)),
    "growing in its last dimension": ((6, 7, 8), (2, 3, 5), (9, 20, None)),
    "growing far": ((5000,), (2,), (None,)),
    "growing in two": ((20, 30), (7, 8), (None, None)),
    "growing far in two": ((60, 70), (1, 2), (None, None)),
}
FILTERS: dict[str, dict[str, Any]] = {
    "plain": {}, "gzip": {"compression": "gzip"}, "shuffle": {"shuffle": True}, "fletcher32": {"fletcher32": True},
    "all": {"compression": "gzip", "shuffle": True, "fletcher32": True},
}  # fmt: skip


def numbers(shape: tuple[int, ...], dtype: Any = np.float32) -> Any:
    return (np.random.default_rng(len(shape)).standard_normal(shape) * 50).astype("i4").astype(dtype)


def assert_reads_as_h5py(path: Path) -> int:
    seen = 0
    with h5py.File(path) as theirs, ckptconv.open(path) as ours:
        names: list[str] = []
        theirs.visititems(lambda name, one: names.append(name) if isinstance(one, h5py.Dataset) else None)
        assert sorted(ours.all_tensors) == sorted(names)
        for name in names:
            array, tensor = np.asarray(theirs[name][()]), ours.all_tensors[name]
            assert tensor.info.shape == array.shape
            expected = array.astype(array.dtype.newbyteorder("<")).tobytes()
            assert bytes(tensor.read()) == expected, name
            size = len(expected)
            for start, stop in {(size // 3, size // 2), (min(1, size), size), (size // 2, min(size // 2 + 7, size))}:
                assert bytes(tensor.read(start, stop)) == expected[start:stop], name
            seen += 1
    return seen


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("userblock", [0, 512, 4096])
def test_arrays_of_every_type_are_read(version: str, userblock: int, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver=version, userblock_size=userblock) as file:
        for dtype in DTYPES:
            file[f"deep/er/{dtype}"] = numbers((5, 6), dtype)
            file.create_dataset(f"chunks/{dtype}", data=numbers((5, 6), dtype), chunks=(2, 4), shuffle=True)
        for shape in ((), (1,), (0,), (3, 0, 4), (2, 3, 4, 5)):
            file[f"shapes/{len(shape)}/{shape}"] = numbers(shape)
    assert assert_reads_as_h5py(tmp_path / "x.h5") == 2 * len(DTYPES) + 5
    with ckptconv.open(tmp_path / "x.h5") as checkpoint:
        assert checkpoint["deep/er/?"].info.dtype is DType.BOOL
        assert checkpoint["deep/er/>c16"].info.dtype is DType.C128


# how chunks are indexed depends on the version, and on whether they went through filters, and not through which
@pytest.mark.parametrize(
    ("version", "name"),
    [(version, name) for version in VERSIONS for name in FILTERS if name in ("plain", "all") or version == "latest"],
)
def test_chunks_are_found_however_they_are_indexed(version: str, name: str, tmp_path: Path) -> None:
    filters = FILTERS[name]
    with h5py.File(tmp_path / "x.h5", "w", libver=version) as file:
        for what, (shape, chunk, largest) in GROWTH.items():
            options = {"chunks": chunk, "maxshape": largest, "fillvalue": 3, **filters}
            for dtype in ("<f4", ">i2"):
                file.create_dataset(f"{what}/{dtype}", data=numbers(shape, dtype), **options)
            sparse = file.create_dataset(f"{what}/sparse", shape, ">i4", **options)
            sparse[tuple(slice(n // 2, n // 2 + 2) for n in shape)] = 5
            file.create_dataset(f"{what}/never", shape, "f8", **options)
            if largest:
                resized = file.create_dataset(f"{what}/resized", data=numbers(shape), **options)
                resized.resize(tuple(n - 3 for n in shape))
                again = file.create_dataset(f"{what}/again", data=numbers(shape), **options)
                again.resize(tuple(n - 3 for n in shape))
                again.resize(shape)
    assert assert_reads_as_h5py(tmp_path / "x.h5") > 40


def test_an_index_of_a_hundred_thousand_chunks_is_read(tmp_path: Path) -> None:
    values = np.arange(300_000, dtype=np.uint32)
    with h5py.File(tmp_path / "x.h5", "w", libver="latest") as file:
        file.create_dataset("grows", data=values, chunks=(2,), maxshape=(None,))  # its data blocks have pages
        file.create_dataset("in two", data=values[:40_000].reshape(200, 200), chunks=(1, 2), maxshape=(None, None))
        late = file.create_dataset("late", (300_000,), "u4", chunks=(2,), maxshape=(None,))
        late[299_990:], late[100:103] = 4, 3
    assert_reads_as_h5py(tmp_path / "x.h5")


@pytest.mark.parametrize("newest", [False, True])
@pytest.mark.parametrize("sizes", [(4, 8), (8, 4), (4, 4), (2, 2)])
def test_addresses_and_sizes_of_other_widths(sizes: tuple[int, int], newest: bool, tmp_path: Path) -> None:
    created, accessed = h5py.h5p.create(h5py.h5p.FILE_CREATE), h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    created.set_sizes(*sizes)
    latest = h5py.h5f.LIBVER_LATEST
    accessed.set_libver_bounds(latest if newest else h5py.h5f.LIBVER_EARLIEST, latest)
    path = tmp_path / "x.h5"
    with h5py.File(h5py.h5f.create(str(path).encode(), h5py.h5f.ACC_TRUNC, created, accessed)) as file:
        file["g/w"], file["text"] = numbers((3, 4), ">i2"), ["a", "bcd"]
        file["g"].attrs["texts"] = ["a", "bc"]
        if sizes > (2, 2):
            file.create_dataset("z", data=numbers((90,)), chunks=(3,), compression="gzip", fletcher32=True)
            many = file.create_group("many")
            for i in range(100):
                many[f"v{i}"] = many.attrs[f"v{i}"] = np.float32(i)
    with h5py.File(path) as theirs, ckptconv.open(path) as ours:
        assert len(ours) == (102 if sizes > (2, 2) else 1)
        for name, tensor in ours.items():
            array = theirs[name][()]
            assert bytes(tensor.read()) == array.astype(array.dtype.newbyteorder("<")).tobytes()
        assert ours.metadata["text"] == ["a", "bcd"]
        assert ours.metadata["g"] == {"texts": ["a", "bc"]}


def raw_dataset(file: Any, name: str, shape: tuple[int, ...], largest: tuple[int, ...], plist: Any) -> None:
    space, kind = h5py.h5s.create_simple(shape, largest), h5py.h5t.py_create(np.dtype(">f4"))
    made = h5py.h5d.create(file.id, name.encode(), kind, space, plist)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, numbers(shape, ">f4"))


@pytest.mark.parametrize("version", VERSIONS)
def test_layouts_that_h5py_writes_for_the_asking(version: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver=version) as file:
        compact = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        compact.set_layout(h5py.h5d.COMPACT)
        raw_dataset(file, "in the header", (10, 10), (10, 10), compact)
        early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        early.set_chunk((3, 4))
        early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        raw_dataset(file, "in a row of chunks", (10, 10), (12, 16), early)
        file.create_dataset("never written", (4, 5), ">i4", fillvalue=7)
        file.create_dataset("never written, zero", (4, 5), "f4")
        named = file["a type"] = np.dtype("f8")
        file.create_dataset("of a named type", data=np.arange(3.0), dtype=file["a type"])
        assert named is not None
    assert assert_reads_as_h5py(tmp_path / "x.h5") == 5


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("track", [False, True])
def test_groups_of_many_members_and_attributes(version: str, track: bool, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver=version) as file:
        many = file.create_group("many", track_order=track)
        for i in reversed(range(3000)):
            many[f"v{i}"] = np.float32(i)
        noted = file.create_group("noted", track_order=track)
        noted["x"] = np.arange(3)
        for i in reversed(range(1500)):
            noted.attrs[f"a{i}"] = f"text {i}" if i % 2 else i
        if version != "earliest":
            noted.attrs["huge"] = np.arange(30_000.0)
        expected = dict(noted.attrs)
    with ckptconv.open(tmp_path / "x.h5") as checkpoint:
        names = [name for name in checkpoint if name.startswith("many/")]
        assert names == [f"many/v{i}" for i in (reversed(range(3000)) if track else range(3000))]
        assert all(bytes(checkpoint[name].read()) == np.float32(name[6:]).tobytes() for name in names[::50])
        found = checkpoint.metadata["noted"]
        assert isinstance(found, dict)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], value) for name, value in expected.items())
        if track:
            assert list(found) == list(expected)


VALUES: dict[str, tuple[Any, Any]] = {
    "int": (3, 3), "unsigned": (np.uint64(2**64 - 1), 2**64 - 1), "float": (2.5, 2.5),
    "half": (np.float16(0.1), float(np.float16(0.1))),
    "bool": (True, True), "text": ("üx", "üx"), "bytes": (b"a\xff", b"a\xff"), "ints": ([1, 2, 3], [1, 2, 3]),
    "big-endian": (np.arange(3, dtype=">i2"), [0, 1, 2]), "table": (np.arange(6).reshape(2, 3), [[0, 1, 2], [3, 4, 5]]),
    "texts": (["a", "bc", ""], ["a", "bc", ""]), "fixed texts": (np.array([b"a", b"bcd"]), ["a", "bcd"]),
    "complex": (1 + 2j, 1 + 2j), "nothing": (h5py.Empty("f4"), None), "no element": (np.zeros(0), []),
    "bools": ([True, False], [True, False]),
}  # fmt: skip


@pytest.mark.parametrize("version", VERSIONS)
def test_attributes_and_datasets_of_text_are_typed_metadata(version: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w", libver=version) as file:
        file["g/w"] = np.ones(2)
        for name, (value, _) in VALUES.items():
            file.attrs[name] = file["g"].attrs[name] = file["g/w"].attrs[name] = value
        file["one text"], file["texts in a row"] = "x" * 3000, ["a", "bc"]
        file["fixed"] = np.array([[b"ab", b"c"]])
        file.create_dataset("texts in chunks", data=["a", "bcd"] * 10, dtype=h5py.string_dtype(), chunks=(3,))
        file.create_dataset(
            "packed", data=np.array([b"ab", b"cde"] * 10), chunks=(3,), compression="gzip", shuffle=True
        )
    expected = {name: value for name, (_, value) in VALUES.items()}
    with ckptconv.open(tmp_path / "x.h5") as checkpoint:
        assert list(checkpoint) == ["g/w"]
        assert checkpoint.metadata == expected | {
            "g": expected, "g/w": expected, "one text": "x" * 3000, "texts in a row": ["a", "bc"],
            "fixed": [["ab", "c"]],
            "texts in chunks": ["a", "bcd"] * 10, "packed": ["ab", "cde"] * 10,
        }  # fmt: skip
        found = checkpoint.metadata
        assert {name: type(found[name]) for name in expected} == {name: type(value) for name, value in expected.items()}


@pytest.mark.parametrize("version", VERSIONS)
def test_links_are_names_of_one_tensor_and_none_leads_out_of_the_file(version: str, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.ones(3)
    with h5py.File(tmp_path / "x.h5", "w", libver=version) as file:
        file["g/w"] = np.arange(4.0)
        file["hard"] = file["g/w"]
        file["soft"], file["g/beside"] = h5py.SoftLink("/g/w"), h5py.SoftLink("w")
        file["soft to soft"], file["through a link"] = h5py.SoftLink("soft"), h5py.SoftLink("/again/w")
        file["again"], file["g/up"] = h5py.SoftLink("g"), file["/"]
        file["loop"], file["nowhere"] = h5py.SoftLink("/loop"), h5py.SoftLink("/not/here")
        file["out"] = h5py.ExternalLink("other.h5", "/secret")
    with ckptconv.open(tmp_path / "x.h5") as checkpoint:
        assert checkpoint.keys() == {"g/w", "hard", "soft", "g/beside", "soft to soft", "through a link"}
        assert len(checkpoint.ties) == 1
        assert len(checkpoint.ties[0]) == 6
        found = sorted((finding.code, finding.where) for finding in checkpoint.findings)
        assert found == [
            ("broken-link", "loop"), ("broken-link", "nowhere"), ("group-link", "again"), ("group-link", "g/up"),
            ("unreadable-tensor", "out"),
        ]  # fmt: skip
        assert "'other.h5'" in next(one.message for one in checkpoint.findings if one.where == "out")


def test_what_cannot_be_read_is_reported_by_name_and_left_out_with_consent_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["w"] = np.arange(4.0)
        file["records"] = np.zeros(3, [("a", "f4"), ("b", "i4")])
        file["references"] = np.array([file["w"].ref], dtype=h5py.ref_dtype)
        file.create_dataset("sequences", (2,), h5py.vlen_dtype("f4"))
        file.create_dataset("rows", (2,), np.dtype(("f4", (3,))))
        file.create_dataset("lzf", data=np.zeros((10, 10)), compression="lzf")
        file.create_dataset("scaled", data=np.zeros((10, 10), int), scaleoffset=3)
        file.create_dataset("elsewhere", (3,), "f4", external=[("/etc/passwd", 0, 12)])
        layout = h5py.VirtualLayout((3,), "f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3,))
        file.create_virtual_dataset("virtual", layout)
        file["fp8"] = np.ones(3, ml_dtypes.float8_e4m3fn)
    names = {"records", "references", "sequences", "rows", "lzf", "scaled", "elsewhere", "virtual", "fp8"}
    with ckptconv.open(path) as checkpoint:
        assert list(checkpoint) == ["w"]
        assert {one.where for one in checkpoint.findings if one.code == "unreadable-tensor"} == names
        assert "compressed with lzf" in next(one.message for one in checkpoint.findings if one.where == "lzf")
    with pytest.raises(LossError) as refused:
        ckptconv.convert(path, tmp_path / "x.pth")
    assert all(any(f"{name!r}" in line for line in refused.value.details) for name in names)
    ckptconv.convert(path, tmp_path / "x.pth", allow_loss=["opaque"])
    assert torch.load(tmp_path / "x.pth").keys() == {"w"}


def test_elements_that_numpy_has_no_name_for(tmp_path: Path) -> None:
    bits = numbers((3, 4), ml_dtypes.bfloat16)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["opaque"] = bits
        file["keras"] = bits
        file["keras"].attrs["dtype"] = "bfloat16"
        brain = h5py.h5t.IEEE_F32BE.copy()
        brain.set_fields(15, 7, 8, 0, 7)
        brain.set_size(2)
        brain.set_ebias(127)
        made = h5py.h5d.create(file.id, b"a float", brain, h5py.h5s.create_simple((3, 4)))
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, bits.astype("f4"))
        file.create_dataset("enum", data=np.arange(3), dtype=h5py.enum_dtype({"A": 0, "B": 1, "C": 2}, "i2"))
    with ckptconv.open(tmp_path / "x.h5") as checkpoint:
        for name in ("opaque", "keras", "a float"):
            assert checkpoint[name].info.dtype is DType.BF16
            assert bytes(checkpoint[name].read()) == bits.tobytes()
        assert checkpoint["enum"].info.dtype is DType.I16
        assert [(one.code, one.where) for one in checkpoint.findings] == [("read-as", "enum"), ("read-as", "opaque")]
        assert checkpoint.metadata == {}


def test_keras_order_of_layers_and_weights_is_kept(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.attrs["layer_names"] = ["z", "a"]
        for layer, weights in (("z", ["z/kernel:0", "z/bias:0"]), ("a", ["b/c:0", "a/d:0"]), ("other", [])):
            file.create_group(layer).attrs["weight_names"] = weights
            for name in weights:
                file[layer][name] = np.ones(2, np.float32)
    with ckptconv.open(tmp_path / "x.h5") as checkpoint:
        assert list(checkpoint) == ["z/z/kernel:0", "z/z/bias:0", "a/b/c:0", "a/a/d:0"]


def test_opening_reads_no_tensor_byte_and_one_run_is_a_span(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["w"] = np.arange(1 << 20, dtype=np.float32)
        file.create_dataset("z", data=np.arange(1 << 20, dtype=np.float32), compression="gzip")
    with Source(tmp_path / "x.h5") as source, detect(source).read(source) as checkpoint:
        assert source.bytes_read < 1 << 14
        span = checkpoint["w"].span
        assert span is not None
        assert bytes(span.file.read_at(span.offset + 400, 4)) == np.float32(100).tobytes()
        checkpoint["z"].read(100, 101)
        assert source.bytes_read < 1 << 17


def test_large_chunks_are_read_in_bounded_memory(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        values = numbers((1024, 16 << 10))
        file.create_dataset("z", data=values, chunks=(256, 256), compression="gzip", compression_opts=1, shuffle=True)
        file.create_dataset("w", data=values, chunks=(1024, 1024))
    with limited_memory(160 << 20):
        ckptconv.convert(tmp_path / "x.h5", tmp_path / "x.pth")
    found = torch.load(tmp_path / "x.pth")
    assert all(np.array_equal(found[name].numpy(), values) for name in "zw")


def test_it_converts_and_the_copy_is_equal(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"input_size": 784, "hidden_layers": [512, 256], "name": "net"})
        file["a/kernel"], file["a/bias"] = numbers((3, 4)), numbers((4,), ">f8")
        file["tied"] = file["a/kernel"]
    for target, again in itertools.permutations(("x.pth", "x.safetensors"), 2):
        ckptconv.convert(path, tmp_path / target, force=True)
        assert ckptconv.diff(path, tmp_path / target).equal
        ckptconv.convert(tmp_path / target, tmp_path / again, force=True)
        assert ckptconv.diff(path, tmp_path / again).equal
    found = torch.load(tmp_path / "x.pth")
    assert found["input_size"] == 784
    assert found["hidden_layers"] == [512, 256]
    assert torch.equal(found["state_dict"]["a/kernel"], torch.from_numpy(numbers((3, 4))))
    assert found["state_dict"]["tied"].data_ptr() == found["state_dict"]["a/kernel"].data_ptr()
