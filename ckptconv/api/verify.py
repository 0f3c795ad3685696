"""`verify`: whether two files compute the same outputs; also running one now and comparing it later."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ckptconv.api.request import Request, arch_text, format_words
from ckptconv.api.running.arrays import read_recording
from ckptconv.api.running.comparing import Verification, compare, shapes_of
from ckptconv.api.running.feeds import batches_for
from ckptconv.api.running.memory import Memory
from ckptconv.api.running.pair import DEFAULT_SAMPLES, verify_sides
from ckptconv.api.running.recording import add_layers, add_reference, record, run_counter
from ckptconv.api.running.side import Side, Subject
from ckptconv.checks.runners import check_device
from ckptconv.core.report import Finding
from ckptconv.errors import MemoryLimitError
from ckptconv.io.target import Target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ckptconv.api.open import PathText
    from ckptconv.checks.recording import Recording
    from ckptconv.core.progress import Progress
    from ckptconv.core.spelling import Json

TRACED_BATCH = 1
"""The index of the batch whose layer outputs `run` records: the one with 3 samples, which is small."""

Device = Literal["cpu", "cuda"]


def verify(
    first: PathText,
    second: PathText,
    *,
    first_format: str | None = None,
    second_format: str | None = None,
    arch: PathText | None = None,
    settings: Sequence[str] = (),
    device: Device = "cpu",
    inputs: Sequence[str] = (),
    arrays: PathText | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Run both on the same inputs and compare the outputs; if they differ, find the first layer that does.

    A graph runs in onnxruntime. Weights run in a torch module, made from the architecture's forward recipe or from the
    Python code that `arch` names. If both hold the same weights and run in torch, bits have to be equal. Otherwise the
    outputs may differ by what rounding explains (`checks.rounding`), or by `atol` + `rtol` × the row's largest
    magnitude.

    first_format, second_format: override what the bytes say.
    inputs:  ``"x:F32[N,3,224,224]"`` for each input, if the network does not show what it takes.
    arrays:  an .npz file of inputs, instead of made-up ones.
    samples: rows of the largest batch; batches of 1 and 3 are run too.
    seed:    for the made-up inputs: normally distributed floats, uniform token numbers.

    Raises MissingExtraError without torch or onnxruntime, UsageError if nothing says what is computed or what goes
    in, RunError if a network does not load or run.
    """
    check_device(device)
    formats = (*format_words(first_format, "--from-a"), *format_words(second_format, "--from-b"))
    words = ("verify", fspath(first), fspath(second), *formats)
    subjects = [
        Subject(Request(path, arch_text(arch), settings, inputs, words, read_as), device)
        for path, read_as in ((first, first_format), (second, second_format))
    ]
    with ExitStack() as stack:
        memory = Memory()
        a, b = (Side(subject, stack, memory, progress) for subject in subjects)
        batches = batches_for([a, b], arrays, samples, seed)
        return verify_sides(a, b, batches, rtol=rtol, atol=atol, seed=seed, progress=progress)


def run(
    path: PathText,
    *,
    format: str | None = None,
    arch: PathText | None = None,
    settings: Sequence[str] = (),
    device: Device = "cpu",
    inputs: Sequence[str] = (),
    arrays: PathText | None = None,
    like: Recording | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    layers: bool = True,
    progress: Progress | None = None,
) -> Recording:
    """Run one file and record for `compare`: the outputs, a float64 reference, and how far rounding can move it.

    like:   a recording whose inputs are used, instead of made-up ones.
    layers: also record the output of each layer for one small batch, so that `compare` can name the first that differs.

    The other arguments, and the exceptions, are those of `verify`. ``recording.to_bytes()`` is a file that
    `read_recording` reads and ``ckptconv verify --outputs`` accepts.
    """
    check_device(device)
    with ExitStack() as stack:
        words = ("verify", fspath(path), *format_words(format), "--save-outputs", "FILE.npz")
        subject = Subject(Request(path, arch_text(arch), settings, inputs, words, format), device)
        side = Side(subject, stack, progress=progress)
        used_seed: int | None
        if like is not None:
            batches, used_seed = [batch.inputs for batch in like.batches], like.seed
        else:
            batches = batches_for([side], arrays, samples, seed)
            used_seed = seed if arrays is None else None
        recording = record(side, batches, seed=used_seed, tell=run_counter(len(batches), progress))
        recording.findings = side.findings
        traced = layers and (like is None or bool(like.layers))
        if traced:
            add_layers(recording, side, like.traced if like is not None else min(TRACED_BATCH, len(batches) - 1))
        if like is None or not like.reason:
            try:
                add_reference(recording, side, layers=traced)
            except MemoryLimitError as error:
                hint = "comparing with it takes --rtol and --atol"
                recording.findings.append(Finding("no-reference", "warning", "", error.message, hint=hint))
        return recording


@dataclass(frozen=True, slots=True)
class Saved:
    """What `save_outputs` wrote: the file that was run, the recording's path, the runtime. The other fields are those
    of `Verification`.
    """

    source: Path
    target: Path
    device: str
    runtime: str
    reason: str
    runs: list[tuple[int, ...]]
    findings: list[Finding] = field(default_factory=list)

    def to_dict(self) -> dict[str, Json]:
        """The result as ``verify --save-outputs --json`` prints it."""
        return {
            "source": str(self.source), "saved": str(self.target), "device": self.device, "runtime": self.runtime,
            "bound": self.reason, "runs": [list(shape) for shape in self.runs],
            "findings": [finding.to_dict() for finding in self.findings],
        }  # fmt: skip


def save_outputs(
    path: PathText,
    target: PathText,
    *,
    format: str | None = None,
    arch: PathText | None = None,
    settings: Sequence[str] = (),
    device: Device = "cpu",
    inputs: Sequence[str] = (),
    arrays: PathText | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    force: bool = False,
    progress: Progress | None = None,
) -> Saved:
    """`run`, and write the recording to `target`, an .npz file, atomically; `force` replaces an existing one."""
    output = Target(target, replace=force)
    recording = run(
        path, format=format, arch=arch, settings=settings, device=device, inputs=inputs, arrays=arrays,
        samples=samples, seed=seed, progress=progress,
    )  # fmt: skip
    output.write_whole(recording.to_bytes())
    return Saved(
        source=Path(path), target=Path(target), device=recording.device, runtime=recording.runtime,
        reason=recording.reason, runs=shapes_of(recording), findings=recording.findings,
    )  # fmt: skip


def verify_outputs(
    path: PathText,
    recorded: PathText,
    *,
    format: str | None = None,
    arch: PathText | None = None,
    settings: Sequence[str] = (),
    device: Device = "cpu",
    inputs: Sequence[str] = (),
    rtol: float | None = None,
    atol: float | None = None,
    progress: Progress | None = None,
) -> Verification:
    """Run `path` on the inputs in a file that `save_outputs` wrote, and compare with the outputs in it."""
    earlier = read_recording(recorded)
    current = run(
        path, format=format, arch=arch, settings=settings, device=device, inputs=inputs, like=earlier, progress=progress
    )
    result = compare(earlier, current, rtol=rtol, atol=atol)
    return replace(result, findings=[*current.findings, *result.findings])
