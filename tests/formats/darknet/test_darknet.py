"""Weights of Darknet's: what it and others load of them is what is read here."""

from __future__ import annotations

import shutil
import zipfile
from math import prod
from pathlib import Path
from struct import pack

import numpy as np
import pytest
from safetensors.numpy import load_file

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, UnknownFormatError, UnsupportedError
from ckptconv.formats.darknet.config import Section
from ckptconv.formats.darknet.layers import plan
from tests.support.reads import bytes_read, expect_any_range

RUNTIMES = Path(__file__).parents[3] / "fixtures" / "others" / "runtimes"
YOLO = RUNTIMES / "darknet-yolo.weights"
HEADER = pack("<3iQ", 0, 2, 0, 640)
NAMES = [r"^(\d+)\.conv=module_list.\1.conv_\1", r"^(\d+)\.bn=module_list.\1.batch_norm_\1"]
"""The renames that README gives."""


def test_every_tensor_is_what_pytorch_yolov3_loads(tmp_path: Path) -> None:
    edits = ckptconv.Edits(names=[ckptconv.NameRule("rename", rule) for rule in NAMES])
    ckptconv.convert(YOLO, tmp_path / "x.safetensors", edits=edits, bare=True)
    found = load_file(tmp_path / "x.safetensors")
    with np.load(RUNTIMES / "darknet.npz") as expected:
        assert {*found} == {*expected.files}
        for name, value in found.items():
            assert np.array_equal(value, expected[name]), name
    assert ckptconv.inspect(YOLO).verdict == "plain"


def test_what_is_stored_transposed_is_what_darknet_saves_after_it_has_loaded_it() -> None:
    stored, saved = (RUNTIMES / f"darknet-{name}.weights" for name in ("layers", "saved"))
    with ckptconv.open(stored, format="darknet") as one, ckptconv.open(saved) as other:
        assert list(one) == list(other)
        for name, tensor in one.items():
            expect_any_range(tensor, bytes(other[name].read()), 8)
        assert one["3.conv.weight"].span is one["11.fc.weight"].span is None
        assert one.metadata == {"version": [0, 1001, 0], "seen": 640}
        assert other["14.state_i.fc.weight"].info.shape == (2, 2)
        assert other["14.input_g.fc.weight"].info.shape == (2, 3)


def network(folder: Path, text: str, count: int, header: bytes = HEADER, name: str = "x") -> Path:
    """A file of `count` numbers, 0, 1, 2 …, beside the .cfg of a network for 2 × 4 × 4 images."""
    (folder / "x.cfg").write_text(f"[net]\nchannels=2\nheight=4\nwidth=4\n{text}")
    (folder / f"{name}.weights").write_bytes(header + np.arange(count, dtype="<f4").tobytes())
    return folder / f"{name}.weights"


def test_layers_of_forks_are_read_in_their_order(tmp_path: Path) -> None:
    text = (
        "[convolutional]\nfilters=4\nsize=1\n[route]\nlayers=-1\ngroups=2\ngroup_id=1\n"
        "[convolutional]\nfilters=2\nshare_index=0\n[shortcut]\nfrom=-2\nweights_type=per_channel\n"
        "[batchnorm]\n[conv]\nfilters=1\ndontload=1\n[implicit]\nfilters=3\n[lstm]\noutput=1\n"
    )
    header = pack("<3iQ", 0, 2, 5, 0)
    with ckptconv.open(network(tmp_path, text, 12 + 4 + 8 + 3 + 24, header)) as checkpoint:
        assert checkpoint["0.conv.bias"].numpy().tolist() == [0, 1, 2, 3]
        assert checkpoint["3.weight"].numpy().tolist() == [[12, 13], [14, 15]]
        assert checkpoint["4.bn.bias"].numpy().tolist() == [16, 17]
        assert checkpoint["6.weight"].numpy().tolist() == [[24, 25, 26]]
        assert [name for name in checkpoint if name.startswith("7.") and name.endswith("bias")] == [
            f"7.{part}.fc.bias" for part in (
                "state_f", "state_i", "state_g", "state_o", "input_f", "input_i", "input_g", "input_o"
            )
        ]  # fmt: skip


@pytest.mark.parametrize("name", ["x_final", "x_best", "x_20000", "x", "other"])
def test_the_config_is_found_by_the_names_that_training_gives(name: str, tmp_path: Path) -> None:
    with ckptconv.open(network(tmp_path, "[conv]\nfilters=1\n", 3, name=name)) as checkpoint:
        assert checkpoint["0.conv.weight"].numpy().tolist() == [[[[1]], [[2]]]]


def test_without_its_config_a_file_is_not_read(tmp_path: Path) -> None:
    shutil.copy(YOLO, tmp_path)
    with pytest.raises(UnknownFormatError) as refused:
        ckptconv.open(tmp_path / YOLO.name)
    assert refused.value.hint == f"put its network's .cfg beside it: {tmp_path / 'darknet-yolo.cfg'}"
    (tmp_path / "x.cfg").write_text("[metadata]\nname = x\n")  # setuptools'
    with pytest.raises(UnknownFormatError):
        ckptconv.open(tmp_path / YOLO.name)


def test_in_an_archive_the_config_is_the_one_beside_it_there(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for suffix in (".cfg", ".weights"):
            archive.write(YOLO.with_suffix(suffix), f"yolo{suffix}")
    assert ckptconv.diff(YOLO, tmp_path / "a.zip", bare=True).equal


def test_a_backbone_ends_before_the_network(tmp_path: Path) -> None:
    path = network(tmp_path, "[conv]\nfilters=1\n[conv]\nfilters=1\n[conv]\nfilters=1\n", 3 + 2)
    with ckptconv.open(path) as checkpoint:
        assert len(checkpoint) == 4
        assert "before layer 2 [conv]" in checkpoint.findings[-1].message


CONV = "[conv]\nfilters=2\n"
BAD: dict[str, tuple[str, int, type[CkptconvError]]] = {
    "within a layer": (CONV, 5, CorruptFileError),
    "more": (CONV, 7, CorruptFileError),
    "no layer": ("[maxpool]\n", 1, CorruptFileError),
    "unknown layer": (CONV + "[vit]\n", 6, UnsupportedError),
    "no image": ("[connected]\noutput=1\n[route]\nlayers=0,0\n[reorg]\nextra=1\n[conv]\n", 33, CorruptFileError),
    "ahead": ("[route]\nlayers=1\n" + CONV, 6, CorruptFileError),
    "before the first": ("[shortcut]\nfrom=-1\n" + CONV, 6, CorruptFileError),
    "no filters": ("[conv]\nfilters=0\n", 6, CorruptFileError),
    "no stride": ("[conv]\nfilters=2\nstride=0\n", 6, CorruptFileError),
    "groups": ("[conv]\nfilters=2\ngroups=3\n", 6, CorruptFileError),
    "huge": ("[conv]\nfilters=2147483648\n" * 2, 6, CkptconvError),
    "large number": ("[conv]\nfilters=99999999999\n", 6, CorruptFileError),
    "narrow": ("[conv]\nfilters=2\nsize=9\n" + CONV, 6, CorruptFileError),
}


@pytest.mark.parametrize(("text", "count", "error"), BAD.values(), ids=BAD)
def test_what_contradicts_itself_is_refused(text: str, count: int, error: type[CkptconvError], tmp_path: Path) -> None:
    with pytest.raises(error) as refused:
        ckptconv.open(network(tmp_path, text, count))
    assert refused.value.hint


def test_opening_reads_no_weight(tmp_path: Path) -> None:
    path = network(tmp_path, "[conv]\nfilters=100000\n", 300_000)
    with ckptconv.open(path) as checkpoint:
        assert bytes_read(checkpoint) < 64 << 10


def test_a_detector_of_yolov3_takes_as_many_numbers_as_its_file_has() -> None:
    """The layers of yolov3.cfg, whose weights, as they were released, are a file of 248,007,048 bytes."""
    layers = plan(yolov3(), 0, transposed=False)
    assert len(layers) == 107
    assert 20 + 4 * sum(prod(slot.shape) for layer in layers for slot in layer.slots) == 248_007_048


def yolov3() -> list[Section]:
    def conv(filters: int, size: int, stride: int = 1, *, norm: int = 1) -> Section:
        options = {"filters": filters, "size": size, "stride": stride, "pad": 1, "batch_normalize": norm}
        return Section("convolutional", {key: str(value) for key, value in options.items()}, "")

    def other(kind: str, **options: str) -> Section:
        return Section(kind, options, "")

    sections = [other("net", channels="3", height="416", width="416"), conv(32, 3)]
    for filters, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        sections.append(conv(filters, 3, 2))
        for _ in range(blocks):
            sections += [conv(filters // 2, 1), conv(filters, 3), other("shortcut", **{"from": "-3"})]
    for filters, route in ((512, 61), (256, 36), (128, 0)):
        sections += [conv(filters, 1), conv(2 * filters, 3)] * 3
        sections += [conv(255, 1, norm=0), other("yolo")]
        if route:
            sections += [other("route", layers="-4"), conv(filters // 2, 1), other("upsample", stride="2")]
            sections.append(other("route", layers=f"-1,{route}"))
    return sections
