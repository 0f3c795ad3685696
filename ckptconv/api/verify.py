"""Whether two files compute the same outputs."""

from __future__ import annotations

from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field, replace
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ckptconv.api.graph import Request, program_of
from ckptconv.api.naming import named_by_architecture
from ckptconv.api.open import open
from ckptconv.arch.factory import is_reference, made
from ckptconv.arch.samples import InputSpec, parse_input, shown_inputs
from ckptconv.checks.runners import OnnxRunner, TorchRunner, check_device, load_weights
from ckptconv.checks.verify import Output, blame_weights, compare_outputs
from ckptconv.core.dtypes import DType
from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    import torch

    from ckptconv.api.open import PathText
    from ckptconv.arch.recipe.program import Program
    from ckptconv.checks.rounding import Bound
    from ckptconv.checks.runners import Runner
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.spelling import Json

Feeds = dict[str, "np.ndarray[Any, Any]"]

DEFAULT_SAMPLES = 32

FREE_SIZES = {3: 16, 4: 64}
"""Of free dimensions behind the first, by the input's rank: sequences and images; others are 8."""

THUMB = 1e-4
"""Of a row's largest magnitude, where no float64 reference can be run: some 800 F32 roundings."""


@dataclass(frozen=True, slots=True)
class Verification:
    """What `verify` found.

    outputs:  how each output differs, the worst of all runs.
    reason:   where the bound comes from.
    runtimes: what each side ran in. runs: the shapes of the first input of each run.
    """

    first: Path
    second: Path
    device: str
    outputs: list[Output]
    reason: str
    runtimes: tuple[str, str]
    runs: list[tuple[int, ...]]
    findings: list[Finding] = field(default_factory=list)

    @property
    def equivalent(self) -> bool:
        """Whether every output is within its bound."""
        return all(output.ok for output in self.outputs)

    def to_dict(self) -> dict[str, Json]:
        """The result as ``verify --json`` prints it."""
        return {
            "first": str(self.first),
            "second": str(self.second),
            "equivalent": self.equivalent,
            "device": self.device,
            "runtimes": list(self.runtimes),
            "bound": self.reason,
            "runs": [list(shape) for shape in self.runs],
            "outputs": [output.to_dict() for output in self.outputs],
            "findings": [finding.to_dict() for finding in self.findings],
        }


def verify(
    first: PathText,
    second: PathText,
    *,
    arch: str | None = None,
    settings: Sequence[str] = (),
    device: Literal["cpu", "cuda"] = "cpu",
    inputs: Sequence[str] = (),
    arrays: PathText | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Verification:
    """Run both on the same inputs and compare what they give.

    A graph runs in onnxruntime; weights run in a torch module, made from the architecture's forward recipe or from
    Python that `arch` names. Where both hold the same weights and run in torch, bits have to be equal; else the outputs
    may differ by what rounding explains (`checks.rounding`), or by `atol` + `rtol` × the row's largest magnitude.

    inputs:  ``"x:F32[N,3,224,224]"`` for each input, where the network does not show what it takes.
    arrays:  an .npz file of inputs, instead of made-up ones.
    samples: rows of the largest batch; batches of 1 and 3 are run too.
    seed:    of the made-up inputs: normally distributed floats, uniform token numbers.

    Raises MissingExtraError without torch or onnxruntime, UsageError where nothing says what is computed or what goes
    in, RunError where a network does not load or run.
    """
    if samples < 1:
        raise UsageError(f"{samples} samples are none", hint="--samples 32")
    check_device(device)
    with ExitStack() as stack:
        sides = [_Side(Request(path, path, arch, settings, inputs), stack, device) for path in (first, second)]
        a, b = sides
        specs = [parse_input(text) for text in inputs] or _inputs(a, b)
        batches = _loaded(arrays, specs) if arrays is not None else list(_made_up(specs, samples, seed))
        judge = _Judge(a, b, rtol, atol)
        outputs: dict[str, Output] = {}
        for done, feeds in enumerate(batches):
            limits = judge.limits(feeds)
            try:
                compare_outputs(outputs, a.runner.run(feeds), b.runner.run(feeds), limits)
            except ValueError as error:
                raise UsageError(
                    f"the outputs cannot be compared: {error}", hint="are these the same network?"
                ) from None
            if progress is not None:
                progress(done + 1, len(batches))
        equivalent = all(output.ok for output in outputs.values())
        findings = list(dict.fromkeys([*a.findings, *b.findings]))
        findings += blame_weights(a.checkpoint, b.checkpoint, equivalent=equivalent)
        shapes = [next(iter(feeds.values())).shape for feeds in batches]
        return Verification(
            Path(first), Path(second), device, list(outputs.values()), judge.reason,
            (a.runner.runtime, b.runner.runtime), shapes, findings,
        )  # fmt: skip


class _Side:
    """One file, open, and what runs it."""

    def __init__(self, request: Request, stack: ExitStack, device: str) -> None:
        self.request, self.stack, self.device = request, stack, device
        path = Path(request.source)
        opened = stack.enter_context(open(path))
        self.findings: list[Finding] = []
        self.is_graph = opened.format == "onnx"
        arch = request.arch
        self.checkpoint: Checkpoint = named_by_architecture(opened, arch, path, request.settings)
        self.runner: Runner
        if self.is_graph:
            self.runner = OnnxRunner(path, path.name, device)
        else:
            module, specs = self.module()
            self.runner = TorchRunner(path.name, module.to(device), specs, device)

    def module(self) -> tuple[torch.nn.Module, list[InputSpec]]:
        """A torch module with the weights as F32 (F64 where they are), and what it takes."""
        import torch

        arch, label = self.request.arch, Path(self.request.source).name
        if arch is not None and is_reference(arch):
            module, _ = self.stack.enter_context(
                made(arch, self.checkpoint.metadata, self.request.settings, device="cpu")
            )
            module = load_weights(module, self.checkpoint, label, "cpu")
            specs = shown_inputs(module)
        else:
            from ckptconv.arch.recipe.module import build_module

            result, run = program_of(replace(self.request, target="OTHER"), self.checkpoint)
            module = load_weights(build_module(run, device="meta"), self.checkpoint, label, "cpu")
            specs = [_recipe_input(run, module)]
            assumed = [name for name in run.params if result.origins.get(name) == "default"]
            for name in assumed:
                message = f"{name} = {result.params[name]} is assumed: nothing in the file says it"
                self.findings.append(Finding("assumed", "info", name, message, hint=f"--set {name}=VALUE"))
        wide = all(p.dtype is torch.float64 for p in module.parameters() if p.is_floating_point())
        return module.to(torch.float64 if wide else torch.float32), specs


def _recipe_input(run: Program, module: torch.nn.Module) -> InputSpec:
    dims = tuple(f"dim_{i}" if dim is None else dim for i, dim in enumerate(run.input.shape))
    shown = shown_inputs(module)
    limit = shown[0].limit if shown else 0
    return InputSpec("", DType.F32 if run.input.dtype is None else DType.I64, dims, limit if run.input.dtype else 0)


def _inputs(a: _Side, b: _Side) -> list[InputSpec]:
    """What goes in: as the graph names it, with the limits that a module knows."""
    graphs = [side for side in (a, b) if side.is_graph]
    modules = [side for side in (a, b) if not side.is_graph]
    specs = list((graphs or modules)[0].runner.inputs)
    if not specs:
        raise UsageError("nothing says what goes in", hint="describe it, such as --input 'x:F32[N,3,224,224]'")
    limits = [spec.limit for side in modules for spec in side.runner.inputs if spec.limit]
    if limits:
        specs = [replace(spec, limit=min(limits)) if spec.dtype.kind == "int" else spec for spec in specs]
    unknown = [spec for spec in specs if spec.dtype.kind == "int" and not spec.limit]
    if unknown:
        shape = ",".join(map(str, unknown[0].dims))
        raise UsageError(
            f"nothing says which integers {unknown[0].name!r} takes",
            hint=f"--input '{unknown[0].name}:{unknown[0].dtype}[{shape}]<LIMIT', or --inputs FILE.npz",
        )
    return specs


def _made_up(specs: Sequence[InputSpec], samples: int, seed: int) -> Any:
    """Batches of 1, 3 and `samples`; one alone where the first dimension is fixed."""
    import numpy as np

    from ckptconv.core.arrays import numpy_dtype

    rng = np.random.default_rng(seed)
    free = {spec.dims[0] for spec in specs if spec.dims and isinstance(spec.dims[0], str)}
    for batch in dict.fromkeys((1, 3, samples)) if free else (1,):
        sizes: dict[str, int] = {}
        feeds: Feeds = {}
        for position, spec in enumerate(specs):
            shape = []
            for axis, dim in enumerate(spec.dims):
                size = FREE_SIZES.get(len(spec.dims), 8)
                shape.append(
                    dim if isinstance(dim, int) else batch if dim in free and axis == 0 else sizes.setdefault(dim, size)
                )
            dtype = numpy_dtype(spec.dtype)
            if spec.dtype.kind == "float":
                made_up = rng.standard_normal(shape).astype(dtype)
            else:
                made_up = rng.integers(0, spec.limit or 2, shape).astype(dtype)
            feeds[spec.name or f"input_{position}"] = made_up
        yield feeds


def _loaded(path: PathText, specs: Sequence[InputSpec]) -> list[Feeds]:
    """The arrays of an .npz by the inputs' names, or in its order. Pickled objects are refused."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{fspath(path)} is no .npz of arrays: {error}", hint="numpy.savez(FILE, x=array)") from error
    names = [spec.name for spec in specs]
    if set(arrays) == set(names):
        return [{name: arrays[name] for name in names}]
    if len(arrays) != len(names):
        raise UsageError(
            f"{fspath(path)} holds {len(arrays)} arrays for {len(names)} inputs", hint=f"{', '.join(names)}"
        )
    return [arrays]


class _Judge:
    """How far the outputs may differ, and why."""

    def __init__(self, a: _Side, b: _Side, rtol: float | None, atol: float | None) -> None:
        self.a, self.b, self.rtol, self.atol = a, b, rtol, atol
        self.module: torch.nn.Module | None = None
        self.named = False
        self.reason = ""
        alike = a.runner.runtime == b.runner.runtime == "torch"
        self.exact = alike and rtol is None and atol is None and _same_weights(a.checkpoint, b.checkpoint)
        if self.exact:
            self.reason = "the same weights in the same runtime on the same device: bits have to be equal"
        elif rtol is None and atol is None:
            self.module = self._reference()

    def _reference(self) -> torch.nn.Module | None:
        for side in (self.a, self.b):
            if isinstance(side.runner, TorchRunner):
                return deepcopy(side.runner.module).cpu()
        try:
            return self.a.module()[0]
        except (UsageError, CkptconvError):
            return None

    def limits(self, feeds: Feeds) -> Mapping[str, np.ndarray[Any, Any]] | None:
        """Of each output, for these inputs; None where bits have to be equal."""
        import numpy as np

        if self.exact:
            return None
        if self.module is not None:
            found = self._bound(feeds)
            self.reason = found.reason
            return found.limits
        rtol, atol = self.rtol, self.atol or 0.0
        self.reason = f"|a - b| <= {atol:g} + {rtol or 0.0:g} × the row's largest magnitude, as asked for"
        if self.rtol is None and self.atol is None:
            rtol = THUMB
            self.reason = (
                f"{THUMB:g} of the row's largest magnitude, a rule of thumb: --arch would give a reference in float64"
            )
        made_limits = {}
        for name, array in self.a.runner.run(feeds).items():
            size = np.abs(array.astype(np.float64))
            size = size.max(axis=-1, keepdims=True, initial=0.0) if array.ndim else size
            made_limits[name] = atol + (rtol or 0.0) * size
        return made_limits

    def _bound(self, feeds: Feeds) -> Bound:
        from ckptconv.checks.rounding import UNIT, bound

        assert self.module is not None
        types = {str(array.dtype) for array in feeds.values() if array.dtype.kind == "f"}
        graphs = [spec.dtype for side in (self.a, self.b) if side.is_graph for spec in side.runner.inputs]
        half = DType.F16 in graphs or types == {"float16"}
        wide = not any(side.is_graph for side in (self.a, self.b)) and types == {"float64"}
        unit = UNIT["float16" if half else "float64" if wide else "float32"]
        # a module takes its inputs by position, but for those that are named on the command line
        return bound(
            self.module, feeds, unit, named=bool(self.a.request.inputs) and all(":" in t for t in self.a.request.inputs)
        )


def _same_weights(a: Checkpoint, b: Checkpoint) -> bool:
    from ckptconv.io.digest import content_hash

    if set(a) != set(b) or any(a[name].info != b[name].info for name in a):
        return False
    return all(content_hash(a[name]) == content_hash(b[name]) for name in a)
