"""Arrays behind each other, as Equinox writes them; what it reads of its own stands beside the fixtures."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.detect import detect
from ckptconv.formats.npz import equinox
from ckptconv.formats.registry import by_name
from ckptconv.io.source import Source
from tests.hostile.honest import NUMBERS, behind_each_other

FILES = Path(__file__).parents[3] / "fixtures" / "others" / "equinox"
LINE = b'{"width": 3, "rates": [0.5, null]}\n'


def file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def loaded(data: bytes) -> list[np.ndarray]:
    """What numpy reads, array by array."""
    stream, found = io.BytesIO(data), []
    while stream.tell() < len(data):
        found.append(np.load(stream))
    return found


@pytest.mark.parametrize("name", ["mlp.eqx", "state.eqx"])
def test_the_leaves_are_those_that_equinox_reads(name: str) -> None:
    with np.load(FILES / "read.npz") as read, ckptconv.open(FILES / name) as found:
        expected = [read[key] for key in read.files if key.startswith(f"{name}|")]
        assert found.format == "equinox"
        assert list(found) == [str(number) for number in range(len(expected))]
        for tensor, array in zip(found.values(), expected, strict=True):
            assert tensor.info.shape == array.shape
            assert bytes(tensor.read()) == array.astype(array.dtype.newbyteorder("<")).tobytes()


def test_the_line_before_them_is_metadata() -> None:
    with ckptconv.open(FILES / "mlp.eqx") as found:
        assert found.metadata == {"in_size": 3, "out_size": 2, "width_size": 4, "depth": 1}


def test_arrays_of_every_kind_are_read_as_numpy_reads_them_one_by_one(tmp_path: Path) -> None:
    data = behind_each_other(NUMBERS)
    with ckptconv.open(file(tmp_path / "x.eqx", data)) as found:
        assert {finding.code for finding in found.findings} == {"numbered", "read-as"}
        for tensor, array in zip(found.values(), loaded(data), strict=True):
            assert tensor.info.shape == array.shape
            assert bytes(tensor.read()) == array.astype(array.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize(
    ("before", "metadata"),
    [
        (LINE, {"width": 3, "rates": [0.5, None]}),
        (b"3\n", {"header": 3}),
        (b"a model of ours\n", {"header": "a model of ours"}),
        (b"two\nlines\n", {"header": "two\nlines"}),
        (b'{"state_dict": 1}\n', {"state_dict": 1}),
        (b'{"a": 1, "a": 2}\n', {"header": '{"a": 1, "a": 2}'}),
        (b"\n", {"header": ""}),
    ],
)
def test_a_text_before_one_array_or_more_is_metadata(before: bytes, metadata: object, tmp_path: Path) -> None:
    for count in (1, 3):
        with ckptconv.open(file(tmp_path / "x.eqx", behind_each_other(NUMBERS[:count], before))) as found:
            assert found.metadata == metadata
            assert len(found) == count


def test_a_long_line_is_read_as_far_as_it_may_be(tmp_path: Path) -> None:
    for length, is_one in ((1 << 17, True), (1 << 20, False)):
        line = json.dumps({"text": "x" * length}).encode() + b"\n"
        with Source(file(tmp_path / "x.eqx", behind_each_other(NUMBERS[:1], line))) as source:
            assert equinox.claims(source) is is_one


def test_it_becomes_a_pth(tmp_path: Path) -> None:
    data = behind_each_other([np.ones((2, 3), "f4"), np.arange(3)], LINE)
    ckptconv.convert(file(tmp_path / "x.eqx", data), tmp_path / "x.pth")
    saved = torch.load(tmp_path / "x.pth")
    assert saved["width"] == 3
    assert torch.equal(saved["state_dict"]["1"], torch.arange(3))


def test_one_array_alone_is_no_such_file(tmp_path: Path) -> None:
    with Source(file(tmp_path / "x.eqx", behind_each_other(NUMBERS[:1]))) as source:
        assert detect(source).name == "npy"


def test_every_truncation_is_refused_or_has_fewer_arrays(tmp_path: Path) -> None:
    data = behind_each_other([np.ones(2, "f4"), np.arange(3.0)], LINE)
    read = []
    for size in range(len(data)):
        path = file(tmp_path / "x.eqx", data[:size])
        try:
            with ckptconv.open(path, format="equinox") as found:
                read.append((size, len(found)))
        except CkptconvError:
            continue
    ends = [len(LINE), len(LINE) + 128 + 8]
    assert read == [(ends[1], 1)]


TWO = behind_each_other(NUMBERS[:2])
HUGE = TWO.replace(b"'shape': (3,), ", b"'shape': (9" + b"0" * 9 + b",)")
REFUSED: dict[str, tuple[bytes, type[CkptconvError], str]] = {
    "bytes between": (TWO + b"\0" + TWO, CorruptFileError, "array 2"),
    "bytes behind": (TWO + bytes(20), CorruptFileError, "array 2"),
    "a text": (behind_each_other([np.ones(2), np.array(["a"]), np.ones(2)]), UnsupportedError, "array 1"),
    "objects": (behind_each_other([np.ones(2), np.array([{}], dtype=object)]), UnsupportedError, "array 1"),
    "an array of billions": (HUGE, CorruptFileError, "array 1"),
    "JSON that is nested": (b"[" * 900 + b"]" * 900 + b"\n" + behind_each_other(NUMBERS[:1]), LimitError, "nested"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "error", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_with_an_array_is_reported_by_its_number(
    data: bytes, error: type[CkptconvError], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said) as refused:
        ckptconv.open(file(tmp_path / "x.eqx", data))
    assert refused.value.hint


def test_there_are_only_so_many_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equinox, "MAX_TENSORS", 3)
    with pytest.raises(LimitError, match="3 arrays"):
        ckptconv.open(file(tmp_path / "x.eqx", behind_each_other(NUMBERS)))


def test_opening_reads_headers_alone(tmp_path: Path) -> None:
    path = file(tmp_path / "x.eqx", behind_each_other([np.zeros(1 << 20), np.zeros(1 << 20)]))
    with Source(path) as source:
        checkpoint = by_name("equinox").read(source)
        assert source.bytes_read < 1 << 17
        assert checkpoint["1"].span is not None
