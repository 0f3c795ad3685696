"""A file to run, and what runs it: a graph in onnxruntime, a network in torch."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from ckptconv.api.editing.originals import as_floats
from ckptconv.api.evidence import config_beside, gather_evidence
from ckptconv.api.fitting.naming import restore_names_from_architecture
from ckptconv.api.fitting.network_form import NetworkForm, in_network_form
from ckptconv.api.fitting.program import program_of
from ckptconv.api.open import open
from ckptconv.api.running.feeds import recipe_input
from ckptconv.api.running.memory import Memory, Needs
from ckptconv.arch.factory import built_module, is_reference
from ckptconv.arch.huggingface import as_held, is_config, refuse_quantized
from ckptconv.arch.samples import shown_inputs
from ckptconv.checks.onnx_runner import OnnxRunner
from ckptconv.checks.torch_runner import TorchRunner, float_types, load_weights
from ckptconv.checks.verify import Weight
from ckptconv.core.report import Finding
from ckptconv.errors import CkptconvError, UnknownClassError

if TYPE_CHECKING:
    from collections.abc import Sequence

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
    """What to run.

    request:  the file's path, and what the caller said about its architecture.
    tensors:  a checkpoint to run instead of the file's own, such as one that is about to be written. A graph is always
              the file's own.
    evidence: the checkpoint whose metadata and names tell the architecture; None: the one that runs.
    """

    request: Request
    device: str = "cpu"
    tensors: Checkpoint | None = None
    evidence: Checkpoint | None = None


class Side:
    """One open file, and what runs it. `stack` closes it."""

    def __init__(
        self, subject: Subject, stack: ExitStack, memory: Memory | None = None, progress: Progress | None = None
    ) -> None:
        """Open the file; no network is loaded yet.

        memory:   shared with the side that this one is compared with.
        progress: of inflating the file, if it has to be inflated first.
        """
        self.request, self.device = subject.request, subject.device
        self.path = self.request.path
        self.findings: list[Finding] = []
        self.checkpoint = as_floats(self._open(subject, stack, progress))
        self.evidence = subject.evidence or self.checkpoint
        self._memory = memory or Memory()
        self._runner: Runner | None = None
        self._python = ExitStack()
        stack.callback(self.release)

    def _open(self, subject: Subject, stack: ExitStack, progress: Progress | None) -> Checkpoint:
        if subject.tensors is not None:
            self.is_graph = subject.tensors.format == "onnx"
            self._switch_to_installed_class(subject.evidence or subject.tensors)
            return subject.tensors
        opened = stack.enter_context(open(self.path, format=self.request.read_as, progress=progress))
        self.is_graph = opened.format == "onnx"
        return restore_names_from_architecture(self._in_network_form(opened), self.request)

    def _in_network_form(self, opened: Checkpoint) -> Checkpoint:
        """The checkpoint with the tensors that the network holds; a graph holds its own."""
        form = NetworkForm(opened) if self.is_graph else in_network_form(self.request, opened)
        if self._switch_to_installed_class(form.checkpoint):
            return self._in_network_form(opened)  # the class may need other conversions
        self.findings += form.findings
        return form.checkpoint

    def _switch_to_installed_class(self, checkpoint: Checkpoint) -> bool:
        """If only a config.json's class says what is computed, make that class the architecture. Returns whether."""
        if self.request.arch is not None or self.is_graph or not config_beside(self.path).is_file():
            return False
        try:
            program_of(self.request, checkpoint)
        except UnknownClassError as error:
            from ckptconv.api.fitting.installed import request_for_installed_class

            self.request, finding = request_for_installed_class(self.request, error, checkpoint)
            self.findings.append(finding)
            return True
        except CkptconvError:  # raised again when the network is loaded
            pass
        return False

    @property
    def runner(self) -> Runner:
        """What runs the file, with its network in memory.

        Raises UsageError if nothing says what is computed, RunError if the network does not load.
        """
        if self._runner is None:
            self._memory.give_to(self)
            self._needs.check_network()
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
        """Load the network. Raises as `runner` does."""
        _ = self.runner.unit

    def release(self) -> None:
        """Release the network."""
        self._runner = None
        self._python.close()

    @cached_property
    def inputs(self) -> Sequence[InputSpec]:
        """The inputs of the network, which is loaded for this unless it is a recipe. Raises as `runner` does."""
        if self.is_graph or self._reference:
            return list(self.runner.inputs)
        from ckptconv.arch.recipe.module import build_module

        return [recipe_input(self._program, build_module(self._program, device="meta"))]

    @cached_property
    def _reference(self) -> str:
        """The Python reference or the config.json that defines the module; "" for a recipe."""
        arch = self.request.arch
        return arch if arch is not None and is_reference(arch) else ""

    @cached_property
    def _program(self) -> Program:
        """The recipe's program. Reports the params that are assumed."""
        result, program = program_of(self.request, self.evidence)
        for name in result.assumed:
            if name in program.params:
                message = f"{name} = {result.params[name]} is assumed: nothing in the file says it"
                self.findings.append(Finding("assumed", "info", name, message, hint=f"--set {name}=VALUE"))
        return program

    @property
    def _needs(self) -> Needs:
        return Needs.of(self.path, self.checkpoint, graph=self.is_graph)

    def _module(self) -> torch.nn.Module:
        """A torch module on the CPU with the weights as F32, or as F64 if all of them are."""
        import torch

        arch, label = self._reference, self.path.name
        if arch:
            statements = gather_evidence(self.evidence, self.path).statements
            module, _ = self._python.enter_context(built_module(arch, statements, self.request.settings, device="cpu"))
            to_held_form = None
            if is_config(arch):
                refuse_quantized(arch, module, self.checkpoint.keys())
                to_held_form = as_held
            hint = f"{self.request.validate_command()} says what does not fit"
            module = load_weights(module, self.checkpoint, label, "cpu", to_held_form, hint=hint)
        else:
            from ckptconv.arch.recipe.module import build_module

            module = load_weights(build_module(self._program, device="meta"), self.checkpoint, label, "cpu")
        dtypes = float_types(module)
        return module.to(torch.float64 if list(dtypes) == [torch.float64] else torch.float32)

    def reference(self) -> torch.nn.Module | None:
        """A module on the CPU for the run in float64, which may change it, so that `runner` loads another one.

        None if nothing says what a graph computes.
        """
        if isinstance(runner := self.runner, TorchRunner):
            self._needs.check_reference(loaded=self.device == "cpu")
            self._runner = None
            return runner.module.cpu()
        self._memory.give_to(self)
        try:
            if not self._reference:
                _ = self._program
        except CkptconvError:
            return None
        self._needs.check_reference(loaded=False)
        try:
            return self._module()
        except CkptconvError:
            return None

    def trace(self, feeds: Arrays) -> Layers:
        """The output of every layer. Raises RunError."""
        if self.is_graph:
            self.release()  # tracing runs a copy of the graph
        return self.runner.trace(feeds)

    def weights(self) -> dict[str, Weight]:
        """The type, shape and content hash of each tensor. Reads all tensors, tied ones once."""
        from ckptconv.io.digest import content_hash

        hashes: dict[object, str] = {}
        weights: dict[str, Weight] = {}
        for name, tensor in self.checkpoint.items():
            key = tensor.identity(name)
            if key not in hashes:
                hashes[key] = content_hash(tensor)
            weights[name] = Weight(tensor.info.dtype.name, tensor.info.shape, hashes[key])
        return weights
