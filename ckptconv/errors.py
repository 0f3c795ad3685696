"""Every exception that ckptconv raises on purpose.

    CkptconvError                 what is wrong, the file, a hint
    ├── UsageError                the request makes no sense (an option, a name)
    │   ├── NoTensorError         the checkpoint has no tensor of that name; also a KeyError
    │   ├── ForeignNamesError     nothing says which architecture; the names are another framework's
    │   └── UnknownClassError     a config.json names a class that the library lacks, or cannot compute
    ├── FileAccessError           the operating system refused (missing, unreadable, full disk)
    │   ├── TargetExistsError     the target exists, and replacing it was not asked for
    │   └── SourceChangedError    the source was written to while it was being read
    ├── UnknownFormatError        no format claims these bytes
    ├── UnsupportedError          recognized, and refused by name
    ├── CorruptFileError          the bytes contradict their own format
    │   ├── DamagedTensorError    a tensor's bytes fail their recorded checksum
    │   └── LimitError            a number in the file is beyond what any honest file needs
    │       └── StepsError        an architecture takes too many steps to work out
    ├── MemoryLimitError          the machine does not have enough memory for this file
    ├── UnsafeError               going on would mean running code from the file
    ├── LossError                 the target cannot hold all of the source, and nobody agreed to that
    ├── EditError                 an edit cannot be made: what it names is missing, or occurs twice
    ├── MisfitError               the checkpoint does not fit its architecture
    ├── TemplateError             the checkpoint's tensors and those of a template's graph do not correspond
    ├── RunError                  a network does not load or run
    ├── NotEquivalentError        the target would not compute what the source does, and was discarded
    ├── RejectedOutputError       the format's reference reader refused what was written
    ├── PluginError               an installed plug-in does not load
    └── MissingExtraError         an optional package is needed and missing

``str(error)`` is one line: the file, as in OSError, and the message. ``error.message`` is the message alone,
``error.path`` the file, ``error.hint`` what to do about it, and ``error.details`` the lines between message and hint
(such as a list of losses, or of colliding names). A traceback shows details and hint as notes. Every error can be
pickled, so that it can be raised in another process.
"""

from __future__ import annotations

from os import fspath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike

    from ckptconv.core.report import Finding


COPY_AGAIN = "copy the file again from its source"
"""The hint for a damaged file, if nothing suggests an attack."""

COPY_ALL_AGAIN = "copy the checkpoint again from its source, with all of its files"
"""The same for one of several files."""

COPY_ARCHIVE_AGAIN = "copy the archive again from its source"
"""The same for a file in an archive."""

CUT_SHORT = "the file is cut short: copy it again from its source"
"""The same for a file that ends before the contents that it declares."""

LIST_NAMES = "ckptconv inspect --list shows the names"
"""The hint for a name that no tensor has."""

UPGRADE = "pip install --upgrade ckptconv"
"""The hint for a file that a later version may read."""


def first_of(lines: Sequence[str], most: int = 20) -> list[str]:
    """The first `most` lines for an error's details, and a line that says how many more there are."""
    more = [f"… and {len(lines) - most:,} more"] if len(lines) > most else []
    return [*lines[:most], *more]


class CkptconvError(Exception):
    """Base of every error that ckptconv raises on purpose.

    code:       a short name for the kind of error, as JSON documents have it.
    usual_hint: the hint of this kind of error, unless another is given.
    """

    code = "error"
    usual_hint: str | None = None

    def __init__(
        self,
        message: str,
        *,
        path: str | PathLike[str] | None = None,
        hint: str | None = None,
        details: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.hint = self.usual_hint if hint is None else hint
        self.details = tuple(details)
        self._notes: list[str] = []

    def __str__(self) -> str:
        return self.message if self.path is None else f"{fspath(self.path)}: {self.message}"

    def __reduce__(self) -> tuple[Callable[..., CkptconvError], tuple[type[CkptconvError], str], dict[str, Any]]:
        # subclasses take other arguments than a message, so that the default would call them wrongly
        return _unpickled, (type(self), self.message), self.__dict__

    def add_note(self, note: str) -> None:
        """Add a line for the traceback, as for any exception."""
        self._notes.append(note)

    @property
    def __notes__(self) -> list[str]:
        """The lines that a traceback shows below the error."""
        hint = [f"hint: {self.hint}"] if self.hint else []
        return [*(f"  {line}" for line in self.details), *hint, *self._notes]

    @__notes__.setter
    def __notes__(self, notes: list[str]) -> None:
        self._notes = notes

    def at(self, path: str | PathLike[str]) -> CkptconvError:
        """Set the file, unless the error has one already. Returns the error itself."""
        if self.path is None:
            self.path = path
        return self


class located:
    """A context manager: sets `path` as the file of every CkptconvError that leaves it without one."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, CkptconvError):
            error.at(self.path)


def _unpickled(kind: type[CkptconvError], message: str) -> CkptconvError:
    """Create an error without calling ``__init__``; pickle then restores its attributes."""
    return kind.__new__(kind, message)


class UsageError(CkptconvError):
    """The request makes no sense, whatever the file holds."""

    code = "usage"


class NoTensorError(UsageError, KeyError):
    """A checkpoint has no tensor of that name."""


class ForeignNamesError(UsageError):
    """Nothing says which architecture it is. Its names are another framework's, and can be translated."""


class UnknownClassError(UsageError):
    """A config.json names a class that the library of architectures lacks, or whose computation it does not know.

    name:    the class.
    by:      the package that defines it, "transformers" or "diffusers".
    nearest: a similar spec; "" if there is none.
    """

    def __init__(
        self,
        message: str,
        *,
        name: str = "",
        by: str = "transformers",
        nearest: str = "",
        path: str | PathLike[str] | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, path=path, hint=hint)
        self.name = name
        self.by = by
        self.nearest = nearest


class FileAccessError(CkptconvError):
    """The operating system refused, or the path is not a file."""

    code = "file-access"


class TargetExistsError(FileAccessError):
    """The target already exists, and replacing it was not asked for."""

    code = "target-exists"


class SourceChangedError(FileAccessError):
    """The source was written to, or truncated, while it was being read."""

    code = "source-changed"


class UnknownFormatError(CkptconvError):
    """No format claims these bytes."""

    code = "unknown-format"


class UnsupportedError(CkptconvError):
    """The file is recognized, and something in it is not supported."""

    code = "unsupported"


class CorruptFileError(CkptconvError):
    """The bytes contradict their own format."""

    code = "corrupt"
    usual_hint = COPY_AGAIN


class DamagedTensorError(CorruptFileError):
    """A tensor's bytes do not match the checksum that its container recorded."""

    code = "damaged-tensor"

    def __init__(self, name: str, *, path: str | PathLike[str] | None = None) -> None:
        super().__init__(f"tensor {name!r} is damaged: its bytes fail their recorded checksum", path=path)
        self.name = name


class LimitError(CorruptFileError):
    """A number in the file exceeds what any honest file needs."""

    code = "limit"
    usual_hint = "do not trust it"


class StepsError(LimitError):
    """Working out an architecture takes more steps than any honest spec needs for any honest checkpoint."""


class MemoryLimitError(CkptconvError):
    """The machine does not have enough memory for this file."""

    code = "memory"


class UnsafeError(CkptconvError):
    """Going on would mean making a call that the file asks for."""

    code = "would-run-code"


class LossError(CkptconvError):
    """The target cannot give back all of the source. `told`: the losses, summed up for people."""

    code = "loss"

    def __init__(
        self, losses: Sequence[Finding], *, path: str | PathLike[str] | None = None, hint: str | None = None,
        told: Sequence[Finding] | None = None,
    ) -> None:  # fmt: skip
        count = len(losses)
        super().__init__(
            f"the target cannot hold everything: {count} loss{'es' if count != 1 else ''}, none agreed to",
            path=path,
            hint=hint,
            details=first_of([f"{loss.code}: {loss.message}" for loss in (losses if told is None else told)]),
        )
        self.losses = tuple(losses)


class EditError(CkptconvError):
    """An edit cannot be made: what it names is missing, or occurs twice."""

    code = "edit"


class MisfitError(CkptconvError):
    """The checkpoint does not fit the architecture that it claims to have."""

    code = "misfit"

    def __init__(
        self, arch: str, findings: Sequence[Finding], *, path: str | PathLike[str], hint: str | None = None
    ) -> None:
        errors = [finding for finding in findings if finding.severity == "error"]
        details = first_of([f"{finding.code}: {finding.message}" for finding in errors])
        count = f"{len(errors):,} error{'s' if len(errors) != 1 else ''}"
        super().__init__(f"it does not fit {arch}: {count}", path=path, hint=hint, details=details)
        self.findings = tuple(findings)


class TemplateError(CkptconvError):
    """The checkpoint's tensors and a template's do not correspond."""

    code = "template"

    def __init__(self, problems: Sequence[str]) -> None:
        count = len(problems)
        super().__init__(
            f"{count:,} tensor{'s do' if count != 1 else ' does'} not fit the template's graph",
            hint="ckptconv diff CHECKPOINT TEMPLATE explains what differs", details=first_of(problems),
        )  # fmt: skip


class RunError(CkptconvError):
    """A network does not load or run."""

    code = "run"

    def __init__(self, label: str, cause: BaseException, *, lacks: str = "", hint: str = "") -> None:
        """lacks: what the runtime lacks, such as an operator, if that is the cause."""
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        reason = lacks or (lines[-1] if lines else type(cause).__name__)
        hint = hint or "check --arch and --input; --debug shows where it fails"
        if lacks:
            hint = "another --device, a newer onnxruntime, or a graph of another type (--dtype F32)"
        super().__init__(f"{label} does not run: {reason[:300]}", hint=hint)


class NotEquivalentError(CkptconvError):
    """The new file would not compute what its source does. It was discarded; the target is as it was.

    result: the `Conversion` that `convert` would have returned, with its verification.
    """

    code = "not-equivalent"

    def __init__(self, result: object, *, path: str | PathLike[str], details: Sequence[str]) -> None:
        super().__init__(
            "the target would not compute what the source does, and was not written", path=path, details=details,
            hint="ckptconv verify says more of two files; without --verify this one is written all the same",
        )  # fmt: skip
        self.result = result


class RejectedOutputError(CkptconvError):
    """The format's own reference reader refused what was written. The target is as it was."""

    code = "rejected-output"
    usual_hint = "please report this with the file"


class PluginError(CkptconvError):
    """An installed plug-in does not load."""

    code = "plugin"


class MissingExtraError(CkptconvError):
    """An optional package is needed and missing."""

    code = "missing-extra"

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(
            f"this needs the package {package!r}, which is not installed", hint=f"pip install 'ckptconv[{extra}]'"
        )
        self.package = package
        self.extra = extra
