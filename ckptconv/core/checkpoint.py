"""A checkpoint: the model's tensors by name, and everything else that the file says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypedDict

from ckptconv.core.metadata import MetaNode, StateDict, TensorRef, nodes_of, walk, without_model
from ckptconv.core.notes import Notes
from ckptconv.errors import NoTensorError, UsageError

if TYPE_CHECKING:
    from collections.abc import Container, Hashable, Iterable, Iterator
    from pathlib import Path
    from typing import Unpack

    import torch

    from ckptconv.core.composite import Composite
    from ckptconv.core.report import Finding
    from ckptconv.core.tensor import LazyTensor


class OpenFile(Protocol):
    """The file that a checkpoint's tensors are read from, as far as `core` has to know it."""

    @property
    def path(self) -> Path:
        """The file, or the folder that holds the files."""

    @property
    def size(self) -> int:
        """Bytes, of all files if there are several."""

    def close(self) -> None: ...

    def check_unchanged(self) -> None: ...


MAX_COMPARED_NAMES = 5000
"""The most names to compare a mistyped one with, which takes some 0.1 s."""

MetaDict = dict["Hashable", MetaNode]
"""Metadata by top-level key: nearly always strings; positions if the file's root was a list or a tuple."""


class _Parts(TypedDict, total=False):
    """What a `Checkpoint` consists of."""

    tensors: Mapping[str, LazyTensor]
    extras: Mapping[str, LazyTensor]
    composites: Mapping[str, Composite]
    root: MetaNode
    format: str
    notes: Notes
    findings: tuple[Finding, ...]
    file: OpenFile | None


class Checkpoint(Mapping[str, "LazyTensor"]):
    """The model's own tensors, under the state_dict's names and in its order. A context manager.

    extras:     tensors outside the state_dict (such as an optimizer's), named by their path.
    composites: quantized and sparse tensors by name; their parts are in the mapping and the extras. If such a tensor
                stands alone in the tree, its `TensorRef` names its values.
    root:       the whole file as a metadata tree, in which `StateDict` stands for the model's tensors, and `TensorRef`
                for single ones. `metadata` is this tree without the model's tensors.
    format:     the reader's name.
    findings:   what the reader noticed without refusing the file.
    """

    def __init__(
        self,
        tensors: Mapping[str, LazyTensor],
        *,
        extras: Mapping[str, LazyTensor] | None = None,
        composites: Mapping[str, Composite] | None = None,
        root: MetaNode = StateDict(),  # noqa: B008 (frozen)
        format: str = "",
        notes: Notes = Notes(),  # noqa: B008 (frozen)
        findings: tuple[Finding, ...] = (),
        file: OpenFile | None = None,
    ) -> None:
        self._tensors = dict(tensors)
        self.extras: dict[str, LazyTensor] = dict(extras or {})
        self.composites: dict[str, Composite] = dict(composites or {})
        self.root = root
        self.format = format
        self.notes = notes
        self.findings = findings
        self._file = file

    def __getitem__(self, name: str) -> LazyTensor:
        try:
            return self._tensors[name]
        except KeyError:
            hint = f"it is outside of the model: checkpoint.extras[{name!r}]" if name in self.extras else ""
            raise no_tensor(name, self._tensors, hint=hint, otherwise="list(checkpoint) has the names") from None

    def __contains__(self, name: object) -> bool:  # Mapping's would search for similar names each time
        return name in self._tensors

    if not TYPE_CHECKING:  # type checkers should see Mapping's signature

        def get(self, name, default=None):
            return self._tensors.get(name, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def _ipython_key_completions_(self) -> list[str]:
        """The names, for tab completion in IPython and notebooks."""
        return list(self._tensors)

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; tensors can no longer be read. Closing twice is harmless."""
        if self._file is not None:
            self._file.close()

    @property
    def file(self) -> OpenFile | None:
        """The open file that its tensors are read from, if there is one to close."""
        return self._file

    @property
    def path(self) -> Path | None:
        """Its file or folder; None if it was made in memory."""
        return None if self._file is None else self._file.path

    def check_unchanged(self) -> None:
        """Raise SourceChangedError if the file was written to since it was opened."""
        if self._file is not None:
            self._file.check_unchanged()

    def __repr__(self) -> str:
        return f"<Checkpoint {self.format}: {len(self)} tensors, {len(self.extras)} extras>"

    @cached_property
    def all_tensors(self) -> dict[str, LazyTensor]:
        """The model's tensors, then the extras; no name is in both."""
        return {**self._tensors, **self.extras}

    @property
    def metadata(self) -> MetaDict:
        """Everything that is neither a tensor of the model nor bookkeeping, by top-level key."""
        match without_model(self.root, self._tensors.keys()):
            case dict() as entries:
                return dict(entries)
            case list() | tuple() as entries:
                return dict(enumerate(entries))
            case _:
                return {}

    @cached_property
    def ties(self) -> list[list[str]]:
        """Groups of two or more names that share one tensor, in the order of their first names."""
        groups: dict[Hashable, list[str]] = {}
        for name, tensor in self.all_tensors.items():
            if tensor.alias is not None:
                groups.setdefault(tensor.alias, []).append(name)
        return [names for names in groups.values() if len(names) > 1]

    @cached_property
    def tied_to(self) -> dict[str, str]:
        """Every tied name except the first of its group, with that first name."""
        return {name: names[0] for names in self.ties for name in names[1:]}

    def composites_of(self, tensors: Container[str]) -> dict[str, Composite]:
        """The composites whose parts are all among `tensors`."""
        return {
            name: composite
            for name, composite in self.composites.items()
            if all(part in tensors for part in composite.parts.values())
        }

    def whole(self, name: str, device: str | torch.device = "cpu") -> torch.Tensor:
        """A tensor in torch, which may be a whole quantized or sparse one. Reads it.

        Raises KeyError, CorruptFileError for indices out of range, and what `to_torch` raises.
        """
        from ckptconv.core.whole import composite_to_torch

        if name not in self.composites:
            return self.all_tensors[name].to_torch(device)
        return composite_to_torch(name, self.composites[name], self.all_tensors, device)

    def to_torch(self, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
        """The model's tensors on `device`, as ``load_state_dict`` accepts them; tied names share one tensor.

        For a GPU, the file is read while the part before is being copied (`core.device`). Raises MissingExtraError
        without torch, UsageError if that device is not there, UnsupportedError for element types that torch lacks.
        """
        from ckptconv.core.composite import VALUES
        from ckptconv.core.device import load_tensors

        composites = self.composites_of(self._tensors)
        parts = {part for composite in composites.values() for part in composite.parts.values()}
        plain = {name: tensor for name, tensor in self._tensors.items() if name not in parts}
        loaded = dict(zip(plain, load_tensors(plain.values(), device), strict=True))
        # a composite takes the place of its values; its other parts are left out
        composite_by_values = {composite.parts[VALUES]: name for name, composite in composites.items()}
        result = {}
        for name in self._tensors:
            if name in composite_by_values:
                whole_name = composite_by_values[name]
                result[whole_name] = self.whole(whole_name, device)
            elif name not in parts:
                result[name] = loaded[name]
        return result

    def replaced(self, **parts: Unpack[_Parts]) -> Checkpoint:
        """A copy on the same open file with some parts replaced, like `dataclasses.replace`."""
        all_parts: _Parts = {
            "tensors": self._tensors, "extras": self.extras, "composites": self.composites, "root": self.root,
            "format": self.format, "notes": self.notes, "findings": self.findings, "file": self._file,
        }  # fmt: skip
        all_parts.update(parts)
        return Checkpoint(**all_parts)

    def with_tensors(self, tensors: Mapping[str, LazyTensor], findings: Iterable[Finding]) -> Checkpoint:
        """A copy with other tensors for the model, and other findings."""
        return self.replaced(
            tensors=tensors, composites=self.composites_of({**tensors, **self.extras}),
            notes=replace(self.notes, digest=None), findings=tuple(findings),
        )  # fmt: skip

    def bare(self) -> Checkpoint:
        """A copy with only the model's tensors: no metadata, no extras. Module versions stay with their state_dict."""
        state_dicts = list(nodes_of(self.root, StateDict))
        state_dict = state_dicts[0] if len(state_dicts) == 1 else StateDict()
        notes = replace(
            self.notes.only(self._tensors),
            attributes={},
            globals=(),
            unseen=(),
            programs=(),
            digest=None,
            types={},
            members=(),
        )
        root = StateDict(container=state_dict.container, versions=state_dict.versions)
        return self.replaced(extras={}, composites=self.composites_of(self._tensors), root=root, notes=notes)

    def with_metadata(self, values: Mapping[str, MetaNode]) -> Checkpoint:
        """A copy with top-level metadata keys set; a bare state_dict becomes one with metadata around it.

        Raises UsageError for a key that holds tensors.
        """
        if not values:
            return self
        match self.root:
            case dict() as root:
                changed, taken = root.copy(), {key for key, node in root.items() if _holds_tensors(node)}
            case StateDict() | TensorRef():
                changed, taken = {"state_dict": self.root}, {"state_dict"}
            case _:
                changed, taken = {"data": self.root}, {"data"}
        for key in values:
            if key in taken:
                raise UsageError(f"the key {key!r} is taken by what the checkpoint holds", hint="give another key")
        if isinstance(self.root, dict):
            changed.update(values)
        else:
            changed = {**values, **changed}
        return self.replaced(root=changed, notes=replace(self.notes, digest=None))


def _holds_tensors(node: MetaNode) -> bool:
    return any(isinstance(part, (StateDict, TensorRef)) for _, part in walk(node))


def no_tensor(name: str, names: Iterable[str], *, hint: str = "", otherwise: str) -> NoTensorError:
    """The error for an unknown tensor name. Without `hint`, it suggests similar ones of `names`, else `otherwise`."""
    if not hint:
        near = sorted((known for known in names if isinstance(name, str) and name and name in known), key=len)[:3]
        near = near or get_close_matches(str(name), list(islice(names, MAX_COMPARED_NAMES)), n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(repr(known) for known in near)}?" if near else otherwise
    return NoTensorError(f"there is no tensor {name!r}", hint=hint)


def wholes(checkpoint: Checkpoint) -> Checkpoint:
    """A copy as a module sees it: quantized and sparse tensors in place of their parts. They have headers only."""
    if not checkpoint.composites:
        return checkpoint
    from ckptconv.core.composite import VALUES, header_only

    composites = checkpoint.composites_of(checkpoint)
    name_by_values = {composite.parts[VALUES]: name for name, composite in composites.items()}
    parts = {part for composite in composites.values() for part in composite.parts.values()}
    tensors: dict[str, LazyTensor] = {}
    for name, tensor in checkpoint.items():
        if name in name_by_values:
            whole_name = name_by_values[name]
            tensors[whole_name] = header_only(composites[whole_name], tensor.alias)
        elif name not in parts:
            tensors[name] = tensor
    return checkpoint.replaced(tensors=tensors, composites={})
