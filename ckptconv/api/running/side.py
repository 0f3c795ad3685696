"""A file that is to be run, and what runs it: a graph in onnxruntime, a network in torch.

A network takes as much memory as its model, and twice that in float64. So one is in memory at a time: where another is
asked for, the one before it is let go of, and loaded again where it is asked for once more.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ckptconv.api.editing.originals import as_floats, as_plain, in_transformers_names
from ckptconv.api.evidence import config_beside, gather_evidence
from ckptconv.api.fitting.naming import restore_names_from_architecture
from ckptconv.api.fitting.program import program_of
from ckptconv.api.open import open
from ckptconv.api.running.feeds import recipe_input
from ckptconv.arch.factory import is_reference, made
from ckptconv.arch.huggingface import as_held, is_config, refuse_quantized
from ckptconv.arch.load import library_names
from ckptconv.arch.samples import shown_inputs
from ckptconv.checks.onnx_runner import OnnxRunner
from ckptconv.checks.torch_runner import TorchRunner, float_types, load_weights
from ckptconv.checks.verify import Weight
from ckptconv.core.memory import give_back_freed_memory
from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError, UnknownClassError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from ckptconv.api.request import Request
    from ckptconv.arch.recipe.program import Program
    from ckptconv.arch.samples import InputSpec
    from ckptconv.checks.layers import Layers
    from ckptconv.checks.runners import Runner
    from ckptconv.core.arrays import Arrays
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.core.progress import Progress


@dataclass(frozen=True, slots=True)
class Subject:
    """A file to be run.

    request:  its path, and what was said of its architecture.
    tensors:  what is run in place of what the file holds, and what tells its architecture: a checkpoint that is about
              to be written, say. None: the file's own. A graph is always the file's own.
    evidence: whose metadata and names tell the architecture; None: `tensors`.
    """

    request: Request
    device: str = "cpu"
    tensors: Checkpoint | None = None
    evidence: Checkpoint | None = None


class Memory:
    """Memory for the network of one side."""

    def __init__(self) -> None:
        self._inside: Side | None = None

    def give_to(self, side: Side) -> None:
        """Let go of the network that is in memory: `side` is about to load one."""
        if self._inside is not None:
            self._inside.release()
        self._inside = side
        give_back_freed_memory()


class Side:
    """One file, open, and what runs it. `stack` closes it."""

    def __init__(
        self, subject: Subject, stack: ExitStack, memory: Memory | None = None, progress: Progress | None = None
    ) -> None:
        """Open it; nothing is loaded yet. `memory` is shared with the side that it is compared with. `progress` is told
        of what is inflated first.
        """
        self.request, self.device = subject.request, subject.device
        self.path = self.request.path
        self.findings: list[Finding] = []
        self.checkpoint = as_floats(self._opened(subject, stack, progress))
        self.evidence = subject.evidence or self.checkpoint
        self._memory = memory or Memory()
        self._runner: Runner | None = None
        self._python = ExitStack()
        stack.callback(self.release)

    def _opened(self, subject: Subject, stack: ExitStack, progress: Progress | None) -> Checkpoint:
        if subject.tensors is not None:
            self.is_graph = subject.tensors.format == "onnx"
            self._asks_its_class(subject.evidence or subject.tensors)
            return subject.tensors
        opened = stack.enter_context(open(self.path, format=self.request.read_as, progress=progress))
        self.is_graph = opened.format == "onnx"
        return restore_names_from_architecture(self._read(opened), self.request)

    def _read(self, opened: Checkpoint) -> Checkpoint:
        """The checkpoint as what computes with it has it."""
        made, findings = opened, list[Finding]()
        for reading in self._readings():
            made, told = reading(made, self.path)
            findings += told
        if not self._asks_its_class(made):
            self.findings += findings
            return made
        return self._read(opened)

    def _asks_its_class(self, checkpoint: Checkpoint) -> bool:
        """Ask for the class that a config.json names, where nothing else says what is computed. Whether that is so."""
        if self.request.arch is not None or self.is_graph or not config_beside(self.path).is_file():
            return False
        try:
            program_of(self.request, checkpoint)
        except UnknownClassError as error:
            from ckptconv.api.fitting.installed import request_for_installed_class

            self.request, told = request_for_installed_class(self.request, error, checkpoint)
            self.findings.append(told)
            return True
        except CkptconvError:  # it comes again where it is to be run
            pass
        return False

    def _readings(self) -> tuple[Callable[[Checkpoint, Path], tuple[Checkpoint, list[Finding]]], ...]:
        """As what a file is read that is not stored as what computes with it has it: none where Python says what does,
        or a graph.
        """
        arch = self.request.arch
        if arch is not None and is_config(arch):
            return (in_transformers_names, as_plain)
        is_recipe = arch is None or arch in library_names()
        return (as_plain,) if is_recipe and not self.is_graph else ()

    @property
    def runner(self) -> Runner:
        """What runs it, with its network in memory. Raises UsageError where nothing says what is computed, RunError
        where it does not load.
        """
        if self._runner is None:
            self._memory.give_to(self)
            if self.is_graph:
                self._runner = OnnxRunner(self.path, self.path.name, self.device)
            else:
                module = self._module()
                specs = shown_inputs(module) if self._reference else self.inputs
                self._runner = TorchRunner(self.path.name, module.to(self.device), specs, self.device)
        return self._runner

    @property
    def is_loaded(self) -> bool:
        """Whether its network is in memory."""
        return self._runner is not None

    def load(self) -> None:
        """Load its network, for the errors that this raises: as `runner`."""
        _ = self.runner.unit

    def release(self) -> None:
        """Let go of its network."""
        self._runner = None
        self._python.close()

    @cached_property
    def inputs(self) -> Sequence[InputSpec]:
        """What it takes. Loads the network, but for a recipe's. Raises as `runner`."""
        if self.is_graph or self._reference:
            return list(self.runner.inputs)
        from ckptconv.arch.recipe.module import build_module

        return [recipe_input(self._program, build_module(self._program, device="meta"))]

    @cached_property
    def _reference(self) -> str:
        """The Python or the configuration that a module is made of; "" where it is a recipe."""
        arch = self.request.arch
        return arch if arch is not None and is_reference(arch) else ""

    @cached_property
    def _program(self) -> Program:
        """What a recipe computes."""
        result, run = program_of(self.request, self.evidence)
        for name in result.assumed:
            if name in run.params:
                message = f"{name} = {result.params[name]} is assumed: nothing in the file says it"
                self.findings.append(Finding("assumed", "info", name, message, hint=f"--set {name}=VALUE"))
        return run

    def _module(self) -> torch.nn.Module:
        """A torch module with the weights as F32 (F64 where they are), on the CPU."""
        import torch

        arch, label = self._reference, self.path.name
        if arch:
            module, _ = self._python.enter_context(
                made(arch, gather_evidence(self.evidence, self.path).statements, self.request.settings, device="cpu")
            )
            turned = None
            if is_config(arch):
                refuse_quantized(arch, module, self.checkpoint.keys())
                turned = as_held
            hint = f"{self.request.validate_command()} says what does not fit"
            module = load_weights(module, self.checkpoint, label, "cpu", turned, hint=hint)
        else:
            from ckptconv.arch.recipe.module import build_module

            module = load_weights(build_module(self._program, device="meta"), self.checkpoint, label, "cpu")
        kinds = float_types(module)
        return module.to(torch.float64 if list(kinds) == [torch.float64] else torch.float32)

    def reference(self) -> torch.nn.Module | None:
        """Its module on the CPU, for a run in float64, which may change it: `runner` has another one then. None where
        nothing says what a graph computes.
        """
        if isinstance(runner := self.runner, TorchRunner):
            self._runner = None
            return runner.module.cpu()
        self._memory.give_to(self)
        try:
            return self._module()
        except CkptconvError:
            return None

    def trace(self, feeds: Arrays) -> Layers:
        """What every layer gives. Raises RunError."""
        if self.is_graph:
            self.release()  # a copy of the graph is run
        return self.runner.trace(feeds)

    def weights(self) -> dict[str, Weight]:
        """What tells its tensors apart from another's. Reads all of them, those that are tied once."""
        from ckptconv.io.digest import content_hash

        hashes: dict[object, str] = {}
        found: dict[str, Weight] = {}
        for name, tensor in self.checkpoint.items():
            key = tensor.identity(name)
            if key not in hashes:
                hashes[key] = content_hash(tensor)
            found[name] = Weight(tensor.info.dtype.name, tensor.info.shape, hashes[key])
        return found
