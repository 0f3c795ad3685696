"""GGUF in several files, written: what is in each, what they are called, and that they appear whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from gguf import GGUFReader

import ckptconv
from ckptconv.api.converting.destination import choose_destination
from ckptconv.api.editing.edits import Edits
from ckptconv.errors import CkptconvError, TargetExistsError, UsageError
from ckptconv.formats.base import WriteOptions
from ckptconv.formats.registry import by_name, by_suffix
from ckptconv.formats.sets.numbered import part_names
from ckptconv.io.target import Target
from ckptconv.testing.compare import differences
from ckptconv.testing.faults import failing, short_writes
from ckptconv.testing.samples import samples_for
from tests.support.kills import killable
from tests.support.systems import full

if TYPE_CHECKING:
    from ckptconv.testing.samples import Sample

FIXTURES = Path(__file__).parents[3] / "fixtures"
SPLIT = by_name("gguf-split")
SAMPLES = [pytest.param(sample, id=sample.name) for sample in samples_for(SPLIT.holds)]


def write(sample: Sample, folder: Path, size: int = 64) -> Path:
    """The sample in files of that size; the file that stands for it."""
    with sample.open() as checkpoint:
        place = choose_destination(SPLIT, folder / "out.gguf", checkpoint, size, plain=False)
        with place.open(replace=False) as target:
            place.format.write(checkpoint, target, WriteOptions(shard_size=size))
            target.commit()
    return place.path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def made(folder: Path, stem: str = "out") -> list[str]:
    return sorted(path.name for path in folder.glob(f"{stem}*"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four tensors of 32 bytes, with metadata."""
    state = {name: torch.full((8,), float(i)) for i, name in enumerate("dcba")}
    torch.save({"epoch": 3, "sizes": (1, 2), "state_dict": state}, tmp_path / "in.pth")
    return tmp_path / "in.pth"


# What it gives back


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_round_trip_gives_back_all_that_it_holds(sample: Sample, tmp_path: Path) -> None:
    first = write(sample, tmp_path)
    with ckptconv.open(first) as found, sample.open() as expected:
        assert not (lines := differences(found, expected, SPLIT.holds)), "\n".join(lines)
        assert list(found.all_tensors) == list(expected.all_tensors)
        assert found.format == ("gguf-split" if len(made(tmp_path)) > 1 else "gguf")
        assert found.findings == ()


@pytest.mark.parametrize("sample", SAMPLES)
def test_writing_twice_gives_the_same_bytes(sample: Sample, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(sample, tmp_path / folder)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_each_part_is_a_file_that_the_package_reads_and_the_first_has_the_metadata(
    source: Path, tmp_path: Path
) -> None:
    ckptconv.convert(source, tmp_path / "out.gguf", shard_size=64)
    names = part_names("out.gguf", 2)
    assert made(tmp_path) == names
    for number, (name, held) in enumerate(zip(names, ("dc", "ba"), strict=True)):
        reader = GGUFReader(tmp_path / name)
        assert "".join(tensor.name for tensor in reader.tensors) == held
        said = {field.name: field.contents() for field in reader.fields.values() if not field.name.startswith("GGUF.")}
        place = {"split.no": number, "split.count": 2, "split.tensors.count": 4}
        assert place.items() <= said.items()
        assert [reader.fields[key].types[0].name for key in place] == ["UINT16", "UINT16", "INT32"]
        assert said.keys() - place.keys() == (
            {"general.architecture", "epoch", "sizes", "ckptconv"} if number == 0 else set()
        )


@pytest.mark.parametrize("fixture", ["digits-metadata.pth", "digits-training.pth", "tied.pth", "views.pth"])
def test_every_direction_keeps_content_and_digest(fixture: str, tmp_path: Path) -> None:
    first = here = FIXTURES / fixture
    digest = ckptconv.inspect(first, digest=True).digest
    way = [("a.gguf", "3KB"), ("b.gguf", None), ("c/", 700), ("d.safetensors", None), ("e.gguf", "2KB")]
    for name, size in way:
        there = ckptconv.convert(
            here, f"{tmp_path}/{name}", to_format=None if "." in name else "gguf", shard_size=size
        ).target
        found = ckptconv.inspect(there, digest=True)
        assert (found.digest, found.digest_holds) == (digest, True), name
        assert ckptconv.diff(first, there).equal
        here = there
    assert ckptconv.convert(here, tmp_path / "h.pth").losses == []


def test_a_gguf_of_others_is_split_and_joined_without_a_trace(tmp_path: Path) -> None:
    torch.save({f"w{i}": torch.ones(64, 64) for i in range(5)}, tmp_path / "in.pth")
    meta: Any = {"general.architecture": "llama", "llama.block_count": 1, "general.alignment": 128}
    whole = tmp_path / "whole.gguf"
    ckptconv.convert(tmp_path / "in.pth", whole, metadata=meta, bare=True, edits=Edits(dtype=["Q4_0"]))
    foreign = tmp_path / "foreign.gguf"
    ckptconv.convert(whole, foreign)  # once more, as our record in it would say where it came from
    ckptconv.convert(foreign, tmp_path / "out.gguf", shard_size="5KB")
    first = tmp_path / "out-00001-of-00003.gguf"
    ckptconv.convert(first, tmp_path / "joined.gguf")
    assert (tmp_path / "joined.gguf").read_bytes() == foreign.read_bytes()


def test_tensors_are_filled_in_order_and_large_ones_are_alone(tmp_path: Path) -> None:
    sizes = {"a": 8, "big": 100, "c": 8, "d": 8, "e": 24}
    torch.save({name: torch.ones(size) for name, size in sizes.items()}, tmp_path / "in.pth")
    done = ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.gguf", shard_size=130, dry_run=True)
    assert not made(tmp_path)
    assert done.target == tmp_path / "out-00001-of-00004.gguf"
    ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.gguf", shard_size=130)
    held = [[t.name for t in GGUFReader(tmp_path / name).tensors] for name in part_names("out.gguf", 4)]
    assert held == [["a"], ["big"], ["c", "d"], ["e"]]
    places = {move.target: Path(str(move.file)).name for move in done.plan}
    assert places == {name: file for file, names in zip(part_names("out.gguf", 4), held, strict=True) for name in names}


# What they are called


def test_what_fits_into_one_is_one_plain_file(source: Path, tmp_path: Path) -> None:
    ckptconv.convert(source, tmp_path / "out.gguf", shard_size=128)
    ckptconv.convert(source, tmp_path / "out-00001-of-00007.gguf", shard_size="1GB", force=True)
    ckptconv.convert(source, tmp_path / "other.gguf", to_format="gguf-split")
    ckptconv.convert(source, f"{tmp_path}/set/", to_format="gguf", shard_size=64)
    assert made(tmp_path) == ["out.gguf"]
    assert made(tmp_path, "other") == ["other.gguf"]
    assert made(tmp_path / "set", "model") == part_names("model.gguf", 2)


def test_a_name_alone_asks_for_one_file_whatever_its_size() -> None:
    assert by_suffix(Path("out.gguf")).name == "gguf"
    assert by_suffix(Path("out-00001-of-00002.gguf")).name == "gguf"


def test_a_set_without_the_suffix_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"called NAME\.gguf"):
        ckptconv.convert(source, tmp_path / "old", to_format="gguf", shard_size=64, force=True)
    assert (tmp_path / "old").read_bytes() == b"mine"


def test_a_target_that_is_not_called_as_the_first_part_is_refused(source: Path, tmp_path: Path) -> None:
    for name in ("out.gguf", "out-00002-of-00002.gguf", "out-00001-of-00004.gguf"):
        refused = pytest.raises(UsageError, match="the first of 2 files")
        with ckptconv.open(source) as checkpoint, Target(tmp_path / name) as target, refused:
            SPLIT.write(checkpoint, target, WriteOptions(shard_size=64))
        assert not made(tmp_path)


def test_too_many_parts_are_refused_with_a_size_that_would_do(tmp_path: Path) -> None:
    torch.save({str(i): torch.ones(8) for i in range(600)}, tmp_path / "in.pth")
    with pytest.raises(UsageError) as error:
        ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.gguf", shard_size=4)
    size = str(error.value.hint).split()[1]
    assert ckptconv.convert(tmp_path / "in.pth", tmp_path / "out.gguf", shard_size=size, dry_run=True).findings


# Whole or not at all


def test_forms_of_one_name_exclude_each_other_and_are_replaced_with_force_alone(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    keep = [tmp_path / name for name in ("out-00009-of-00009.gguf", "out.1-00001-of-00002.gguf", "out-1.gguf")]
    for path in keep:
        path.write_bytes(b"not of this set")
    ckptconv.convert(source, out, shard_size=64)
    for size in (64, 32, 999):
        with pytest.raises(TargetExistsError):
            ckptconv.convert(source, out, shard_size=size)
    for size, files in ((64, 3), (64, 2), (32, 4), (999, 1), (32, 4), (32, 5), (32, 4), (64, 2)):
        done = ckptconv.convert(source, out, shard_size=size, force=True)
        names = part_names("out.gguf", files) if files > 1 else ["out.gguf"]
        assert made(tmp_path) == sorted([*names, *(path.name for path in keep)])
        assert done.target == tmp_path / names[0]
        assert ckptconv.diff(source, done.target).equal
    assert all(path.read_bytes() == b"not of this set" for path in keep)


def test_a_file_that_is_called_the_first_of_one_is_no_set_and_stays(source: Path, tmp_path: Path) -> None:
    ckptconv.convert(source, tmp_path / "out-00001-of-00001.gguf")
    old = contents(tmp_path)
    ckptconv.convert(source, tmp_path / "out.gguf", shard_size=64)
    assert made(tmp_path) == ["out-00001-of-00001.gguf", "out-00001-of-00002.gguf", "out-00002-of-00002.gguf"]
    assert {name: contents(tmp_path)[name] for name in old} == old


def test_where_the_number_of_files_stays_the_first_has_the_metadata_alone(source: Path, tmp_path: Path) -> None:
    ckptconv.convert(source, tmp_path / "out.gguf", shard_size=64)
    done = ckptconv.convert(source, tmp_path / "out.gguf", shard_size=64, force=True)
    assert "the metadata alone" in next(finding.message for finding in done.findings if finding.code == "shards")
    held = [[t.name for t in GGUFReader(tmp_path / name).tensors] for name in part_names("out.gguf", 3)]
    assert held == [[], ["d", "c"], ["b", "a"]]
    for name in part_names("out.gguf", 2):
        (tmp_path / name).write_bytes(b"another set of that name")
    with pytest.raises(TargetExistsError, match="sets of 2 and of 3 files"):
        ckptconv.convert(source, tmp_path / "out.gguf", shard_size=64, force=True)


def test_a_set_is_split_again_in_place(source: Path, tmp_path: Path) -> None:
    here = ckptconv.convert(source, tmp_path / "out.gguf", shard_size=64).target
    for size in (64, 32, 96, 999, 32):
        here = ckptconv.convert(here, here, shard_size=size, force=True).target
        assert ckptconv.diff(source, here).equal


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "made by a test"), KeyboardInterrupt()], ids=["full", "stop"])
@pytest.mark.parametrize("old", [0, 1, 2], ids=["new", "one file before", "as many before"])
def test_a_fault_at_any_call_leaves_the_old_set_or_none(
    error: BaseException, old: int, source: Path, tmp_path: Path
) -> None:
    folder, other = tmp_path / "set", tmp_path / "other.pth"
    torch.save({name: torch.full((8,), 7.0) for name in "xyz"}, other)
    folder.mkdir()
    calls, at = 1, 0
    while at < calls:
        at += 1
        if old:
            ckptconv.convert(other, folder / "out.gguf", shard_size=64 if old > 1 else 999)
        before = contents(folder)
        with failing(at, error) as counter:
            try:
                ckptconv.convert(source, folder / "out.gguf", shard_size=64, force=bool(old))
                failed = False
            except (CkptconvError, KeyboardInterrupt):
                failed = True
        after = contents(folder)
        names = part_names("out.gguf", 3 if old > 1 else 2)
        if names[0] in after:
            assert ckptconv.diff(source, folder / names[0]).equal, f"fault at call {at}"
            assert failed or sorted(after) == names
        else:
            assert failed
            assert after == before, f"fault at call {at}"
        for path in folder.iterdir():
            path.unlink()
        calls = counter.calls + 1
    assert calls > 10


def test_short_writes_are_continued(source: Path, tmp_path: Path) -> None:
    for folder in ("whole", "short"):
        (tmp_path / folder).mkdir()
    ckptconv.convert(source, tmp_path / "whole" / "out.gguf", shard_size=32)
    with short_writes():
        ckptconv.convert(source, tmp_path / "short" / "out.gguf", shard_size=32)
    assert contents(tmp_path / "whole") == contents(tmp_path / "short")


def test_a_run_that_is_killed_at_any_moment_leaves_the_old_set_or_the_new(source: Path, tmp_path: Path) -> None:
    other, folder = tmp_path / "other.pth", tmp_path / "set"
    torch.save({f"w{i}": torch.full((8,), float(i)) for i in range(4)}, other)
    folder.mkdir()
    old, new = (folder / f"out-00001-of-0000{n}.gguf" for n in (2, 3))
    seen = set()
    with killable(source, folder / "out.gguf", shard_size=64) as is_killed:
        for moment in range(40):
            for path in folder.iterdir():
                path.unlink()
            ckptconv.convert(other, old, shard_size=64)
            killed = is_killed(moment)
            is_new = new.exists()
            assert ckptconv.diff(source, new).equal if is_new else ckptconv.diff(other, old).equal
            seen.add((is_new, killed))
            if not killed:
                break
    assert seen == {(False, True), (True, True), (True, False)}
    assert made(folder) == part_names("out.gguf", 3)


def test_a_new_folder_goes_again_when_nothing_comes_of_it(source: Path, tmp_path: Path) -> None:
    data = bytearray(source.read_bytes())
    data[data.index(torch.ones(8).numpy().tobytes())] ^= 1
    source.write_bytes(data)
    with pytest.raises(CkptconvError):
        ckptconv.convert(source, f"{tmp_path}/set/", to_format="gguf", shard_size=32)
    assert not (tmp_path / "set").exists()


def test_a_full_disk_is_reported_before_a_byte_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full(monkeypatch)
    with pytest.raises(CkptconvError, match="no space left"):
        ckptconv.convert(source, tmp_path / "out.gguf", shard_size=64)
    assert not made(tmp_path)


def test_progress_is_that_of_the_whole(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    ckptconv.convert(source, tmp_path / "out.gguf", shard_size=32, progress=lambda *told: seen.append(told))
    assert seen == sorted(seen)
    assert seen[-1] == (128, 128)


def test_it_is_verified_before_it_gets_its_name(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    done = ckptconv.convert(FIXTURES / "digits-metadata.pth", tmp_path / "out.gguf", shard_size="5KB", verify=True)
    assert done.verification is not None
    assert done.verification.equivalent
    assert len(made(tmp_path)) > 2
