"""Megatron's folders: the whole model, as Megatron-Core itself puts it together from what its ranks saved."""

from __future__ import annotations

import json
import shutil
from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import ckptconv
from ckptconv.core.dtypes import DType
from ckptconv.errors import CkptconvError, CorruptFileError, FileAccessError, UnsupportedError
from ckptconv.formats.torch.dcp.listing import Chunk, Entry
from ckptconv.formats.torch.megatron.dist import _unstacked
from ckptconv.formats.torch.megatron.slices import cut_of
from tests.cli.conftest import run as run  # the fixture

if TYPE_CHECKING:
    from collections.abc import Callable

    from ckptconv.core.checkpoint import Checkpoint
    from tests.cli.conftest import Run

MEGATRON = Path(__file__).parents[4] / "fixtures" / "others" / "megatron"
KINDS = ("plain-2x1", "gated-1x1", "gated-2x1", "gated-2x2")
RANK = "iter_0000007/mp_rank_01/model_optim_rng.pt"
NORMS = {
    "self_attention.linear_qkv.layer_norm_": "input_layernorm.",
    "mlp.linear_fc1.layer_norm_": "pre_mlp_layernorm.",
}
"""What the distributed checkpoint calls the norms, so that TransformerEngine's fused layers read them too."""


def whole(kind: str) -> dict[str, np.ndarray]:
    with np.load(MEGATRON / "read.npz") as read:
        return {name.partition("|")[2]: read[name] for name in read if name.startswith(f"{kind}|")}


def assert_whole(checkpoint: Checkpoint, kind: str) -> None:
    names = {}
    for name in checkpoint:
        names[name] = name
        for stored, own in NORMS.items():
            names[name] = names[name].replace(stored, own)
    expected = whole(kind)
    assert sorted(names.values()) == sorted(expected)
    for name, tensor in checkpoint.items():
        found, array = tensor.numpy(), expected[names[name]]
        assert (found.dtype, found.shape) == (array.dtype, array.shape), name
        assert found.tobytes() == array.tobytes(), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_distributed_checkpoint_is_the_whole_model(kind: str) -> None:
    with ckptconv.open(MEGATRON / kind / "dist") as checkpoint:
        assert checkpoint.format == "megatron"
        assert_whole(checkpoint, kind)
        assert checkpoint.metadata["iteration"] == 7
        assert checkpoint.metadata["checkpoint_version"] == 3.0
        args: Any = checkpoint.metadata["args"]
        assert args.state["num_layers"] == 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("folder", ["ranks", "ranks/iter_0000007"])
def test_the_ranks_files_are_the_whole_model(kind: str, folder: str) -> None:
    with ckptconv.open(MEGATRON / kind / folder) as checkpoint:
        assert checkpoint.format == "megatron"
        assert_whole(checkpoint, kind)
        assert checkpoint.metadata["iteration"] == 7


@pytest.mark.parametrize("kind", KINDS)
def test_all_kinds_convert_to_what_torch_loads(kind: str, tmp_path: Path) -> None:
    for number, folder in enumerate(("dist", "ranks")):
        target = tmp_path / f"{number}.pth"
        ckptconv.convert(MEGATRON / kind / folder, target, bare=True)
        loaded = torch.load(target)
        with ckptconv.open(MEGATRON / kind / folder) as checkpoint:
            tensors = {name: value for name, value in loaded.items() if value is not None}
            assert list(tensors) == list(checkpoint)
            assert all(tensors[name].numpy().tobytes() == checkpoint[name].numpy().tobytes() for name in tensors)


def test_an_ordinary_checkpoint_runs_nothing() -> None:
    for folder in ("dist", "ranks"):
        found = ckptconv.inspect(MEGATRON / "gated-2x1" / folder)
        assert found.verdict == "opaque"
        assert not [use for use in found.opaque if use.node.how == "called"]


def test_the_optimizers_tensors_are_extras_of_each_rank() -> None:
    with ckptconv.open(MEGATRON / "gated-2x2" / "ranks") as checkpoint:
        extras = {name: tensor.numpy().tolist() for name, tensor in checkpoint.extras.items()}
        others = ("mp_rank_00_001", "mp_rank_01_000", "mp_rank_01_001")
        assert sorted(extras) == ["mp_rank_00_001.optimizer.exp_avg", "mp_rank_01_000.optimizer.exp_avg",
                                  "mp_rank_01_001.optimizer.exp_avg", "optimizer.exp_avg"]  # fmt: skip
        assert extras["optimizer.exp_avg"] == [0, 0, 0]
        assert {tuple(extras[f"{name}.optimizer.exp_avg"]) for name in others} == {(1,) * 3, (2,) * 3, (3,) * 3}
        assert checkpoint.metadata["mp_rank_01_000"]["rng_state"] == [1]  # type: ignore[index]
        assert "iteration" not in checkpoint.metadata["mp_rank_01_000"]  # type: ignore[operator]


def test_a_single_ranks_file_is_read_by_itself() -> None:
    with ckptconv.open(MEGATRON / "gated-1x1" / "ranks" / "iter_0000007" / "mp_rank_00" / "model_optim_rng.pt") as one:
        assert_whole(one, "gated-1x1")


def changed(
    folder: Path, change: Callable[[dict[str, Any]], object], file: str = RANK, kind: str = "gated-2x1"
) -> Path:
    """The ranks of a fixture with one file changed."""
    shutil.copytree(MEGATRON / kind / "ranks", folder, dirs_exist_ok=True)
    state = torch.load(folder / file, weights_only=False, pickle_module=_Pickles)
    change(state)
    torch.save(state, folder / file)
    return folder


class _Pickles:
    """Megatron's enums are not installed here."""

    import pickle as _pickle

    load, loads, dump, dumps, Pickler = _pickle.load, _pickle.loads, _pickle.dump, _pickle.dumps, _pickle.Pickler

    class Unpickler(_pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return (lambda value: value) if module.startswith("megatron.") else super().find_class(module, name)


def set_args(**values: object) -> Callable[[dict[str, Any]], object]:
    return lambda state: state["args"].__dict__.update(values)


QKV, NORM = "decoder.layers.0.self_attention.linear_qkv.weight", "decoder.final_layernorm.weight"

REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], type[CkptconvError], str]] = {
    "experts": (set_args(num_experts=8), UnsupportedError, "experts are not joined"),
    "a virtual pipeline": (lambda s: s.update(model0=s.pop("model")), UnsupportedError, "virtual pipelines"),
    "a tensor more": (lambda s: s["model"].update({"x.weight": torch.ones(2)}), CorruptFileError, "tensors are not"),
    "a slice of another size": (lambda s: s["model"].update({QKV: torch.ones(3, 8)}), CorruptFileError, "of one size"),
    "a slice of another type": (
        lambda s: s["model"].update({QKV: s["model"][QKV].half()}), CorruptFileError, "of one size",
    ),
    "a tensor that is missing": (lambda s: s["model"].pop(QKV), CorruptFileError, "tensors are not those"),
    "no model": (lambda s: s.pop("model"), CorruptFileError, "no dict 'model'"),
    "a model that is a list": (lambda s: s.update(model=[]), CorruptFileError, "no dict 'model'"),
    "layers from 1 on": (
        lambda s: s.update(model={k.replace("layers.0", "layers.5"): v for k, v in s["model"].items()}),
        CorruptFileError, "tensors",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_joined_is_refused(
    change: Callable[[dict[str, Any]], object], error: type[CkptconvError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message) as found:
        ckptconv.open(changed(tmp_path / "m", change))
    assert found.value.hint


def test_a_rank_that_is_missing_is_reported(tmp_path: Path) -> None:
    shutil.copytree(MEGATRON / "gated-2x2" / "ranks", tmp_path / "m")
    shutil.rmtree(tmp_path / "m" / "iter_0000007" / "mp_rank_01_000")
    with pytest.raises(CorruptFileError, match="there are 3 ranks, of 2 for each of 2 pipeline stages"):
        ckptconv.open(tmp_path / "m")


def test_one_rank_of_several_is_said_to_be_a_slice(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(MEGATRON / "gated-2x1" / "ranks" / "iter_0000007", folder)
    with ckptconv.open(folder / "mp_rank_01" / "model_optim_rng.pt") as checkpoint:
        assert [finding.code for finding in checkpoint.findings] == ["slice"]
        assert "mp_rank_00 lies beside mp_rank_01" in checkpoint.findings[0].message
    shutil.rmtree(folder / "mp_rank_01")
    with ckptconv.open(folder / "mp_rank_00" / "model_optim_rng.pt") as checkpoint:
        assert not checkpoint.findings
    with pytest.raises(CorruptFileError, match="there is 1 rank, of 2 for each of 1 pipeline stage"):
        ckptconv.open(folder)


@pytest.mark.parametrize(
    ("values", "version", "message"),
    [
        ({"num_query_groups": 1}, 3.0, "1 groups of queries on 2 ranks"),
        ({}, 1.0, "version 1.0"),
        ({}, None, "version 0"),
    ],
)
def test_heads_in_another_order_are_refused(
    values: dict[str, int], version: float | None, message: str, tmp_path: Path
) -> None:
    def change(state: dict[str, Any]) -> None:
        set_args(**values)(state)
        state["checkpoint_version"] = version
        if version is None:
            del state["checkpoint_version"]

    with pytest.raises(UnsupportedError, match=message):
        ckptconv.open(changed(tmp_path / "m", change, RANK.replace("01", "00")))


def test_values_that_ranks_differ_in_are_found_as_they_are_read(tmp_path: Path) -> None:
    folder = changed(tmp_path / "m", lambda state: state["model"][NORM].add_(1))
    with pytest.raises(CorruptFileError, match=f"'{NORM}' has other values in mp_rank_01 than in mp_rank_00"):
        ckptconv.convert(folder, tmp_path / "x.safetensors", bare=True)


def test_names_of_megatron_before_its_core_are_joined(tmp_path: Path) -> None:
    """Dicts in dicts, as ``megatron.legacy.model.TransformerLanguageModel`` has them."""
    torch.manual_seed(0)
    full = {
        "embedding.word_embeddings.weight": torch.randn(16, 8),
        "embedding.position_embeddings.weight": torch.randn(4, 8),
        **{f"encoder.layers.{i}.{name}": torch.randn(shape) for i in range(2) for name, shape in {
            "input_layernorm.weight": (8,), "self_attention.query_key_value.weight": (24, 8),
            "self_attention.query_key_value.bias": (24,), "self_attention.dense.weight": (8, 8),
            "self_attention.dense.bias": (8,), "mlp.dense_h_to_4h.weight": (32, 8), "mlp.dense_h_to_4h.bias": (32,),
            "mlp.dense_4h_to_h.weight": (8, 32), "mlp.dense_4h_to_h.bias": (8,),
        }.items()},
        "encoder.final_layernorm.weight": torch.randn(8),
    }  # fmt: skip
    for rank in range(2):
        model: dict[str, dict[str, torch.Tensor]] = {"embedding": {}, "encoder": {}}
        for name, tensor in full.items():
            columns = name.endswith(("dense.weight", "dense_4h_to_h.weight"))
            rows = any(part in name for part in ("word_embeddings", "query_key_value", "dense_h_to_4h"))
            own = tensor.chunk(2, int(columns))[rank] if rows or columns else tensor
            holder, _, inner = name.partition(".")
            if holder == "embedding":
                model[holder].setdefault(inner.partition(".")[0], {})["weight"] = own.clone()  # type: ignore[arg-type,index]
            else:
                model[holder][inner] = own.clone()
        folder = tmp_path / "release" / f"mp_rank_{rank:02}"
        folder.mkdir(parents=True)
        args = Namespace(tensor_model_parallel_size=2)
        torch.save(
            {"args": args, "checkpoint_version": 3.0, "model": {"language_model": model}}, folder / "model_optim_rng.pt"
        )
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("release\n")
    with ckptconv.open(tmp_path) as checkpoint:
        assert {
            name.removeprefix("language_model."): tensor.numpy().tobytes() for name, tensor in checkpoint.items()
        } == {name: tensor.numpy().tobytes() for name, tensor in full.items()}


@pytest.mark.parametrize(
    "name", ["a.weight", "decoder.layers.0.mlp.router.weight", "x", "decoder.layers.0.mlp.linear_fc1.weight"]
)
def test_a_tensor_of_an_unknown_module_is_not_guessed(name: str) -> None:
    assert cut_of(name, {name: (4, 4)}) is None


@pytest.mark.parametrize("text", ["", "x", "../7", "-1", "8", "99999999999999999999"])
def test_a_tracker_that_names_no_folder_is_refused(text: str, tmp_path: Path) -> None:
    shutil.copytree(MEGATRON / "gated-1x1" / "ranks", tmp_path / "m")
    (tmp_path / "m" / "latest_checkpointed_iteration.txt").write_text(text)
    with pytest.raises(CorruptFileError, match="latest_checkpointed_iteration"):
        ckptconv.open(tmp_path / "m")


def test_a_distributed_optimizer_beside_is_reported(tmp_path: Path) -> None:
    shutil.copytree(MEGATRON / "gated-2x1" / "ranks", tmp_path / "m")
    (tmp_path / "m" / "iter_0000007" / "mp_rank_00" / "distrib_optim.pt").write_bytes(b"x")
    with ckptconv.open(tmp_path / "m") as checkpoint:
        assert "distrib_optim.pt" in checkpoint.findings[0].message


def test_a_distributed_checkpoint_in_a_folder_above_is_found(tmp_path: Path, run: Run) -> None:
    shutil.copytree(MEGATRON / "gated-2x2" / "dist", tmp_path / "m" / "iter_0000012")
    (tmp_path / "m" / "latest_checkpointed_iteration.txt").write_text("12")
    with ckptconv.open(tmp_path / "m") as checkpoint:
        assert_whole(checkpoint, "gated-2x2")
    assert run("diff", str(tmp_path / "m"), str(MEGATRON / "gated-2x2" / "dist")).exit_code == 0


def test_parts_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(MEGATRON / "gated-2x1" / "dist", folder)
    (folder / "common.pt").write_bytes((folder / "common.pt").read_bytes()[:-30])
    with pytest.raises(CorruptFileError) as error:
        ckptconv.open(folder)
    assert error.value.path == folder / "common.pt"
    (folder / "common.pt").unlink()
    with ckptconv.open(folder) as checkpoint:
        assert "iteration" not in checkpoint.metadata
    (folder / "__0_0.distcp").unlink()
    with pytest.raises(FileAccessError, match="__0_0"):
        ckptconv.open(folder)


def test_every_ranks_file_that_is_cut_is_refused(tmp_path: Path) -> None:
    shutil.copytree(MEGATRON / "gated-2x1" / "ranks", tmp_path / "m")
    path = tmp_path / "m" / RANK
    data = path.read_bytes()
    for size in range(0, len(data), 409):
        path.write_bytes(data[:size])
        with pytest.raises(CkptconvError):
            ckptconv.open(tmp_path / "m")


def test_another_backend_is_torchs_own(tmp_path: Path) -> None:
    shutil.copytree(MEGATRON / "gated-1x1" / "dist", tmp_path / "m")
    (tmp_path / "m" / "metadata.json").write_text(json.dumps({"sharded_backend": "zarr"}))
    with ckptconv.open(tmp_path / "m") as checkpoint:
        assert checkpoint.format == "torch-dcp"
        assert checkpoint["decoder.layers.mlp.linear_fc1.weight"].info.shape == (2, 12, 8)


def test_zarrs_folders_are_refused_by_name(tmp_path: Path) -> None:
    shutil.copytree(MEGATRON / "gated-1x1" / "dist", tmp_path / "m")
    (tmp_path / "m" / "metadata.json").write_text(json.dumps({"sharded_backend": "zarr"}))
    (tmp_path / "m" / ".metadata").unlink()
    with pytest.raises(UnsupportedError, match="stored by zarr"):
        ckptconv.open(tmp_path / "m")


def test_a_stacked_tensor_of_very_many_layers_takes_no_memory() -> None:
    chunk = Chunk((0, 0), (1, 0), None)
    entry = Entry("decoder.layers.mlp.weight", ("decoder.layers.mlp.weight",), (chunk,), DType.F32, (1 << 60, 0))
    assert list(_unstacked(entry)) == [entry]
