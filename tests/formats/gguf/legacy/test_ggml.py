"""ggml's files of before GGUF: Whisper's is one that whisper.cpp loads, others are put together by their layouts."""

from __future__ import annotations

from pathlib import Path
from struct import pack
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.errors import CkptconvError, CorruptFileError, LimitError, UnsupportedError
from ckptconv.formats.gguf.legacy import read
from tests.support.ggml_files import F16, F32, ONE_TWO, Q4_0, llama, tensor, tokens
from tests.support.reads import bytes_read

RUNTIMES = Path(__file__).parents[4] / "fixtures" / "others" / "runtimes"
WHISPER = RUNTIMES / "ggml-whisper.bin"
GGML = b"lmgg"


def written_into_it() -> dict[str, tuple[str, np.ndarray]]:
    with np.load(RUNTIMES / "ggml.npz") as arrays:
        pairs = {key: key.partition("|") for key in arrays.files if key != "mel_filters"}
        return {name: (kind, arrays[key]) for key, (name, _, kind) in pairs.items()}


def test_a_model_of_whispers_has_its_tensors() -> None:
    with ckptconv.open(WHISPER) as checkpoint:
        expected = written_into_it()
        assert checkpoint.format == "ggml"
        assert list(checkpoint) == list(expected)
        for name, (kind, value) in expected.items():
            assert checkpoint[name].info.dtype.name == kind
            assert bytes(checkpoint[name].read()) == value.tobytes()
            assert checkpoint[name].span is not None
        assert checkpoint["encoder.conv1.weight"].info.shape == (32, 8, 3)
        assert checkpoint["encoder.conv1.bias"].info.shape == (32,)
        with np.load(RUNTIMES / "ggml.npz") as arrays:
            assert np.array_equal(checkpoint.extras["mel_filters"].numpy(), arrays["mel_filters"])


def test_hyperparameters_and_tokens_are_metadata() -> None:
    with ckptconv.open(WHISPER) as checkpoint:
        said: Any = checkpoint.metadata
    assert (said["layout"], said["n_audio_state"], said["ftype"]) == ("whisper", 32, 2008)
    assert (len(said["vocabulary"]), said["vocabulary"][3], said["vocabulary"][-1]) == (40, "t3", "\udcff\udcfe")
    assert ckptconv.inspect(WHISPER).verdict == "plain"
    assert (report := ckptconv.validate(WHISPER)).valid
    assert report.arch == "whisper_openai"


def test_blocks_become_the_floats_that_the_gguf_package_makes_of_them(tmp_path: Path) -> None:
    ckptconv.convert(WHISPER, tmp_path / "x.safetensors", edits=ckptconv.Edits(dtype=["F32"]), bare=True)
    with ckptconv.open(tmp_path / "x.safetensors") as checkpoint:
        for name, (kind, value) in written_into_it().items():
            if kind == "Q5_0":
                assert np.array_equal(checkpoint[name].numpy(), dequantize(value, GGMLQuantizationType.Q5_0)), name


@pytest.mark.parametrize("target", ["x.gguf", "x.pth", "x.safetensors"])
def test_it_is_the_same_in_any_other_format(target: str, tmp_path: Path) -> None:
    edits = ckptconv.Edits() if target == "x.gguf" else ckptconv.Edits(dtype=["F32"])
    ckptconv.convert(WHISPER, tmp_path / target, edits=edits)
    assert ckptconv.diff(WHISPER, tmp_path / target).equal == (target == "x.gguf")
    with ckptconv.open(tmp_path / target) as checkpoint:
        assert checkpoint.metadata["n_audio_state"] == 32
        assert checkpoint.metadata["vocabulary"][-1] == "\udcff\udcfe"  # type: ignore[index]


W = tensor("w", [2], F32, ONE_TWO)
FILES: dict[str, tuple[bytes, str]] = {
    "llama, ggml": (llama(GGML, None), "llama"),
    "llama, ggmf": (llama(b"fmgg", 1), "llama"),
    **{f"llama, ggjt {version}": (llama(b"tjgg", version), "llama") for version in (1, 2, 3)},
    "rwkv": (b"fmgg" + pack("<5i", 101, 3, 2, 1, 0) + tensor("emb.weight", [2], F32, ONE_TWO), "rwkv"),
    "gpt-2": (GGML + pack("<6i", 2, 8, 2, 1, 1, 1) + pack("<i", 2) + tokens([b"a", b"bc"])
              + tensor("model/wte", [2], F32, ONE_TWO), "gpt-2"),
    "gpt-j": (GGML + pack("<7i", 2, 8, 2, 1, 1, 1, 1) + pack("<i", 2) + tokens([b"a", b"bc"])
              + tensor("transformer.wte.weight", [2], F32, ONE_TWO), "gpt-j"),
    "gpt-neox": (GGML + pack("<8i", 2, 8, 2, 1, 1, 1, 1, 1) + tokens([b"a", b"bc"])
                 + tensor("gpt_neox.embed_in.weight", [2], F32, ONE_TWO), "gpt-neox"),
    "mpt": (GGML + pack("<5i2fi", 2, 8, 1, 1, 2, 8.0, 0.0, 1) + tokens([b"a", b"bc"])
            + tensor("transformer.wte.weight", [2], F32, ONE_TWO), "mpt"),
    "replit": (GGML + pack("<6i", 2, 8, 1, 1, 2, 1) + tokens([b"a", b"bc"], scored=True)
               + tensor("transformer.wte.weight", [2], F32, ONE_TWO), "replit"),
    "bert": (GGML + pack("<7i", 2, 8, 2, 4, 1, 1, 1) + tokens([b"a", b"bc"])
             + tensor("embeddings.word_embeddings.weight", [2], F32, ONE_TWO), "bert"),
    "bloom": (GGML + pack("<6i", 2, 8, 2, 1, 1, 1) + tokens([b"a", b"bc"])
              + tensor("tok_embeddings.weight", [2], F32, ONE_TWO), "bloom"),
    "silero": (GGML + pack("<i", 10) + b"silero-16k" + pack("<6i", 5, 1, 2, 512, 64, 1) + pack("<3i", 1, 2, 3)
               + pack("<4i", 1, 1, 1, 1) + tensor("_model.stft", [2], F32, ONE_TWO), "silero-vad"),
    "parakeet": (GGML + pack("<14i", 2, 9, 8, 1, 1, 1, 1, 4, 8, 2, 2, 1, 1, 9) + pack("<2i", 1, 1) + ONE_TWO[:4]
                 + pack("<i", 1) + ONE_TWO[:4] + pack("<i", 4) + pack("<i", 2) + tokens([b"a", b"bc"])
                 + tensor("encoder.w", [2], F32, ONE_TWO), "parakeet"),
    "whisper without tensors": (GGML + pack("<11i", 2, 9, 8, 1, 1, 9, 8, 1, 1, 1, 1) + pack("<2i", 1, 1) + ONE_TWO[:4]
                                + pack("<i", 2) + tokens([b"a", b"bc"]), "whisper"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "layout"), FILES.values(), ids=FILES)
def test_each_layout_is_recognised_by_its_bytes(data: bytes, layout: str, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(data)
    with ckptconv.open(tmp_path / "x.bin") as checkpoint:
        assert checkpoint.metadata["layout"] == layout
        assert [bytes(one.read()) for one in checkpoint.values()] == [ONE_TWO] * len(checkpoint)
        assert len(checkpoint) == (layout != "whisper")


@pytest.mark.parametrize(
    "data", [FILES["llama, ggjt 3"][0], FILES["rwkv"][0], FILES["gpt-2"][0]], ids=["ggjt", "rwkv", "gpt-2"]
)
def test_every_cut_is_refused_or_has_fewer_tensors(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    for length in range(4, len(data)):
        path.write_bytes(data[:length])
        try:
            with ckptconv.open(path, format="ggml") as checkpoint:
                assert not len(checkpoint)  # it ends where a tensor would begin
        except CkptconvError as error:
            assert error.hint


def test_what_is_cut_within_its_tensors_is_said_to_be(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(WHISPER.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match=r"'decoder\.ln\.bias' runs 1 bytes past the end"):
        ckptconv.open(tmp_path / "x.bin")


BLOCK = bytes(18)
OLD = {
    "ggml": llama(GGML, None, ftype=2, code=Q4_0, data=bytes(20)),
    "ggmf": llama(b"fmgg", 1, ftype=2, code=Q4_0, data=bytes(20)),
    "ggjt 2": llama(b"tjgg", 2, ftype=2, code=Q4_0, data=bytes(20)),
    "gpt-2 of before": GGML + pack("<6i", 1, 8, 32, 1, 1, 1002) + pack("<i", 1) + tokens([b"a"])
    + tensor("model/wte", [32], Q4_0, BLOCK),
    "rwkv 100": b"fmgg" + pack("<5i", 100, 3, 2, 1, 2) + tensor("emb.weight", [32], Q4_0, BLOCK),
}  # fmt: skip


@pytest.mark.parametrize("data", OLD.values(), ids=OLD)
def test_blocks_of_before_are_refused_by_name(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(data)
    with pytest.raises(UnsupportedError, match="is Q4_0 of before May 2023") as refused:
        ckptconv.open(tmp_path / "x.bin")
    assert refused.value.hint


def test_blocks_of_now_are_read(tmp_path: Path) -> None:
    rwkv = b"fmgg" + pack("<5i", 101, 3, 2, 1, 9) + tensor("emb.weight", [32], 9, bytes(34))
    for data, dtype in ((llama(b"tjgg", 3, ftype=2, code=Q4_0, data=BLOCK), "Q4_0"), (rwkv, "Q8_0")):
        (tmp_path / "x.bin").write_bytes(data)
        with ckptconv.open(tmp_path / "x.bin") as checkpoint:
            assert [one.info.dtype.name for one in checkpoint.values()] == [dtype]


BAD: dict[str, tuple[bytes, type[CkptconvError]]] = {
    "unknown": (GGML + b"\1\0\0\0" * 40, UnsupportedError),
    "no tokens": (GGML + bytes(64), UnsupportedError),
    "version": (b"tjgg" + pack("<i", 4) + bytes(64), UnsupportedError),
    "twice": (FILES["gpt-2"][0] + tensor("model/wte", [2], F32, ONE_TWO), CorruptFileError),
    "rank": (FILES["gpt-2"][0] + tensor("x", [1] * 5, F32, ONE_TWO), CorruptFileError),
    "negative": (FILES["gpt-2"][0] + tensor("x", [-2], F32, ONE_TWO), CorruptFileError),
    "huge": (FILES["gpt-2"][0] + tensor("x", [2**31 - 1] * 4, F32, ONE_TWO), CorruptFileError),
    "type": (FILES["gpt-2"][0] + tensor("x", [2], 77, ONE_TWO), UnsupportedError),
    "removed": (FILES["gpt-2"][0] + tensor("x", [2], 4, ONE_TWO), UnsupportedError),
    "rows": (FILES["rwkv"][0] + tensor("x", [31], 9, bytes(34)), CorruptFileError),
    "name": (FILES["gpt-2"][0] + tensor("\x01", [2], F32, ONE_TWO), CorruptFileError),
}  # fmt: skip


@pytest.mark.parametrize(("data", "error"), BAD.values(), ids=BAD)
def test_what_contradicts_itself_is_refused(data: bytes, error: type[CkptconvError], tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(data)
    with pytest.raises(error) as refused:
        ckptconv.open(tmp_path / "x.bin")
    assert refused.value.hint


def test_a_claim_of_many_tokens_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(GGML + pack("<6i", 2**31 - 1, 8, 2, 1, 1, 1) + pack("<i", 2**31 - 1) + bytes(64))
    with pytest.raises(UnsupportedError):
        ckptconv.open(tmp_path / "x.bin")


def test_limits_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(read, "MAX_TENSORS", 3)
    with pytest.raises(LimitError):
        ckptconv.open(WHISPER)
    monkeypatch.setattr(read, "MAX_GGUF_HEADER", 100)
    with pytest.raises(CkptconvError):
        ckptconv.open(WHISPER)


def test_opening_it_reads_no_tensor(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(FILES["gpt-2"][0] + tensor("x", [1 << 18], F32, bytes(1 << 20)) + tensor("y", [3], F16, bytes(6)))
    with ckptconv.open(path) as checkpoint:
        assert bytes_read(checkpoint) < 64 << 10
        assert checkpoint["x"].info.nbytes == 1 << 20
        assert checkpoint["y"].info.dtype is DType.F16
