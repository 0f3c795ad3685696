"""Quantizing to ggml's blocks: the gguf package's bits, what stays as it is, and what was lost."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, LlamaFileType
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file

import ckptconv
from ckptconv.api.editing.apply import apply_edits
from ckptconv.api.editing.edits import Edits
from ckptconv.core.dtypes import BLOCKS
from ckptconv.edits.ggml.kquants import KQUANTS
from ckptconv.edits.ggml.quantize import QUANTIZED
from ckptconv.errors import EditError, LossError, MissingExtraError, UnsupportedError, UsageError
from ckptconv.formats.gguf.filetype import FILE_TYPES

FIXTURES = Path(__file__).parents[3] / "fixtures"
PACKAGE = [name for name in QUANTIZED if name not in KQUANTS]
"""The types that the package quantizes to."""

SHAPE = (520, 512)
"""More elements than two pieces have, and a piece that is not full."""


def values(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    made = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    made[7] = 0
    made[8] *= 1e-30
    return made.to(dtype)


def blocks_of(tensor: torch.Tensor, name: str) -> np.ndarray[Any, Any]:
    with np.errstate(all="ignore"):
        return quantize(tensor.float().numpy(), GGMLQuantizationType[name])


def model(path: Path, **tensors: torch.Tensor) -> Path:
    save_file({name.replace("__", "."): tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def dtypes(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}


def test_these_are_all_types_that_the_package_quantizes_to() -> None:
    known = []
    for kind in GGMLQuantizationType:
        block, _ = GGML_QUANT_SIZES[kind]
        try:
            quantize(np.zeros((1, block), np.float32), kind)
        except NotImplementedError:
            continue
        known += [kind.name] * (kind.name in BLOCKS)
    assert sorted(PACKAGE) == sorted(known)


@pytest.mark.parametrize("name", PACKAGE)
def test_blocks_are_those_of_the_whole_tensor_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole = values()
    source = model(tmp_path / "in.safetensors", w=whole, cube=whole.clone().reshape(2, SHAPE[0] // 2, 512))
    ckptconv.convert(source, tmp_path / "out.gguf", edits=Edits(dtype=[name]))
    expected = blocks_of(whole, name)
    for tensor in GGUFReader(tmp_path / "out.gguf").tensors:
        assert tensor.tensor_type.name == name
        assert tensor.data.tobytes() == expected.tobytes()
    with ckptconv.open(source) as checkpoint:
        made, _ = apply_edits(checkpoint, Edits(dtype=[name]))
        image, size = expected.tobytes(), expected.nbytes
        for start, stop in ((0, 1), (size // 3, size // 3 + 100), (size - 5, size), (size // 2, size), (0, size)):
            assert bytes(made["w"].read(start, stop)) == image[start:stop]


@pytest.mark.parametrize("name", KQUANTS)
def test_k_quants_are_ggmls_own_bit_for_bit(name: str, tmp_path: Path) -> None:
    with np.load(FIXTURES / "others" / "ggml" / "kquants.npz") as known:
        given, expected = torch.from_numpy(known["values"]), known[name]
    assert len({row.tobytes() for row in expected}) > 30
    block = BLOCKS[name].block
    with np.errstate(all="ignore"):
        alone = [KQUANTS[name](row).tobytes() for row in given.numpy().reshape(-1, 1, block)]
    assert b"".join(alone) == expected.tobytes()
    source = model(tmp_path / "in.safetensors", w=given.repeat(8, 1))  # more than are quantized at a time
    ckptconv.convert(source, tmp_path / "out.gguf", edits=Edits(dtype=[name]))
    (tensor,) = GGUFReader(tmp_path / "out.gguf").tensors
    assert tensor.tensor_type.name == name
    assert tensor.data.tobytes() == np.tile(expected, (8, 1)).tobytes()


MOST = {"Q6_K": 0.02, "Q5_K": 0.04, "Q4_K": 0.08, "Q3_K": 0.2, "Q2_K": 0.4, "IQ4_XS": 0.09, "IQ4_NL": 0.09}
"""How far these are off at most, of the values' size."""


@pytest.mark.parametrize(("name", "most"), MOST.items())
def test_the_package_unpacks_k_quants_to_about_what_they_were(name: str, most: float, tmp_path: Path) -> None:
    whole = values()
    source = model(tmp_path / "in.safetensors", w=whole, cube=whole.clone().reshape(2, SHAPE[0] // 2, 512))
    ckptconv.convert(source, tmp_path / "out.gguf", edits=Edits(dtype=[name]))
    for tensor in GGUFReader(tmp_path / "out.gguf").tensors:
        back = dequantize(tensor.data, GGMLQuantizationType[name]).reshape(SHAPE)
        assert np.linalg.norm(back - whole.numpy()) < most * np.linalg.norm(whole.numpy())
    with ckptconv.open(source) as checkpoint:
        made, _ = apply_edits(checkpoint, Edits(dtype=[name]))
        image = bytes(made["w"].read())
        assert bytes(made["w"].read(4321, 44321)) == image[4321:44321]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.int8, torch.float8_e4m3fn])
def test_other_types_become_f32_first(dtype: torch.dtype, tmp_path: Path) -> None:
    given = (values() * 3).to(dtype)
    model(tmp_path / "in.safetensors", w=given)
    ckptconv.convert(tmp_path / "in.safetensors", tmp_path / "out.gguf", edits=Edits(dtype=["*=Q8_0"]))
    (tensor,) = GGUFReader(tmp_path / "out.gguf").tensors
    assert tensor.data.tobytes() == blocks_of(given, "Q8_0").tobytes()


def test_a_transposed_tensor_is_quantized_as_it_is_seen(tmp_path: Path) -> None:
    base = torch.randn(1024, 320, generator=torch.Generator().manual_seed(1))
    torch.save({"w": base.T, "half": base[:, ::2]}, tmp_path / "in.pth")
    ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.gguf", edits=Edits(dtype=["Q4_0"]))
    found = {tensor.name: tensor.data.tobytes() for tensor in GGUFReader(tmp_path / "out.gguf").tensors}
    assert found["w"] == blocks_of(base.T.contiguous(), "Q4_0").tobytes()
    assert found["half"] == blocks_of(base[:, ::2].contiguous(), "Q4_0").tobytes()


def test_ties_stay_ties_and_the_way_back_is_what_the_package_unpacks(tmp_path: Path) -> None:
    shared = values()
    torch.save({"a.weight": shared, "b.weight": shared}, tmp_path / "in.pth")
    done = ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.gguf", edits=Edits(dtype=["Q5_1"]))
    assert ckptconv.inspect(tmp_path / "out.gguf", digest=True).digest == done.digest
    ckptconv.convert(tmp_path / "out.gguf", tmp_path / "back.pth", edits=Edits(dtype=["F32"]))
    back = torch.load(tmp_path / "back.pth")
    assert back["a.weight"].data_ptr() == back["b.weight"].data_ptr()
    blocks = blocks_of(shared, "Q5_1")
    assert np.array_equal(back["a.weight"].numpy(), dequantize(blocks, GGMLQuantizationType.Q5_1))


# What stays


def small(tmp_path: Path) -> Path:
    """What llama.cpp keeps as floats: by shape, or by name."""
    kept = {"blk.0.attn_norm.weight": (64,), "blk.0.odd.weight": (4, 20), "blk.0.attn_q_norm.weight": (2, 64),
            "blk.0.ffn_gate_inp.weight": (4, 64), "blk.0.ffn_up_exps.bias": (4, 64), "scalar": ()}  # fmt: skip
    ones = {name: torch.ones(shape) for name, shape in kept.items()}
    save_file(
        {**ones, "blk.0.attn_q.weight": torch.ones(64, 64), "other": torch.ones(2, 32), "ids": torch.ones(2, 32).int()},
        tmp_path / "in.safetensors",
    )
    return tmp_path / "in.safetensors"


def test_what_cannot_be_quantized_and_what_llama_cpp_keeps_stays_and_is_reported(tmp_path: Path) -> None:
    done = ckptconv.convert(small(tmp_path), tmp_path / "out.gguf", edits=Edits(dtype=["q8_0"]))
    quantized = {name for name, dtype in dtypes(tmp_path / "out.gguf").items() if dtype == "Q8_0"}
    assert quantized == {"blk.0.attn_q.weight", "other"}
    (told,) = [finding for finding in done.findings if finding.code == "not-quantized"]
    assert "6 tensors are not quantized" in told.message
    assert "llama.cpp keeps some" in told.message
    assert told.found is not None
    assert {"scalar", "blk.0.odd.weight", "blk.0.attn_q_norm.weight"} < set(told.found.split(", "))


def test_a_glob_takes_what_it_can_and_the_last_that_matches_counts(tmp_path: Path) -> None:
    asked = ["F16", "Q8_0", "*.ffn_*=Q4_0", "blk.0.odd.*=BF16"]
    done = ckptconv.convert(small(tmp_path), tmp_path / "out.gguf", edits=Edits(dtype=asked))
    found = dtypes(tmp_path / "out.gguf")
    assert found["blk.0.ffn_gate_inp.weight"] == found["blk.0.ffn_up_exps.bias"] == "Q4_0"  # asked for
    assert (found["blk.0.attn_q.weight"], found["blk.0.odd.weight"], found["ids"]) == ("Q8_0", "BF16", "I32")
    assert found["blk.0.attn_norm.weight"] == "F16"
    (told,) = [finding for finding in done.findings if finding.code == "not-quantized"]
    assert told.found == "blk.0.attn_norm.weight, blk.0.attn_q_norm.weight, scalar"
    assert not told.hint
    edits = Edits(dtype=["blk.0.attn_*=Q8_0"])
    ckptconv.convert(small(tmp_path), tmp_path / "out.gguf", edits=edits, force=True)
    found = dtypes(tmp_path / "out.gguf")
    assert (found["blk.0.attn_q.weight"], found["blk.0.attn_norm.weight"]) == ("Q8_0", "F32")


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ("blk.0.attn_norm.weight=Q8_0", "'blk.0.attn_norm.weight' has 1 dimension, and cannot be Q8_0"),
        ("blk.0.odd.*=Q8_0", "has rows of 20, no whole number of blocks of 32"),
        ("scalar=Q4_0", "has 0 dimensions"),
        ("TQ2_0", "none of 8 tensors can be TQ2_0, which is for matrices whose rows are whole blocks of 256"),
        ("*norm*=TQ2_0", "none of 2 tensors can be TQ2_0"),
    ],
)
def test_a_name_that_cannot_be_of_the_type_is_refused(asked: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(EditError, match=what.replace("(", r"\(")) as caught:
        ckptconv.convert(small(tmp_path), tmp_path / "out.gguf", edits=Edits(dtype=[asked]))
    assert caught.value.hint


@pytest.mark.parametrize("count", [1, 2])
def test_names_that_llama_cpp_keeps_as_floats_are_said_to_be_that(count: int, tmp_path: Path) -> None:
    source = tmp_path / "a.safetensors"
    save_file({f"blk.{i}.w": torch.zeros(2, 256) for i in range(count)}, source)
    with pytest.raises(
        EditError, match=f"none of {count} tensors? becomes Q4_K: llama.cpp keeps those as floats"
    ) as caught:
        ckptconv.convert(source, tmp_path / "a.gguf", edits=Edits(dtype=["Q4_K"]))
    assert caught.value.hint
    asked = caught.value.hint.split("'")[1]
    ckptconv.convert(source, tmp_path / "a.gguf", edits=Edits(dtype=[asked]))
    with ckptconv.open(tmp_path / "a.gguf") as made:
        assert made["blk.0.w"].info.dtype.name == "Q4_K"


@pytest.mark.parametrize("name", sorted(BLOCKS.keys() - set(QUANTIZED)))
def test_other_block_types_are_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=f"quantizing to {name} is not supported") as caught:
        ckptconv.convert(small(tmp_path), tmp_path / "out.gguf", edits=Edits(dtype=[name]))
    assert "llama-quantize" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["IQ3_M", "Q2_K_S", "MOSTLY_IQ3_XXS"])
def test_a_mixture_that_is_not_made_is_told_from_a_type(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{name} is a mixture of types that is not made here") as caught:
        ckptconv.convert(small(tmp_path), tmp_path / "out.gguf", edits=Edits(dtype=[name]))
    assert "llama-quantize" in str(caught.value.hint)
    assert "Q4_K_M" in str(caught.value.hint)


def test_without_the_package_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match="gguf"):
        ckptconv.convert(small(tmp_path), tmp_path / "out.gguf", edits=Edits(dtype=["Q8_0"]))


@pytest.mark.parametrize("suffix", ["safetensors", "pth", "npz"])
def test_only_a_gguf_holds_blocks(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(LossError, match="cannot hold everything") as caught:
        ckptconv.convert(small(tmp_path), tmp_path / f"out.{suffix}", edits=Edits(dtype=["Q8_0"]))
    assert "a .gguf holds blocks" in str(caught.value.hint)
    assert [loss.code for loss in caught.value.losses] == ["dtype"]


def test_rules_quantize_too_and_nothing_undoes_that(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[edits]]\nkind = "cast"\nsources = ["blk.0.{*}.weight"]\ntargets = ["blk.0.{*}.weight"]\n'
                     'from = "F32"\ndtype = "Q8_0"\n')  # fmt: skip
    with pytest.raises(EditError, match=r"edit 1, cast .*has 1 dimension"):
        ckptconv.convert(small(tmp_path), tmp_path / "out.gguf", edits=Edits(names=[rules]))
    rules.write_text(rules.read_text().replace("{*}.weight", "attn_q.weight"))
    ckptconv.convert(small(tmp_path), tmp_path / "out.gguf", edits=Edits(names=[rules]))
    assert dtypes(tmp_path / "out.gguf")["blk.0.attn_q.weight"] == "Q8_0"
    with pytest.raises(EditError, match="Q8_0 does not hold all"):
        ckptconv.convert(tmp_path / "out.gguf", tmp_path / "back.gguf", edits=Edits(names=[rules], reverse=True))


def test_what_is_quantized_again_is_warned_of(tmp_path: Path) -> None:
    ckptconv.convert(small(tmp_path), tmp_path / "a.gguf", edits=Edits(dtype=["Q4_0"]))
    done = ckptconv.convert(tmp_path / "a.gguf", tmp_path / "b.gguf", edits=Edits(dtype=["Q8_0"]))
    assert "2 tensors that were Q4_0 are quantized again" in next(
        finding.message for finding in done.findings if finding.code == "requantized"
    )
    assert dtypes(tmp_path / "b.gguf")["other"] == "Q8_0"


# What was lost


@pytest.mark.parametrize("name", QUANTIZED)
def test_the_error_is_what_a_plain_count_says(name: str, tmp_path: Path) -> None:
    whole = values()
    source = model(tmp_path / "in.safetensors", w=whole, v=whole * 2)
    told = []
    for dry_run in (True, False):
        done = ckptconv.convert(source, tmp_path / "out.gguf", edits=Edits(dtype=[name]), dry_run=dry_run)
        told += [finding for finding in done.findings if finding.code == "quantized"]
    read = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "out.gguf").tensors}
    back = dequantize(np.concatenate([read["w"], read["v"]]), GGMLQuantizationType[name]).astype(np.float64)
    exact = torch.cat([whole, whole * 2]).double().numpy()
    assert told[0] == told[1]
    assert float(str(told[0].found)) == pytest.approx(np.linalg.norm(back - exact) / np.linalg.norm(exact), rel=1e-4)
    assert f"; {np.count_nonzero((back == 0) & (exact != 0)):,} values became 0" in told[0].message


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
@pytest.mark.parametrize("name", QUANTIZED)
def test_what_no_block_holds_needs_consent(name: str, bad: float, tmp_path: Path) -> None:
    whole = values()
    whole[3, 5] = bad
    source = model(tmp_path / "in.safetensors", w=whole)
    edits = Edits(dtype=[name])
    if name == "MXFP4" and bad == 3e38:  # its scale is a power of two of any size
        assert not ckptconv.convert(source, tmp_path / "out.gguf", edits=edits).losses
        return
    with pytest.raises(LossError, match="1 loss") as caught:
        ckptconv.convert(source, tmp_path / "out.gguf", edits=edits)
    assert [loss.code for loss in caught.value.losses] == ["overflow"]
    assert not (tmp_path / "out.gguf").exists()
    ckptconv.convert(source, tmp_path / "out.gguf", edits=edits, allow_loss="overflow")


# What the metadata says of it


def test_the_numbers_are_those_of_llama_cpp() -> None:
    mixtures = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M", "MXFP4": "MXFP4_MOE"}
    for name, number in FILE_TYPES.items():
        expected = "ALL_F32" if name == "F32" else f"MOSTLY_{mixtures.get(name, name)}"
        assert LlamaFileType(number).name == expected


def test_the_file_type_says_the_truth_afterwards(tmp_path: Path) -> None:
    first = tmp_path / "f32.gguf"
    meta: Any = {"general.architecture": "llama", "general.file_type": 0}
    ckptconv.convert(small(tmp_path), first, metadata=meta, bare=True)
    for asked, number in ((["Q8_0", "*.ffn_*=Q8_0"], 7), (["BF16"], 32), (["*.attn_q.*=Q8_0"], 0), (["F64"], None)):
        ckptconv.convert(first, tmp_path / "out.gguf", edits=Edits(dtype=asked), force=True)
        reader = GGUFReader(tmp_path / "out.gguf")
        field = reader.get_field("general.file_type")
        assert (field.contents() if field else None) == number
        version = reader.get_field("general.quantization_version")
        assert (version.contents() if version else None) == (2 if "Q8_0" in asked[0] else None)
    ckptconv.convert(first, tmp_path / "out.safetensors", edits=Edits(dtype=["F16"]))
    with ckptconv.open(tmp_path / "out.safetensors") as checkpoint:
        assert checkpoint.metadata["general.file_type"] == 1


def test_vectors_do_not_count_in_the_file_type_however_many_there_are(tmp_path: Path) -> None:
    """As llama.cpp's converters say MOSTLY_F16 of a file whose norms and biases all stay F32."""
    torch.save({"w": torch.ones(4, 32), **{f"b{i}": torch.ones(32) for i in range(5)}}, tmp_path / "in.pth")
    meta: Any = {"general.architecture": "bert", "general.file_type": 0}
    ckptconv.convert(tmp_path / "in.pth", tmp_path / "f32.gguf", metadata=meta)
    ckptconv.convert(tmp_path / "f32.gguf", tmp_path / "out.gguf", edits=Edits(dtype=["w=F16"]))
    field = GGUFReader(tmp_path / "out.gguf").get_field("general.file_type")
    assert field is not None
    assert LlamaFileType(field.contents()) == LlamaFileType.MOSTLY_F16


def test_metadata_that_says_nothing_of_it_stays_and_the_version_is_written_all_the_same(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "state_dict": {"w": values()}}, tmp_path / "in.pth")
    for bare in (True, False):
        ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.gguf", edits=Edits(dtype=["Q8_0"]), bare=bare, force=True)
        field = GGUFReader(tmp_path / "out.gguf").get_field("general.quantization_version")
        assert field is not None
        assert field.contents() == 2
        with ckptconv.open(tmp_path / "out.gguf") as checkpoint:
            assert dict(checkpoint.metadata) == ({} if bare else {"epoch": 3})
