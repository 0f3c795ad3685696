"""The tests that every format has to pass; `FormatTests` is exported by the package."""

from __future__ import annotations

import errno
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from ckptconv.errors import CkptconvError, FileAccessError
from ckptconv.formats.targets import preflight
from ckptconv.io.source import Source
from ckptconv.testing.compare import differences
from ckptconv.testing.damage import Judge, Reading, disagreement, reading
from ckptconv.testing.faults import failing, short_writes
from ckptconv.testing.samples import Sample, large_sample, rich_sample, samples_for, small_sample
from ckptconv.testing.worker import write, write_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ckptconv.formats.base import Format

HEADER_ROOM = 256 << 10
"""The most bytes that opening a file of a few tensors may read: 64 KiB alone are searched for a zip's directory."""

OLD = b"what the target held before"

FOREIGN: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\0",
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "text": b"The quick brown fox jumps over the lazy dog.\n" * 20,
    "page": b"<!DOCTYPE html><html><body>404</body></html>",
    "json": b'{"a": 1}',
    "zip": b"PK\5\6" + bytes(18),
    "half a pickle": b"\x80\x02}q\x00",
}
"""Files in no format at all."""


class FormatTests:
    """Inherit from this, and set `format`; see `ckptconv.testing`."""

    format: ClassVar[Format]

    def reference(self, path: Path) -> Reading | None:
        """What another reader of the format reads from the file; it may raise any exception. None if there is none."""
        return None

    def samples(self) -> list[Sample]:
        """The checkpoints that the format has to give back."""
        return samples_for(self.format.holds)

    def complete(self, sample: Sample) -> Sample:
        """The sample, with everything added that the format requires of a checkpoint (`Format.needs`)."""
        return sample

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Run each test that takes a `sample` once for each sample."""
        if "sample" in metafunc.fixturenames:
            metafunc.parametrize("sample", self.samples(), ids=lambda sample: sample.name)

    @property
    def _suffix(self) -> str:
        return self.format.suffixes[0] if self.format.suffixes else ""  # folders have none

    # Its description

    def test_its_description_names_functions_that_exist(self) -> None:
        format = self.format
        for function in (format.claims, format.reader, format.writer, format.notices, format.needs):
            assert not function or callable(format._load(function)), function

    def test_its_description_reads_well(self) -> None:
        assert self.format.name == self.format.name.lower().strip()
        assert self.format.name.isprintable()
        assert self.format.summary
        assert not self.format.summary.endswith(".")
        for suffix in self.format.suffixes:  # ".pth", or a whole file name, "model.json"
            assert "." in suffix[:-1]
            assert suffix == suffix.lower()

    def test_it_knows_its_own_files(self, sample: Sample, tmp_path: Path) -> None:
        path = self._written(sample, tmp_path)
        with Source(path) as source:
            assert self.format.claims_file(source)

    def test_foreign_files_are_refused_without_another_exception(self, tmp_path: Path) -> None:
        path = tmp_path / f"foreign{self._suffix}"
        for what, data in FOREIGN.items():
            path.write_bytes(data)
            with Source(path) as source:
                self.format.claims_file(source)
                assert _refuses(self.format, source), what

    # Round trips

    def test_a_round_trip_gives_back_all_that_it_holds(self, sample: Sample, tmp_path: Path) -> None:
        assert not preflight.losses(sample.open(), self.format), "`holds` says that the format cannot hold the sample"
        path = self._written(sample, tmp_path)
        with Source(path) as source, self.format.read(source) as found, sample.open() as expected:
            assert not (lines := differences(found, expected, self.format.holds)), "\n".join(lines)
            assert found.format == self.format.name

    def test_the_reference_reader_reads_the_same_tensors(self, sample: Sample, tmp_path: Path) -> None:
        path = self._written(sample, tmp_path)
        if sample.name == "names" or (other := self.reference(path)) is None:
            return  # names may be escaped, which the reference does not undo
        with Source(path) as source, self.format.read(source) as found:
            ours = reading(found)
        tied = {name for names in sample.open().ties for name in names[1:]}
        for name, (_, _, image) in other.tensors.items():
            if name in ours.tensors:
                _, _, our_image = ours.tensors[name]
                assert image == our_image, name
        assert ours.tensors.keys() - tied <= other.tensors.keys()

    def test_what_it_does_not_hold_is_named_before_it_is_lost(self, tmp_path: Path) -> None:
        sample, holds = self.complete(rich_sample(self.format.holds)), self.format.holds
        codes = {loss.code for loss in preflight.losses(sample.open(), self.format)}
        held = {"tie": holds.ties or holds.single, "extras": holds.extras, "metadata": holds.metadata != "none"}
        assert codes == {code for code, is_held in held.items() if not is_held}
        path = self._written(sample, tmp_path)
        with Source(path) as source, self.format.read(source) as found, sample.open() as expected:
            for name, tensor in expected.items():
                assert bytes(found[name].read()) == bytes(tensor.read())

    # Reading

    def test_opening_reads_no_tensor_byte(self, tmp_path: Path) -> None:
        path = self._written(self.complete(large_sample(self.format.holds)), tmp_path)
        with Source(path) as source:
            self.format.claims_file(source)
            with self.format.read(source) as checkpoint:
                assert source.bytes_read < HEADER_ROOM
                next(iter(checkpoint.values())).read(100, 101)
                assert source.bytes_read < HEADER_ROOM + (1 << 16), "one byte of a tensor costs much more than that"

    def test_a_range_of_a_tensor_is_that_part_of_it(self, sample: Sample, tmp_path: Path) -> None:
        path = self._written(sample, tmp_path)
        with Source(path) as source, self.format.read(source) as found:
            for tensor in found.all_tensors.values():
                whole, size = bytes(tensor.read()), tensor.info.nbytes
                assert len(whole) == size
                for start, stop in {(0, 0), (0, size), (size, size), (size // 3, size // 2), (min(1, size), size)}:
                    assert bytes(tensor.read(start, stop)) == whole[start:stop]
                for start, stop in ((-1, 0), (0, size + 1), (size + 1, size + 1)):
                    assert _is_out_of_range(tensor.read, start, stop)

    def test_reading_leaves_the_file_as_it_was(self, sample: Sample, tmp_path: Path) -> None:
        path = self._written(sample, tmp_path)
        before, status = path.read_bytes(), path.stat()
        with Source(path) as source, self.format.read(source) as found:
            reading(found)
            found.check_unchanged()
        assert path.read_bytes() == before
        assert (path.stat().st_mtime_ns, path.stat().st_mode) == (status.st_mtime_ns, status.st_mode)

    # Writing

    def test_writing_twice_gives_the_same_bytes(self, sample: Sample, tmp_path: Path) -> None:
        first, second = tmp_path / f"first{self._suffix}", tmp_path / f"another name{self._suffix}"
        write(self.format, sample, first)
        write(self.format, sample, second)
        assert first.read_bytes() == second.read_bytes()

    def test_two_processes_write_the_same_bytes(self, tmp_path: Path) -> None:
        rich = self.complete(rich_sample(self.format.holds))
        sample = next((sample for sample in self.samples() if sample.name == "metadata"), rich)
        here = self._written(sample, tmp_path)
        for seed in (0, 1):
            there = tmp_path / f"there-{seed}{self._suffix}"
            write_elsewhere(self.format, sample, there, hash_seed=seed)
            assert there.read_bytes() == here.read_bytes()

    def test_a_failing_disk_leaves_the_old_file_or_none(self, tmp_path: Path) -> None:
        for code in (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EINTR):
            self._fail_at_every_call(tmp_path, OSError(code, "a fault made by a test"), FileAccessError)

    def test_an_interrupt_leaves_the_old_file_or_none(self, tmp_path: Path) -> None:
        self._fail_at_every_call(tmp_path, KeyboardInterrupt(), KeyboardInterrupt)

    def test_short_writes_are_continued(self, tmp_path: Path) -> None:
        sample = self.complete(small_sample(self.format.holds))
        whole, path = self._written(sample, tmp_path), tmp_path / f"short{self._suffix}"
        with short_writes():
            write(self.format, sample, path)
        assert path.read_bytes() == whole.read_bytes()

    # Damaged files

    def test_a_file_cut_short_is_refused_or_read_as_the_reference_does(self, tmp_path: Path) -> None:
        judge = self._judge(tmp_path)
        judge.truncations()
        assert not judge.verdicts.failures, judge.verdicts.text()

    def test_a_flipped_bit_in_the_header_is_refused_or_read_as_the_reference_does(self, tmp_path: Path) -> None:
        judge = self._judge(tmp_path)
        judge.bit_flips(judge.header_bytes(tmp_path / f"small{self._suffix}"))
        assert not judge.verdicts.failures, judge.verdicts.text()
        assert judge.verdicts.refused

    def _judge(self, tmp_path: Path) -> Judge:
        sample = self.complete(small_sample(self.format.holds))
        path = self._written(sample, tmp_path)
        with Source(path) as source, self.format.read(source) as found:
            assert not (what := disagreement(reading(found), path, self.reference)), what
        return Judge(self.format, path, self.reference)

    def _written(self, sample: Sample, folder: Path) -> Path:
        path = folder / f"{sample.name}{self._suffix}"
        write(self.format, sample, path)
        return path

    def _fail_at_every_call(self, folder: Path, error: BaseException, raised: type[BaseException]) -> None:
        sample = replace(self.complete(small_sample(self.format.holds)), name="whole")
        whole = self._written(sample, folder)
        new = whole.read_bytes()
        whole.unlink()
        for old in (None, OLD):
            calls = at = 1
            while at <= calls:
                path = folder / f"target{self._suffix}"
                if old is not None:
                    path.write_bytes(old)
                with failing(at, error) as counter:
                    failed = _fails(partial(write, self.format, sample, path, replace=old is not None), raised)
                left = path.read_bytes() if path.exists() else None
                assert left in ((old, new) if failed else (new,)), f"fault at call {at} of {counter.calls}"
                path.unlink(missing_ok=True)
                assert not list(folder.iterdir()), f"fault at call {at} left a file behind"
                calls, at = max(calls, counter.calls), at + 1


def _refuses(format: Format, source: Source) -> bool:
    try:
        format.read(source)
    except CkptconvError:
        return True
    return False


def _fails(action: Callable[[], None], expected: type[BaseException]) -> bool:
    try:
        action()
    except expected:
        return True
    return False


def _is_out_of_range(read: Callable[[int, int], object], start: int, stop: int) -> bool:
    try:
        read(start, stop)
    except IndexError:
        return True
    return False
