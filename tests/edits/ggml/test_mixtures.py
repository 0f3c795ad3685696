"""llama.cpp's mixtures: each tensor gets the type that llama.cpp's function gave it, and the file says which it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGUFReader, GGUFWriter, LlamaFileType

import ckptconv
from ckptconv.api.editing.edits import Edits
from ckptconv.core.dtypes import DType
from ckptconv.core.tensor import TensorInfo
from ckptconv.edits.ggml.mixtures import MIXTURES, Model, types_in
from ckptconv.edits.ggml.quantize import QUANTIZED
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import EditError, LossError, UsageError
from fixtures.others.ggml.make_mixtures import CASES, Case, write
from tests.support.hub import small_qwen2

KNOWN = json.loads((Path(__file__).parents[3] / "fixtures" / "others" / "ggml" / "mixtures.json").read_text())
TO_GGUF = NameRule("translate", "to-gguf")


def expected(case: int, mixture: str) -> dict[str, str]:
    letters = KNOWN["cases"][case][mixture]
    return dict(zip(CASES[case].tensors(), (KNOWN["letters"][letter] for letter in letters), strict=True))


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{case.arch}-{case.layers}" for case in CASES])
def test_types_are_those_of_llama_cpps_own_function(number: int, mixture: str) -> None:
    case = CASES[number]
    infos = {name: TensorInfo.of(DType.F32, shape) for name, shape in case.tensors().items()}
    shuffled = {name: infos[name] for name in sorted(infos, key=lambda name: name[::-1])}
    model = Model(case.arch, case.layers, case.experts, case.heads // case.groups)
    made = types_in(MIXTURES[mixture], model, shuffled)
    assert {name: made.get(name, "F32") for name in infos} == expected(number, mixture)


def test_all_mixtures_are_asked_of_llama_cpp() -> None:
    assert set(KNOWN["cases"][0]) == set(MIXTURES)
    assert {one.most for one in MIXTURES.values()} <= set(QUANTIZED)
    for one in MIXTURES.values():
        assert LlamaFileType(one.number).name == f"MOSTLY_{one.name.removeprefix('MOSTLY_')}"


def types(path: Path) -> dict[str, str]:
    return {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(path).tensors}


def number_of(path: Path) -> Any:
    field = GGUFReader(path).get_field("general.file_type")
    return field.contents() if field else None


@pytest.mark.parametrize("mixture", ["q4_k_m", "Q3_K_L", "MOSTLY_Q2_K", "MXFP4_MOE"])
@pytest.mark.parametrize("number", [0, 5, 6, 9, 11])
def test_a_gguf_is_quantized_by_its_own_metadata(number: int, mixture: str, tmp_path: Path) -> None:
    case = CASES[number]
    write(case, tmp_path / "in.gguf")
    done = ckptconv.convert(tmp_path / "in.gguf", tmp_path / "out.gguf", edits=Edits(dtype=[mixture]))
    assert types(tmp_path / "out.gguf") == expected(number, mixture.upper())
    assert number_of(tmp_path / "out.gguf") == MIXTURES[mixture.upper()].number
    (told,) = [finding for finding in done.findings if finding.code == "mixture"]
    assert told.message.startswith(f"{mixture.upper()}, as llama-quantize makes it without an importance matrix: ")


def test_a_later_glob_overrules_it_and_the_file_says_the_mixture(tmp_path: Path) -> None:
    write(CASES[0], tmp_path / "in.gguf")
    edits = Edits(dtype=["Q4_K_M", "output.weight=Q8_0", "*.ffn_up.*=F16"])
    ckptconv.convert(tmp_path / "in.gguf", tmp_path / "out.gguf", edits=edits)
    changed = {"output.weight": "Q8_0", **{f"blk.{i}.ffn_up.weight": "F16" for i in range(3)}}
    assert types(tmp_path / "out.gguf") == expected(0, "Q4_K_M") | changed
    assert number_of(tmp_path / "out.gguf") == 15
    edits = Edits(dtype=["Q4_K_M", "Q5_K_M"])
    ckptconv.convert(tmp_path / "in.gguf", tmp_path / "out.gguf", edits=edits, force=True)
    assert types(tmp_path / "out.gguf") == expected(0, "Q5_K_M")
    assert number_of(tmp_path / "out.gguf") == 17


def test_rows_that_are_no_blocks_get_other_types_and_are_reported(tmp_path: Path) -> None:
    write(CASES[6], tmp_path / "in.gguf")
    done = ckptconv.convert(tmp_path / "in.gguf", tmp_path / "out.gguf", edits=Edits(dtype=["Q4_K_M"]))
    (told,) = [finding for finding in done.findings if finding.code == "not-quantized"]
    assert told.message.startswith("37 tensors have rows that are no whole blocks of 256, and get other types: ")
    assert "'token_embd.weight' Q5_0" in told.message


def test_a_folder_of_transformers_becomes_a_mixture_at_once(tmp_path: Path) -> None:
    folder = small_qwen2(tmp_path / "qwen2")
    edits = Edits(names=[TO_GGUF], dtype=["Q4_K_M"])
    ckptconv.convert(folder, tmp_path / "at-once.gguf", edits=edits)
    ckptconv.convert(folder, tmp_path / "f32.gguf", edits=Edits(names=[TO_GGUF]))
    ckptconv.convert(tmp_path / "f32.gguf", tmp_path / "then.gguf", edits=Edits(dtype=["Q4_K_M"]))
    assert types(tmp_path / "at-once.gguf") == types(tmp_path / "then.gguf")
    assert number_of(tmp_path / "at-once.gguf") == number_of(tmp_path / "then.gguf") == 15
    one, other = (GGUFReader(tmp_path / name) for name in ("at-once.gguf", "then.gguf"))
    for tensor, again in zip(one.tensors, other.tensors, strict=True):
        assert tensor.name == again.name
        assert np.array_equal(tensor.data, again.data)


def test_a_type_for_all_overrules_a_mixture_before_it(tmp_path: Path) -> None:
    folder, target = small_qwen2(tmp_path / "qwen2"), tmp_path / "out.gguf"
    done = ckptconv.convert(folder, target, edits=Edits(names=[TO_GGUF], dtype=["Q4_K_M", "F16"]))
    assert set(types(target).values()) == {"F16", "F32"}
    assert number_of(target) == 1
    assert not [finding for finding in done.findings if finding.code == "mixture"]


def test_numbers_of_each_layer_count_by_the_first(tmp_path: Path) -> None:
    for name, groups in (("few", [2, 8]), ("many", [8, 2])):
        writer = GGUFWriter(tmp_path / f"{name}.gguf", "llama")
        writer.add_block_count(2)
        writer.add_head_count(8)
        writer.add_array("llama.attention.head_count_kv", groups)
        for i in range(2):
            writer.add_tensor(f"blk.{i}.attn_v.weight", np.ones((2, 256), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        source = tmp_path / f"{name}.gguf"
        ckptconv.convert(source, tmp_path / f"{name}-q.gguf", edits=Edits(dtype=["MOSTLY_Q2_K"]))
        assert set(types(tmp_path / f"{name}-q.gguf").values()) == {"Q4_K" if name == "few" else "Q3_K"}


def test_what_is_no_model_of_llama_cpps_is_refused(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.ones(2, 256)}, tmp_path / "a.pth")
    with pytest.raises(EditError, match="not its tensor names") as caught:
        ckptconv.convert(tmp_path / "a.pth", tmp_path / "a.gguf", edits=Edits(dtype=["Q4_K_M"]))
    assert "to-gguf" in str(caught.value.hint)
    write(CASES[0], tmp_path / "in.gguf")
    with pytest.raises(EditError, match="not its tensor names"):
        ckptconv.convert(
            tmp_path / "in.gguf", tmp_path / "b.gguf",
            edits=Edits(names=[NameRule("add-prefix", "model.")], dtype=["Q4_K_M"]),
        )  # fmt: skip
    with pytest.raises(UsageError, match="for a whole model") as usage:
        ckptconv.convert(tmp_path / "in.gguf", tmp_path / "b.gguf", edits=Edits(dtype=["*.ffn_*=Q4_K_M"]))
    assert "--dtype Q4_K_M by itself" in str(usage.value.hint)
    assert not [*tmp_path.glob("?.gguf")]


def test_another_target_than_a_gguf_needs_consent(tmp_path: Path) -> None:
    write(Case("llama", 1, ["ffn_up.weight"]), tmp_path / "in.gguf")
    with pytest.raises(LossError, match="cannot hold everything"):
        ckptconv.convert(tmp_path / "in.gguf", tmp_path / "out.safetensors", edits=Edits(dtype=["Q4_K_M"]))
