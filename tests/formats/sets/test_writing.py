"""Sets that are written: what is in them, what they are called, and that they appear whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

import ckptconv
from ckptconv.errors import CkptconvError, TargetExistsError, UsageError
from ckptconv.formats import registry
from ckptconv.formats.base import WriteOptions
from ckptconv.formats.sets.split import parse_size
from ckptconv.io import folder as folders
from ckptconv.io.folder import Folder
from ckptconv.io.handles import MAX_HANDLES
from ckptconv.io.target import Target
from ckptconv.testing.compare import differences
from ckptconv.testing.faults import failing, short_writes
from ckptconv.testing.samples import samples_for
from tests.support.kills import killable
from tests.support.systems import full

if TYPE_CHECKING:
    from ckptconv.testing.samples import Sample

FIXTURES = Path(__file__).parents[3] / "fixtures"
FORMATS = {one.name: one for one in registry.BUILTIN if one.layout and one.main}
INDEX = {"safetensors-sharded": "out.safetensors.index.json", "torch-sharded": "out.bin.index.json"}


def cases() -> list[Any]:
    return [
        pytest.param(name, sample, id=f"{name}-{sample.name}")
        for name, one in FORMATS.items()
        for sample in samples_for(one.holds)
    ]


def write(name: str, sample: Sample, path: Path, *, size: int = 24, replace: bool = False) -> None:
    with sample.open() as checkpoint, Target(path, replace=replace, folders=1) as target:
        FORMATS[name].write(checkpoint, target, WriteOptions(shard_size=size))
        target.commit()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint of four tensors of 16 bytes, two of them views of one storage, with metadata."""
    base = torch.arange(8.0)
    state = {"a": torch.ones(4), "b": base[:4], "c": torch.zeros(4), "d": base[4:]}
    torch.save({"epoch": 3, "sizes": (1, 2), "state_dict": state}, tmp_path / "in.pth")
    return tmp_path / "in.pth"


# What it gives back


@pytest.mark.parametrize(("name", "sample"), cases())
def test_a_round_trip_gives_back_all_that_it_holds(name: str, sample: Sample, tmp_path: Path) -> None:
    write(name, sample, tmp_path / "set" / INDEX[name])
    for path in (tmp_path / "set", tmp_path / "set" / INDEX[name]):
        with ckptconv.open(path) as found, sample.open() as expected:
            assert not (lines := differences(found, expected, FORMATS[name].holds)), "\n".join(lines)
            assert found.format == name
            assert found.findings == ()


@pytest.mark.parametrize(("name", "sample"), cases())
def test_writing_twice_gives_the_same_bytes(name: str, sample: Sample, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write(name, sample, tmp_path / folder / INDEX[name])
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize("fixture", ["digits-metadata.pth", "digits-training.pth", "tied.pth", "views.pth"])
def test_every_direction_keeps_content_and_digest(fixture: str, tmp_path: Path) -> None:
    """Single → shards → shards of another size → the other family → single, in a circle."""
    first = FIXTURES / fixture
    digest = ckptconv.inspect(first, digest=True).digest
    way = [("a/", "safetensors", "2KB"), ("b/", "torch", "3KB"), ("c/", "torch", "700"), ("d/", "safetensors", "9KB"),
           ("e.safetensors", "safetensors", None), ("f.bin", "torch", 1000), ("g.pth", "torch", None)]  # fmt: skip
    here: Path = first
    for name, format, size in way:
        there = ckptconv.convert(here, f"{tmp_path}/{name}", to_format=format, shard_size=size).target
        assert ckptconv.inspect(there, digest=True).digest == digest, name
        assert ckptconv.diff(first, there).equal
        here = there
    assert ckptconv.convert(here, tmp_path / "h.pth").losses == []


def test_an_onnx_file_is_sharded_too(tmp_path: Path) -> None:
    onnx = tmp_path / "in.onnx"
    ckptconv.convert(FIXTURES / "digits-metadata.pth", onnx, arch="mlp")
    ckptconv.convert(onnx, f"{tmp_path}/set/", shard_size="5KB")
    assert len(list((tmp_path / "set").iterdir())) > 2
    assert ckptconv.diff(onnx, tmp_path / "set").equal


def test_views_of_one_storage_stay_together_and_share_it(source: Path, tmp_path: Path) -> None:
    ckptconv.convert(source, tmp_path / "out.bin", shard_size=32)
    weight_map = json.loads((tmp_path / "out.bin.index.json").read_text())["weight_map"]
    assert list(weight_map) == ["a", "b", "c", "d"]
    assert weight_map["b"] == weight_map["d"]
    loaded = torch.load(tmp_path / weight_map["b"], weights_only=True)
    assert loaded["b"].untyped_storage().data_ptr() == loaded["d"].untyped_storage().data_ptr()
    with ckptconv.open(tmp_path / "out.bin.index.json") as checkpoint:
        assert dict(checkpoint.metadata) == {"epoch": 3, "sizes": (1, 2)}


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_bare_sets_hold_nothing_of_ours(kind: str, source: Path, tmp_path: Path) -> None:
    place = ckptconv.convert(source, f"{tmp_path}/set/", to_format=kind, shard_size=16, bare=True).target
    assert json.loads(place.read_text())["metadata"] == {"total_size": 64}
    with ckptconv.open(place) as checkpoint:
        assert (sorted(checkpoint), dict(checkpoint.metadata)) == (["a", "b", "c", "d"], {})


def test_ties_are_stored_once_and_come_back_from_a_bare_set(tmp_path: Path) -> None:
    shared = torch.ones(4)
    torch.save({"a.weight": shared, "b.weight": torch.zeros(4), "c.weight": shared}, tmp_path / "in.pth")
    ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.safetensors", shard_size=16, bare=True)
    assert len(list(tmp_path.glob("out-*"))) == 2
    with ckptconv.open(tmp_path / "out.safetensors.index.json") as checkpoint:
        assert checkpoint.ties == [["a.weight", "c.weight"]]


# What they are called


def test_what_fits_into_one_shard_is_one_plain_file(source: Path, tmp_path: Path) -> None:
    ckptconv.convert(source, tmp_path / "out.safetensors", shard_size="64")
    ckptconv.convert(source, f"{tmp_path}/set/", shard_size="1GB")
    ckptconv.convert(source, f"{tmp_path}/set/", shard_size="1GB", to_format="torch")
    assert [path.name for path in tmp_path.glob("out*")] == ["out.safetensors"]
    assert sorted(contents(tmp_path / "set")) == ["model.safetensors", "pytorch_model.bin"]


def test_a_new_name_without_suffix_is_a_folder_where_shards_are_asked_for(source: Path, tmp_path: Path) -> None:
    ckptconv.convert(source, tmp_path / "set", shard_size="16")
    assert (tmp_path / "set" / "model.safetensors.index.json").is_file()
    assert ckptconv.diff(source, tmp_path / "set").equal
    with pytest.raises(UsageError, match="no format is known"):
        ckptconv.convert(source, tmp_path / "other")
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(UsageError, match="no format is known"):
        ckptconv.convert(source, tmp_path / "file", shard_size="16", force=True)
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_an_index_that_is_asked_for_is_written_around_a_single_shard(source: Path, tmp_path: Path) -> None:
    ckptconv.convert(source, tmp_path / "x.safetensors.index.json")
    ckptconv.convert(source, tmp_path / "y.pth.index.json")
    ckptconv.convert(source, tmp_path / "z.safetensors.index.fp16.json", to_format="safetensors-sharded")
    names = {path.name for path in tmp_path.iterdir()}
    assert {"x-00001-of-00001.safetensors", "y-00001-of-00001.pth", "z.fp16-00001-of-00001.safetensors"} <= names


def test_a_tensor_larger_than_a_shard_has_one_of_its_own(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1), "big": torch.ones(100), "c": torch.ones(1)}, tmp_path / "in.pth")
    ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.safetensors", shard_size=8)
    weight_map = json.loads((tmp_path / "out.safetensors.index.json").read_text())["weight_map"]
    one, two = "out-00001-of-00002.safetensors", "out-00002-of-00002.safetensors"
    assert weight_map == {"a": two, "big": one, "c": two}


def test_a_dry_run_says_which_file_each_tensor_would_be_in(source: Path, tmp_path: Path) -> None:
    plan = ckptconv.convert(source, tmp_path / "out.safetensors", shard_size=16, dry_run=True).plan
    ckptconv.convert(source, tmp_path / "out.safetensors", shard_size=16)
    weight_map = json.loads((tmp_path / "out.safetensors.index.json").read_text())["weight_map"]
    assert {move.target: Path(str(move.file)).name for move in plan} == weight_map


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("1.5kb", 1500),
        ("2 MiB", 2 << 20),
        ("1TiB", 1 << 40),
        ("17", 17),
        (" 3B ", 3),
        ("9KiB", 9216),
    ],
)
def test_sizes_are_decimal_but_for_those_with_an_i(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "0", "0.1", "5 XB", "1e9", "5GBB", "٣GB", "1" * 30])
def test_what_is_no_size_is_refused(text: str, source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        ckptconv.convert(source, tmp_path / "out.safetensors", shard_size=text)


def test_more_shards_than_can_be_open_are_refused_with_a_size_that_would_do(tmp_path: Path) -> None:
    torch.save({str(i): torch.ones(1) for i in range(600)}, tmp_path / "in.pth")
    with pytest.raises(UsageError) as error:
        ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.safetensors", shard_size=4)
    size = str(error.value.hint).split()[1]
    ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.safetensors", shard_size=size)


def test_onnx_has_no_shards(source: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no shards"):
        ckptconv.convert(source, tmp_path / "out.onnx", shard_size="5GB")


# Whole or not at all


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "made by a test"), KeyboardInterrupt()], ids=["full", "stop"])
@pytest.mark.parametrize("old", [False, True], ids=["new", "replaced"])
def test_a_fault_at_any_call_leaves_the_old_set_or_none(
    name: str, error: BaseException, old: bool, source: Path, tmp_path: Path
) -> None:
    folder, index = tmp_path / "set", tmp_path / "set" / INDEX[name]
    other = tmp_path / "other.pth"
    torch.save({"x": torch.full((4,), 7.0), "y": torch.full((4,), 8.0), "z": torch.ones(4)}, other)
    folder.mkdir()
    calls, at = 1, 0
    while at < calls:
        at += 1
        if old:
            ckptconv.convert(other, index, shard_size=16)
        before = contents(folder)
        with failing(at, error) as counter:
            try:
                ckptconv.convert(source, index, to_format=name, shard_size=32, force=old)
                failed = False
            except (CkptconvError, KeyboardInterrupt):
                failed = True
        after = contents(folder)
        if index.name in after and after[index.name] != before.get(index.name):
            assert ckptconv.diff(source, index, headers=False).equal, f"fault at call {at}"
            named = set(json.loads(after[index.name])["weight_map"].values())
            assert named <= after.keys()
            assert failed or after.keys() == named | {index.name}
        else:
            assert failed
            assert after == before, f"fault at call {at}"
        for path in folder.iterdir():
            path.unlink()
        calls = counter.calls + 1  # the call after the last is one that never comes
    assert calls > 10


@pytest.mark.parametrize("name", FORMATS)
def test_short_writes_are_continued(name: str, source: Path, tmp_path: Path) -> None:
    for folder in ("whole", "short"):
        (tmp_path / folder).mkdir()
    ckptconv.convert(source, tmp_path / "whole" / INDEX[name], shard_size=32)
    with short_writes():
        ckptconv.convert(source, tmp_path / "short" / INDEX[name], shard_size=32)
    assert contents(tmp_path / "whole") == contents(tmp_path / "short")


def test_a_run_that_is_killed_at_any_moment_leaves_the_old_set_or_the_new(source: Path, tmp_path: Path) -> None:
    """Killed as the n-th file is placed or removed: the index is the old one, or all that it names is new."""
    other = tmp_path / "other.pth"
    torch.save({f"w{i}": torch.full((4,), float(i)) for i in range(4)}, other)
    folder = tmp_path / "set"
    folder.mkdir()
    index = folder / "out.safetensors.index.json"
    seen = set()
    with killable(source, index, shard_size=16) as is_killed:
        for moment in range(40):
            for path in folder.iterdir():
                path.unlink()
            ckptconv.convert(other, index, shard_size=16)
            killed = is_killed(moment)
            is_new, is_old = (ckptconv.diff(one, index).equal for one in (source, other))
            assert is_new or is_old
            seen.add((is_new, killed))
            if not killed:
                break
    assert seen == {(False, True), (True, True), (True, False)}
    assert len(contents(folder)) == 5


def test_a_set_is_replaced_with_force_alone_and_leaves_none_of_its_shards(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    ckptconv.convert(source, out, shard_size=16)
    keep = tmp_path / "out-00009-of-00009.safetensors"
    keep.write_bytes(b"not of this set")
    with pytest.raises(TargetExistsError):
        ckptconv.convert(source, out, shard_size=16)
    for size, count, stem in ((16, 4, "out.1"), (16, 4, "out"), (32, 2, "out"), (1000, 0, "out")):
        ckptconv.convert(source, out, shard_size=size, force=True)
        shards = sorted(path.name for path in tmp_path.glob("out*-of-*") if path != keep)
        assert shards == [f"{stem}-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
        assert out.exists() is (count == 0)
        assert (tmp_path / "out.safetensors.index.json").exists() is (count > 0)
    ckptconv.convert(source, out, shard_size=16, force=True)
    assert not out.exists()
    assert keep.read_bytes() == b"not of this set"


@pytest.mark.parametrize("name", ["set/", "set/model.safetensors"])
def test_a_single_file_takes_the_place_of_its_shards_with_force_alone(name: str, source: Path, tmp_path: Path) -> None:
    ckptconv.convert(source, f"{tmp_path}/set/", shard_size=16)
    with pytest.raises(TargetExistsError, match="as a set of files"):
        ckptconv.convert(tmp_path / "set", f"{tmp_path}/{name}")
    ckptconv.convert(tmp_path / "set", f"{tmp_path}/{name}", force=True)
    assert os.listdir(tmp_path / "set") == ["model.safetensors"]
    assert ckptconv.diff(source, tmp_path / "set").equal


def test_an_index_of_strangers_that_is_replaced_takes_no_other_file_with_it(source: Path, tmp_path: Path) -> None:
    index, letter = tmp_path / "out.safetensors.index.json", tmp_path / "letter.txt"
    letter.write_text("dear")
    index.write_text(json.dumps({"weight_map": {"a": "letter.txt", "b": "gone-00001-of-00001.safetensors"}}))
    ckptconv.convert(source, index, shard_size=16, force=True)
    assert letter.read_text() == "dear"


def test_a_set_is_resharded_where_it_stands(source: Path, tmp_path: Path) -> None:
    ckptconv.convert(source, f"{tmp_path}/set/", shard_size=16)
    for size in (16, 32, 16, 64, 16):
        ckptconv.convert(tmp_path / "set", f"{tmp_path}/set/", shard_size=size, force=True)
        assert ckptconv.diff(source, tmp_path / "set").equal


def test_a_new_folder_is_made_and_goes_again_when_nothing_comes_of_it(source: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pth"
    data = bytearray(source.read_bytes())
    position = data.index(torch.ones(4).numpy().tobytes())
    data[position] ^= 1
    damaged.write_bytes(data)
    with pytest.raises(CkptconvError):
        ckptconv.convert(damaged, f"{tmp_path}/set/", shard_size=16)
    assert not (tmp_path / "set").exists()


def test_a_full_disk_is_reported_before_a_byte_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch)
    with pytest.raises(CkptconvError, match="no space left"):
        ckptconv.convert(source, f"{tmp_path}/set/", shard_size=16)
    assert not (tmp_path / "set").exists()


def test_progress_is_that_of_the_whole(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    ckptconv.convert(source, f"{tmp_path}/set/", shard_size=16, progress=lambda *told: seen.append(told))
    assert seen == sorted(seen)
    assert seen[-1] == (64, 64)


# Handles


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="lists the handles of a process, as Linux does")
def test_a_thousand_shards_are_read_with_few_open_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    names = [f"model-{i:05d}-of-01000.safetensors" for i in range(1, 1001)]
    for i, name in enumerate(names):
        save_file({f"w{i}": torch.full((3,), float(i))}, tmp_path / name)
    weight_map = {f"w{i}": name for i, name in enumerate(names)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (held + MAX_HANDLES + 20, hard))
    try:
        ckptconv.convert(tmp_path, tmp_path / "whole.pth")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    loaded = torch.load(tmp_path / "whole.pth", weights_only=True)
    assert all(torch.equal(loaded[f"w{i}"], torch.full((3,), float(i))) for i in range(1000))


def test_a_file_that_changed_while_its_handle_was_given_back_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MAX_HANDLES", 1)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * 9000)
    with Folder(tmp_path) as folder:
        first = folder.open("a")
        folder.open("b").read_at(0, 10)
        assert bytes(first.read_at(0, 9000)) == b"x" * 9000
        folder.open("b").read_at(0, 10)
        (tmp_path / "c").write_bytes(b"y" * 9000)
        os.replace(tmp_path / "c", tmp_path / "a")
        with pytest.raises(CkptconvError, match="replaced"):
            first.read_at(0, 10)
    with pytest.raises(CkptconvError):
        folder.open("b").read_at(0, 10)


def test_a_config_that_stays_behind_is_reported_if_a_folder_becomes_another(source: Path, tmp_path: Path) -> None:
    def is_reported(target: str) -> bool:
        done = ckptconv.convert(tmp_path / "hub", target, shard_size=16, force=True)
        return any(finding.code == "left-behind" for finding in done.findings)

    ckptconv.convert(source, f"{tmp_path}/hub/", shard_size=16)
    assert not is_reported(f"{tmp_path}/out/")
    (tmp_path / "hub" / "config.json").write_text("{}")
    assert is_reported(f"{tmp_path}/out/")
    assert not is_reported(str(tmp_path / "one.safetensors"))
    (tmp_path / "out" / "config.json").write_text("{}")
    assert not is_reported(f"{tmp_path}/out/")


def test_a_folder_as_target_gets_a_hint_on_how_it_is_meant(source: Path, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    with pytest.raises(UsageError, match="no format is known for the folder") as caught:
        ckptconv.convert(source, tmp_path / "old")
    assert f"{tmp_path}/old/ puts model.safetensors into it" in str(caught.value.hint)


def _kind_of_set(kind: str, folder: Path) -> tuple[Path, Path]:
    """What a checkpoint of several files is named by, and one of the files that it consists of."""
    tensors = {f"layer.{i}.weight": torch.full((64, 64), float(i)) for i in range(4)}
    torch.save(tensors, folder / "whole.pth")
    (folder / "set").mkdir()
    match kind:
        case "safetensors":
            ckptconv.convert(folder / "whole.pth", folder / "set/", shard_size="40KB")
            return folder / "set", folder / "set/model-00001-of-00002.safetensors"
        case "torch":
            ckptconv.convert(folder / "whole.pth", folder / "set/", shard_size="40KB", to_format="torch")
            return folder / "set/pytorch_model.bin.index.json", folder / "set/pytorch_model-00002-of-00002.bin"
        case "gguf":
            ckptconv.convert(folder / "whole.pth", folder / "set/m.gguf", shard_size="40KB")
            return folder / "set", folder / "set/m-00001-of-00002.gguf"
        case _:
            torch.save({"0.weight": torch.ones(8, 8), "2.weight": torch.ones(8, 8)}, folder / "whole.pth")
            options = {"external-data": "w.safetensors"}
            ckptconv.convert(folder / "whole.pth", folder / "set/m.onnx", arch="mlp", options=options)
            return folder / "set/m.onnx", folder / "set/w.safetensors"


@pytest.mark.parametrize("kind", ["safetensors", "torch", "gguf", "onnx"])
def test_a_file_that_the_source_consists_of_is_not_replaced_by_the_whole(kind: str, tmp_path: Path) -> None:
    source, part = _kind_of_set(kind, tmp_path)
    (tmp_path / f"link{part.suffix}").symlink_to(part)
    for target in (part, tmp_path / f"link{part.suffix}"):
        for force in (False, True):
            with pytest.raises(UsageError, match="one of the files that the source consists of") as caught:
                ckptconv.convert(source, target, force=force, allow_loss="all")
            assert caught.value.hint == "give another name; the source can be removed afterwards"
    assert ckptconv.diff(tmp_path / "whole.pth", source).equal


def test_what_stands_for_the_source_as_a_whole_may_be_replaced(tmp_path: Path) -> None:
    source, part = _kind_of_set("safetensors", tmp_path)
    half = ckptconv.Edits(dtype=["BF16"])
    ckptconv.convert(part, part, force=True)  # a shard by itself
    ckptconv.convert(source, source / "model.safetensors.index.json", force=True, shard_size="10KB")
    ckptconv.convert(source, source / "model.safetensors", force=True)
    ckptconv.convert(source, source / "model.safetensors", force=True, edits=half)  # the one file of its folder
    assert [entry.name for entry in source.iterdir()] == ["model.safetensors"]
    assert ckptconv.diff(tmp_path / "whole.pth", source, headers=True).findings[0].code == "dtype-changed"
