"""Llama in slices, as fairscale's layers hold them, is the model that they were cut from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckptconv
from ckptconv.edits.name_rule import NameRule
from ckptconv.errors import CkptconvError, CorruptFileError, EditError, UnsupportedError
from tests.cli.conftest import run as run  # the fixture
from tests.edits.dialects.test_of_meta import SIZES, computed, transformers_model, weights_of_meta
from tests.support.stopwatch import at_most

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cli.conftest import Run

OTHERS = Path(__file__).parents[4] / "fixtures" / "others"
WQ, WO, NORM = "layers.0.attention.wq.weight", "layers.0.attention.wo.weight", "norm.weight"

State = dict[str, torch.Tensor]


def released(folder: Path, model: str = "llama-2", heads: dict[str, int] | None = None) -> Path:
    """A folder with the slices that were made of `model`, as they are called in a release."""
    folder.mkdir()
    for rank in range(2):
        shutil.copyfile(OTHERS / f"{model}-slice-{rank}.pth", folder / f"consolidated.{rank:02}.pth")
    (folder / "params.json").write_text(json.dumps({"dim": 8, "n_heads": 4, "n_kv_heads": 2, "vocab_size": -1}))
    return folder


def written(folder: Path, states: list[State], names: list[str] | None = None) -> Path:
    folder.mkdir()
    for name, state in zip(names or [f"consolidated.{i:02}.pth" for i in range(len(states))], states, strict=True):
        torch.save(state, folder / name)
    return folder


def loaded(model: str = "llama-2") -> list[State]:
    return [torch.load(OTHERS / f"{model}-slice-{rank}.pth") for rank in range(2)]


@pytest.mark.parametrize("model", ["llama-2", "llama-3"])
def test_the_slices_are_what_they_were_cut_from(model: str, tmp_path: Path) -> None:
    folder = released(tmp_path / "m", model)
    assert ckptconv.diff(folder, OTHERS / f"{model}-whole.pth").equal
    ckptconv.convert(folder, tmp_path / "a.pth")
    found, whole = torch.load(tmp_path / "a.pth"), torch.load(OTHERS / f"{model}-whole.pth")
    assert list(found) == list(whole)
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    with ckptconv.open(folder) as checkpoint:
        assert checkpoint.format == "torch-slices"
        for name, tensor in checkpoint.items():
            image = whole[name].reshape(-1).view(torch.uint8).numpy().tobytes()
            for start in range(0, len(image), 7):
                assert bytes(tensor.read(start, min(start + 13, len(image)))) == image[start : start + 13], name


def test_it_fits_its_architecture_which_a_slice_alone_does_not(tmp_path: Path) -> None:
    folder = released(tmp_path / "m")
    result = ckptconv.validate(folder)
    assert (result.valid, result.arch, result.params["dim"]) == (True, "llama_meta", 8)
    assert not ckptconv.validate(folder / "consolidated.00.pth").valid


@pytest.mark.parametrize("llama_3", [False, True], ids=["2", "3"])
@pytest.mark.parametrize("count", [2, 4])
def test_transformers_computes_what_metas_network_does(count: int, llama_3: bool, tmp_path: Path) -> None:
    network, sizes = weights_of_meta(**{**SIZES, "n_kv_heads": 4})
    embedding = 0 if llama_3 else 1
    cut = {"tok_embeddings": embedding, "output": 0, "wq": 0, "wk": 0, "wv": 0, "wo": 1, "w1": 0, "w2": 1, "w3": 0}
    parts = {
        name: value.chunk(count, cut[name.split(".")[-2]]) if name.split(".")[-2] in cut else [value] * count
        for name, value in network.state_dict().items()
    }
    states = [{name: part[rank].clone() for name, part in parts.items()} for rank in range(count)]
    folder = written(tmp_path / "m", states)
    (folder / "params.json").write_text(json.dumps({key: sizes[key] for key in ("dim", "n_heads", "n_layers")}))
    ckptconv.convert(folder, tmp_path / "a.pth", edits=ckptconv.Edits(names=[NameRule("translate", "meta")]), bare=True)
    model = transformers_model(sizes)
    model.load_state_dict(torch.load(tmp_path / "a.pth"))
    tokens = torch.arange(14).reshape(2, 7)
    with torch.no_grad():
        assert torch.allclose(model(tokens).logits, computed(network, tokens, sizes), rtol=1e-5, atol=1e-5)


def test_opening_reads_the_directories_and_the_pickles_alone(tmp_path: Path) -> None:
    state = {NORM: torch.zeros(400), WQ: torch.zeros(200, 400), WO: torch.zeros(400, 200)}
    with ckptconv.open(written(tmp_path / "m", [state, state])) as checkpoint:
        assert {name: tensor.info.shape for name, tensor in checkpoint.items()} == {
            NORM: (400,), WQ: (400, 400), WO: (400, 400)
        }  # fmt: skip
        assert checkpoint.file is not None
        assert checkpoint.file.bytes_read < checkpoint.file.size / 8  # type: ignore[attr-defined]


def test_a_folder_with_one_file_is_that_file_and_an_index_beside_slices_is_the_model(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    shutil.copyfile(OTHERS / "llama-2-whole.pth", folder / "consolidated.00.pth")
    with ckptconv.open(folder) as checkpoint:
        assert (checkpoint.format, checkpoint.findings) == ("torch", ())
    assert ckptconv.diff(folder, OTHERS / "llama-2-whole.pth").equal
    ckptconv.convert(OTHERS / "llama-2-whole.pth", folder / "model.safetensors")
    with ckptconv.open(folder) as checkpoint:
        assert checkpoint.format == "safetensors"


def test_a_folder_with_the_first_slice_alone_gets_a_hint_what_it_may_be(tmp_path: Path) -> None:
    folder = released(tmp_path / "m")
    (folder / "consolidated.01.pth").unlink()
    with ckptconv.open(folder) as checkpoint:
        (finding,) = checkpoint.findings
    assert (finding.code, finding.severity) == ("slice", "warning")
    assert "one slice of 2, of which consolidated.01.pth" in finding.message


def test_a_slice_alone_is_said_to_be_one_and_not_translated(tmp_path: Path, run: Run) -> None:
    path = released(tmp_path / "m") / "consolidated.00.pth"
    assert "consolidated.01.pth lies beside it" in run("inspect", str(path)).stdout
    translated = run("convert", str(path), str(tmp_path / "a.pth"), "--translate", "meta")
    assert translated.exit_code == 2
    assert "4 rows, and 4 heads of 2 take 8" in translated.stderr
    assert "name the folder" in translated.stderr


def test_repeated_key_heads_are_not_taken_for_others(tmp_path: Path) -> None:
    """Where there are more processes than key heads, each has a copy: more rows than params.json says."""
    folder = released(tmp_path / "m")
    (folder / "params.json").write_text(json.dumps({"n_heads": 4, "n_kv_heads": 1}))
    with pytest.raises(EditError, match=r"'layers.0.attention.wk.weight' has 4 rows, and 1 heads of 2 take 2"):
        ckptconv.convert(folder, tmp_path / "a.pth", edits=ckptconv.Edits(names=[NameRule("translate", "meta")]))


def changed(change: Callable[[State], Any]) -> list[State]:
    first, second = loaded()
    change(second)
    return [first, second]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(NORM), "it lacks 'norm.weight', which consolidated.00.pth has"),
        (lambda state: state.update(x=torch.zeros(2)), "it has 'x', which consolidated.00.pth lacks"),
        (lambda state: state.update({WQ: torch.zeros(3, 8)}), r"is F32 \[3, 8\], and in consolidated.00.pth BF16 \[4,"),
        (lambda state: state.update({WQ: torch.zeros(4, 8)}), r"is F32 \[4, 8\], and in consolidated.00.pth BF16"),
        (lambda state: state.clear(), "not a dict of tensors alone"),
        (lambda state: state.update(epoch=3), "not a dict of tensors alone"),
    ],
)  # fmt: skip
def test_slices_that_contradict_each_other_are_named(change: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(CkptconvError, match=message) as error:
        ckptconv.open(written(tmp_path / "m", changed(change)))
    assert error.value.path == tmp_path / "m" / "consolidated.01.pth"


@pytest.mark.parametrize("name", [NORM, "rope.freqs", "layers.0.ffn_norm.weight"])
def test_what_every_slice_has_whole_has_to_be_equal(name: str, tmp_path: Path) -> None:
    folder = written(tmp_path / "m", changed(lambda state: state[name].view(-1)[-1:].add_(1)))
    with ckptconv.open(folder) as checkpoint:
        assert checkpoint[name].info.shape == loaded()[0][name].shape
    with pytest.raises(CorruptFileError, match=rf"'{name}' has other values in consolidated.01.pth"):
        ckptconv.convert(folder, tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists()


def halved(state: State) -> list[State]:
    """Both halves of a slice, as four processes would have them."""
    cut = {WQ: 0, WO: 1}
    pairs = {name: value.chunk(2, cut[name]) if name in cut else (value, value) for name, value in state.items()}
    return [{name: pair[i].clone() for name, pair in pairs.items()} for i in range(2)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["consolidated.00.pth", "consolidated.02.pth"], "consolidated.01.pth is missing beside consolidated.02.pth"),
        (["consolidated.01.pth", "consolidated.02.pth"], "consolidated.00.pth is missing beside consolidated.02.pth"),
    ],
)
def test_a_slice_that_is_missing_is_named(names: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match=message):
        ckptconv.open(written(tmp_path / "m", loaded(), names))


def test_slices_that_are_missing_at_the_end_are_known_by_the_rows(tmp_path: Path) -> None:
    kept = [{name: state[name] for name in (WQ, WO, NORM)} for state in loaded()]
    quarters = [part for state in kept for part in halved(state)]
    with pytest.raises(CorruptFileError, match=r"there are 2 slices of 4: consolidated.02.pth to consolidated.03.pth"):
        ckptconv.open(written(tmp_path / "two", quarters[:2]))
    with pytest.raises(CorruptFileError, match=r"there are 3 slices of 4: consolidated.03.pth missing"):
        ckptconv.open(written(tmp_path / "three", quarters[:3]))
    with pytest.raises(CorruptFileError, match=r"there are 3 slices with 4 rows each"):
        ckptconv.open(written(tmp_path / "surplus", [*kept, kept[0]]))
    ckptconv.open(written(tmp_path / "all", quarters)).close()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"layers.0.feed_forward.experts.moe_w_in_eD_F": (16, 4)}, "nothing is known of how 'layers.0.feed_forward"),
        ({"vision_model.patch.weight": (4, 4)}, "nothing is known of how 'vision_model.patch.weight' is cut"),
        ({"layers.0.feed_forward.w1.weight": (4, 4)}, r"BF16 \[4, 4\] in each slice, which no Llama of width 8 has"),
        ({"layers.0.feed_forward.w2.weight": (4, 8)}, r"BF16 \[4, 8\] in each slice, which no Llama of width 8 has"),
        ({"tok_embeddings.weight": (12, 2)}, r"BF16 \[12, 2\] in each slice"),
        ({"tok_embeddings.weight": (8,)}, r"BF16 \[8\] in each slice"),
        ({NORM: (2, 4)}, "no norm.weight and attention.wq.weight"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(more: dict[str, tuple[int, ...]], message: str, tmp_path: Path) -> None:
    states = [state | {name: torch.zeros(shape).bfloat16() for name, shape in more.items()} for state in loaded()]
    with pytest.raises(UnsupportedError, match=message) as error:
        ckptconv.open(written(tmp_path / "m", states))
    assert "consolidated.00.pth names one slice alone" in str(error.value.hint)


def test_eight_bit_weights_with_scales_of_their_own_are_refused(tmp_path: Path) -> None:
    folder = released(tmp_path / "m")
    torch.save({}, folder / "fp8_scales_0.pt")
    with pytest.raises(UnsupportedError, match=r"scales in files of their own: fp8_scales_0\.pt"):
        ckptconv.open(folder)


@pytest.mark.parametrize("data", [b"", b"version https://git-lfs.github.com/spec/v1\n"], ids=["empty", "Git LFS"])
def test_a_slice_that_is_no_archive_is_named(data: bytes, tmp_path: Path) -> None:
    folder = released(tmp_path / "m")
    (folder / "consolidated.01.pth").write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"not a torch\.save archive") as error:
        ckptconv.open(folder)
    assert error.value.path == folder / "consolidated.01.pth"


def test_tied_slices_are_tied(tmp_path: Path) -> None:
    states = loaded("llama-3")
    for state in states:
        state["output.weight"] = state["tok_embeddings.weight"]
    with ckptconv.open(written(tmp_path / "m", states)) as checkpoint:
        assert checkpoint.ties == [["tok_embeddings.weight", "output.weight"]]


def test_a_slice_that_is_cut_short_or_damaged_is_refused_or_read_right(tmp_path: Path) -> None:
    folder = released(tmp_path / "m")
    path, expected = folder / "consolidated.01.pth", tmp_path / "a.pth"
    data = path.read_bytes()
    for length in range(0, len(data), 61):
        path.write_bytes(data[:length])
        with pytest.raises(CkptconvError):
            ckptconv.convert(folder, expected)
        assert not expected.exists()
    for at in range(0, len(data), 23):
        path.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        try:
            ckptconv.convert(folder, expected, force=True)
        except CkptconvError:
            continue
        assert ckptconv.diff(expected, OTHERS / "llama-2-whole.pth", headers=True).equal
        assert ckptconv.diff(expected, OTHERS / "llama-2-whole.pth").equal


def test_many_tensors_before_the_one_that_tells_the_width_take_time_by_their_number(tmp_path: Path) -> None:
    one = torch.ones(8)
    state = {f"layers.{i}.ffn_norm.weight": one for i in range(20_000)} | {NORM: one, WQ: torch.ones(4, 8)}
    folder = written(tmp_path / "m", [state, state])
    with at_most(8):
        ckptconv.open(folder).close()
