"""DeepSpeed's folders with missing, damaged or contradictory files: each is refused, with the file's name."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file

import ckptconv
from ckptconv.errors import (
    CkptconvError,
    CorruptFileError,
    DamagedTensorError,
    UnsafeError,
    UnsupportedError,
)
from tests.hostile.cases import SYSTEM, beside
from tests.support.craft import archive, records_of, repacked
from tests.support.deepspeed_files import TAG, model_file, optimizer_file, write

if TYPE_CHECKING:
    from collections.abc import Callable


OTHERS = Path(__file__).parents[4] / "fixtures" / "others" / "deepspeed"
STEP = "global_step3"
GROUPS = [{"a": torch.arange(15.0).reshape(3, 5), "b": torch.arange(7.0) + 100}, {"c": torch.arange(4.0) - 50}]


def swapped(folder: Path) -> None:
    tag = folder / STEP
    names = [f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt" for rank in (0, 1)]
    (tag / names[0]).rename(tag / "x")
    (tag / names[1]).rename(tag / names[0])
    (tag / "x").rename(tag / names[1])


def removed(name: str) -> Callable[[Path], None]:
    return lambda folder: next(folder.glob(f"*/{name}")).unlink()


def removed_folder(name: str) -> Callable[[Path], None]:
    return lambda folder: shutil.rmtree(folder / STEP / "zero" / name)


def added(name: str) -> Callable[[Path], None]:
    def add(folder: Path) -> None:
        shutil.copy(next(folder.glob("*/*_optim_states.pt")), next(folder.glob("global*")) / name)

    return add


def pointed(text: bytes) -> Callable[[Path], None]:
    def point(folder: Path) -> None:
        (folder / "latest").write_bytes(text)
        (folder / "zero_to_fp32.py").touch()

    return point


BROKEN: list[tuple[str, Callable[[Path], None], type[CkptconvError], str, str]] = [
    ("stage-2", removed("*rank_1_*optim_states.pt"), CorruptFileError, "no such file of rank 1", STEP),
    ("stage-2", removed("*rank_2_*optim_states.pt"), CorruptFileError, "one of 3 ranks' files", "rank_0"),
    ("stage-3", removed("*rank_2_*model_states.pt"), CorruptFileError, "3 optim_states and 2 model_states", STEP),
    ("stage-3", removed("*rank_0_*model_states.pt"), CorruptFileError, "no such file of rank 0", STEP),
    ("stage-2", removed("*model_states.pt"), CorruptFileError, "no model_states file", STEP),
    ("stage-2", swapped, CorruptFileError, r"says that elements .* are 'embed.weight'", "rank_0"),
    ("stage-2", added(optimizer_file(1)), CorruptFileError, "are of the same rank", STEP),
    ("stage-2", added("zero_pp_rank_0_mp_rank_01_optim_states.pt"), UnsupportedError, "tensor parallelism", STEP),
    ("stage-2", added("layer_00-model_states.pt"), UnsupportedError, "pipeline", STEP),
    ("stage-2", added("layer_0_expert_1_mp_rank_00_model_states.pt"), UnsupportedError, "experts", STEP),
    ("stage-2", lambda folder: (folder / STEP / "offloaded_tensors").mkdir(), UnsupportedError, "NVMe", STEP),
    ("stage-2", pointed(b"../other"), CorruptFileError, "not a name of a folder beside it", ""),
    ("stage-2", pointed(b"elsewhere"), CorruptFileError, "no such folder", ""),
    ("stage-2", pointed(b"\xff\0"), CorruptFileError, "not a name of a folder beside it", ""),
    ("stage-2-universal", removed("zero/fc.bias/fp32.pt"), CorruptFileError, "there is no fp32.pt", "fc.bias"),
    ("stage-3-universal", removed_folder("scale"), CorruptFileError, "no folder for the parameter 'scale'", "zero"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "spoil", "error", "words", "file"), BROKEN, ids=[f"{b[0]} {b[3]}" for b in BROKEN])
def test_a_folder_that_lacks_or_mixes_files_is_refused_by_name(
    source: str, spoil: Callable[[Path], None], error: type[CkptconvError], words: str, file: str, tmp_path: Path
) -> None:
    folder = tmp_path / "x"
    shutil.copytree(OTHERS / source, folder)
    spoil(folder)
    with pytest.raises(error, match=words) as caught:
        ckptconv.open(folder)
    assert file in Path(caught.value.path or "").name
    assert caught.value.hint


SIZES = torch.Size([3, 5])
PARTITIONS = "single_partition_of_fp32_groups"
LIES: list[tuple[int, str, dict[str, Any], str]] = [
    (2, "model", {"param_shapes": [{"a": SIZES}, {"c": torch.Size([4])}]}, "ask for 15 elements in group 0"),
    (2, "model", {"param_shapes": [{"a": SIZES, "b": torch.Size([70])}, {"c": torch.Size([4])}]}, "ask for 85"),
    (2, "model", {"param_shapes": [{"a": SIZES, "b": torch.Size([7])}]}, "partitions of 2 groups"),
    (2, "model", {"param_shapes": {"a": SIZES}}, "not a list of groups"),
    (2, "model", {"param_shapes": [{"a": (-1, -15), "b": (7,)}, {"c": (4,)}]}, "that no tensor has"),
    (2, "model", {"param_shapes": [{"a": (1 << 62, 1 << 62), "b": (7,)}, {"c": (4,)}]}, "that no tensor has"),
    (2, "model", {"param_shapes": [{"a": (3.0, 5), "b": (7,)}, {"c": (4,)}]}, "no shape for 'a'"),
    (2, "model", {"param_shapes": [{"a": SIZES, "b": (7,)}, {"a": (4,)}]}, "'a' in two groups"),
    (2, "model", {"param_shapes": [{"b": (7,), "a": (5, 3)}, {"c": (4,)}]}, r"\[5, 3\], and its module has \[3, 5\]"),
    (2, "model", {"param_shapes": None}, "no param_shapes"),
    (2, "model", {"module": None}, "as that of a pipeline"),
    (2, "model", {"module": [1]}, "not a state_dict"),
    (2, "model", {"module": {1: torch.ones(2)}}, "not a state_dict"),
    (2, "model", {"buffer_names": 5}, "not a list of names"),
    (2, "model", {"frozen_param_fragments": {1: torch.ones(2)}}, "not tensors by name"),
    (2, "model", {"num_experts": [4]}, "mixture of experts"),
    (2, "model", {"shared_params": {"b": "a"}}, "have other shapes"),
    (2, "model", {"shared_params": ["b"]}, "not names by name"),
    (2, "model", {"frozen_param_shapes": {"f": (2,)}}, "only one of"),
    (2, "model", {"frozen_param_shapes": {"f": (2,)}, "frozen_param_fragments": {"f": torch.ones(3)}}, "should be F32"),
    (3, "model", {"frozen_param_shapes": {"f": (3,)}}, "only one of"),
    (3, "model", {"param_shapes": [{"a": (2, 5), "b": (7,)}, {"c": (4,)}]}, "others than those"),
    (2, "optimizer", {"partition_count": 3}, "one of 3 ranks' files"),
    (2, "optimizer", {"partition_count": [2, 1]}, "different numbers of ranks"),
    (2, "optimizer", {"partition_count": True}, "not a number of ranks"),
    (2, "optimizer", {"partition_count": 10**5000}, "not a number of ranks"),
    (2, "optimizer", {"zero_stage": 2.0}, "none of 1, 2 and 3"),
    (2, "optimizer", {"zero_stage": 3}, "not a list of tensors"),
    (2, "optimizer", {"zero_stage": 1}, "of stage"),
    (2, "optimizer", {"zero_stage": "two"}, "none of 1, 2 and 3"),
    (2, "optimizer", {"group_paddings": [0, -4]}, "no 2 numbers"),
    (2, "optimizer", {"group_paddings": [8, 0]}, "elements with its padding"),
    (2, "optimizer", {"param_alignment_paddings": [[1 << 70, 0], [0]]}, "no 2 numbers"),
    (2, "optimizer", {"param_alignment_paddings": [[0, 0], [0]]}, "param_alignment_paddings are others"),
    (2, "optimizer", {PARTITIONS: [torch.zeros(4), torch.zeros(2)]}, "elements with its padding"),
    (2, "optimizer", {PARTITIONS: [torch.zeros(12).half(), torch.zeros(2)]}, "other ranks'"),
    (2, "optimizer", {PARTITIONS: [torch.zeros(6, 2), torch.zeros(2)]}, "2 dimensions"),
    (2, "optimizer", {"param_slice_mappings": [{"a": 1}, {}]}, "not addresses by name"),
    (2, "optimizer", {"ds_zero_partition_groups": []}, "experts"),
    (3, "optimizer", {"fp32_flat_groups": [torch.zeros(11), torch.zeros(2)]}, "have"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("stage", "which", "changes", "words"), LIES, ids=[f"{i} {row[3]}" for i, row in enumerate(LIES)]
)
def test_a_file_that_contradicts_the_others_is_named(
    stage: int, which: str, changes: dict[str, Any], words: str, tmp_path: Path
) -> None:
    rank = 1 if stage == 3 or which == "optimizer" else 0
    write(tmp_path / "x", GROUPS, stage=stage, ranks=2, changed=rank, **{which: changes})
    with pytest.raises(CkptconvError, match=words) as caught:
        ckptconv.open(tmp_path / "x")
    assert isinstance(caught.value, (CorruptFileError, UnsupportedError))
    assert Path(caught.value.path or "").name.endswith("_states.pt")


def test_shapes_that_ask_each_rank_for_more_than_it_has_are_refused(tmp_path: Path) -> None:
    shapes = [{"a": (3, 6), "b": (7,)}, {"c": (4,)}]
    write(tmp_path / "x", GROUPS, stage=3, ranks=1, model={"param_shapes": shapes})
    with pytest.raises(CorruptFileError, match=r"ask for 25 elements of each rank in group 0.* have 22"):
        ckptconv.open(tmp_path / "x")


@pytest.mark.parametrize("name", [model_file(1, 3), optimizer_file(1)])
def test_a_call_in_any_ranks_file_counts(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "x", GROUPS, stage=3, ranks=2) / TAG
    shutil.copy(folder / name, tmp_path / "honest")
    pickle = records_of(tmp_path / "honest")["data.pkl"]
    repacked(tmp_path / "honest", folder / name, data_pkl=pickle[:2] + SYSTEM + b"0" + pickle[2:])
    found = ckptconv.inspect(tmp_path / "x")
    assert found.verdict == "would run code"
    assert [use.node.name for use in found.opaque if use.node.how == "called"] in (["os.system"], ["posix.system"])
    with pytest.raises(UnsafeError):
        ckptconv.convert(tmp_path / "x", tmp_path / "y.safetensors")
    ckptconv.convert(tmp_path / "x", tmp_path / "y.safetensors", bare=True)
    assert torch.equal(load_file(tmp_path / "y.safetensors")["a"], GROUPS[0]["a"])


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", GROUPS, stage=2, ranks=2) / TAG
    for data in (b"", b"x", b"\x80\x02}.", b"PK\x03\x04"):
        (folder / optimizer_file(1)).write_bytes(data)
        with pytest.raises(CkptconvError) as caught:
            ckptconv.open(tmp_path / "x")
        assert Path(caught.value.path or "").name == optimizer_file(1)
    archive(folder / optimizer_file(1), beside(b"N"), {"0": bytes(16)})
    with pytest.raises(CorruptFileError, match="no 'optimizer_state_dict'"):
        ckptconv.open(tmp_path / "x")


def test_a_damaged_partition_is_named(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", GROUPS, stage=3, ranks=2) / TAG
    data = bytearray((folder / optimizer_file(1)).read_bytes())
    at = data.index(GROUPS[1]["c"][2:].numpy().tobytes())
    data[at] ^= 1
    (folder / optimizer_file(1)).write_bytes(data)
    with pytest.raises(DamagedTensorError, match="'c'") as caught:
        ckptconv.convert(tmp_path / "x", tmp_path / "y.pth", bare=True)
    assert Path(caught.value.path or "").name == optimizer_file(1)


@pytest.mark.parametrize("name", [model_file(0, 2), optimizer_file(1)])
def test_every_cut_and_any_changed_byte_is_refused_or_read(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "x", GROUPS, stage=2, ranks=2) / TAG
    whole = (folder / name).read_bytes()
    for length in range(0, len(whole), 53):
        (folder / name).write_bytes(whole[:length])
        with pytest.raises(CkptconvError):
            ckptconv.open(tmp_path / "x")
    chance = random.Random(0)
    start = whole.index(b"\x80\x02}")
    for _ in range(150):
        at = chance.randrange(start, min(start + 1500, len(whole)))
        (folder / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1 << chance.randrange(8)]) + whole[at + 1 :])
        try:
            with ckptconv.open(tmp_path / "x") as checkpoint:
                assert all(len(tensor.read()) == tensor.info.nbytes for tensor in checkpoint.all_tensors.values())
        except CkptconvError:
            pass
