"""Reader for Stable-Baselines3's ``.zip``, written by ``model.save``.

    data                         JSON: the agent's attributes. A value that JSON cannot express is an object
                                 {":type:": …, ":serialized:": base64 of a pickle by cloudpickle, …}
    policy.pth                   torch.save of the policy's state_dict: the model policy.optimizer.pth …       the state
    of each optimizer (also actor.optimizer, critic.optimizer, ent_coef_optimizer) pytorch_variables.pth
    torch.save of further tensors, such as SAC's log_ent_coef; None if there are none _stable_baselines3_version   text,
    like system_info.txt

Entries are not compressed, so tensors are read in place. Tensors in the other files are extras, under the file's name.
`data` becomes metadata as it is in JSON, with the pickles in it as text. These pickles are interpreted all the same,
because the library's ``load`` unpickles each: what they call and name is reported.

Source: stable_baselines3/common/save_util.py (`save_to_zip_file`, `data_to_json`, `json_to_data`), base_class.py.
"""

from __future__ import annotations

from base64 import b64decode
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ckptconv.core import strict_json
from ckptconv.core.metadata import Opaque, opaque_wholes
from ckptconv.core.notes import Notes, Program
from ckptconv.errors import COPY_AGAIN, CkptconvError, UnsupportedError
from ckptconv.formats.beside.members import EXTRAS, METADATA, MODEL, contained, documents
from ckptconv.formats.torch.containers.pickled import follow
from ckptconv.formats.torch.containers.saved import Saved, saved_in
from ckptconv.formats.torch.pickle import Budget
from ckptconv.formats.torch.tree.assemble import assemble
from ckptconv.formats.torch.tree.build import build_tree, build_tree_around
from ckptconv.formats.torch.tree.names import merge_uses, with_names
from ckptconv.formats.torch.tree.placing import Places
from ckptconv.io.archive import Archive
from ckptconv.io.zip import ZipArchive

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.io.source import Source

NAME = "stable-baselines3"
DATA, POLICY, VERSION = "data", "policy.pth", "_stable_baselines3_version"
_SUFFIX = ".pth"
_SERIALIZED, _LOADS = ":serialized:", "cloudpickle.loads"

MAX_DATA = 64 << 20
"""Bytes of the agent's attributes, which include the last observations, and whatever users add."""

MAX_VERSION = 256


def claims(source: Source) -> bool:
    """Whether this is a zip archive with a policy and the library's version or data; or with data alone that has
    pickles, which the library loads before it looks for the policy.
    """
    try:
        archive = ZipArchive.of(source)
        if POLICY in archive.entries:
            return VERSION in archive.entries or DATA in archive.entries
        return DATA in archive.entries and _has_pickles(archive.read(DATA, MAX_DATA))
    except CkptconvError:
        return False


def _has_pickles(data: bytes) -> bool:
    """Whether the data has values that the library would unpickle, and true for JSON that only laxer parsers accept."""
    try:
        document = strict_json.loads(data)
    except (ValueError, RecursionError):
        return data.lstrip()[:1] == b"{"
    if not isinstance(document, dict):
        return False
    return any(isinstance(value, dict) and _SERIALIZED in value for value in document.values())


def read(source: Source) -> Checkpoint:
    """Open the archive. Reads its directory, its texts, and the pickles in its files and its data, but no tensor byte.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError (a tensor of the model depends on a call), with
    the member's name.
    """
    archive = Archive.of(source)
    if POLICY not in archive.members:
        raise UnsupportedError(f"the archive has no {POLICY!r}", hint="name a file in it")
    files = {path: saved_in(archive.open(path)) for path in archive.members if path.endswith(_SUFFIX)}
    data = _data(archive)
    texts = documents(archive, files)
    if VERSION in archive.members:
        texts[VERSION] = archive.text(VERSION, MAX_VERSION).decode("utf-8", "replace")
    notes, programs = _run_pickles(data, Notes())
    inner = _assemble_files(files, {DATA: data} if data else {}, source)
    inner.notes = replace(inner.notes, globals=merge_uses((*inner.notes.globals, *notes.globals)))
    uses = {**dict.fromkeys(files, EXTRAS), POLICY: MODEL, **({DATA: METADATA} if data else {})}
    return contained(inner, archive, NAME, uses, texts, programs)


def _assemble_files(files: Mapping[str, Saved], metadata: Mapping[Value, Value], source: Source) -> Checkpoint:
    """A checkpoint with the policy's tensors as the model's, those of the other files as extras."""
    policy = files[POLICY].value
    if not isinstance(policy, OrderedDict) and type(policy) is not dict:
        raise UnsupportedError(f"{POLICY!r} holds no state_dict", hint=f"name it: {source.path / POLICY}")
    places, budget = Places(), Budget(sum(saved.size for saved in files.values()) + MAX_DATA)
    for saved in files.values():
        places.add(saved.storages, saved.placer.place)
    others = {path.removesuffix(_SUFFIX): saved.value for path, saved in files.items() if path != POLICY}
    tensors = policy if isinstance(policy, OrderedDict) else OrderedDict(policy)
    tree = build_tree_around(tensors, {**others, **metadata}, budget)
    machines = [saved.machine for saved in files.values()]
    return assemble(tree, places.place, budget, format=NAME, machines=machines, file=source)


def _data(archive: Archive) -> dict[str, Any]:
    """The agent's attributes, as they are in JSON; {} if there is no such file.

    Raises CorruptFileError, LimitError.
    """
    if DATA not in archive.members:
        return {}
    document = strict_json.object_of(archive.text(DATA, MAX_DATA), repr(DATA), hint=COPY_AGAIN)
    strict_json.check_depth(document, repr(DATA))
    return document


def _run_pickles(data: Mapping[str, Any], notes: Notes) -> tuple[Notes, tuple[Program, ...]]:
    """Interpret the pickles in the agent's attributes: what unpickling them would name, make and call."""
    programs: list[Program] = []
    for key, value in data.items():
        serialized = value.get(_SERIALIZED) if isinstance(value, dict) else None
        if serialized is None:
            continue
        try:
            pickled = b64decode(serialized)
            unpickled, machine, constructors = follow(pickled)
            budget = Budget(len(pickled))
            tree = build_tree(unpickled, budget)
            before = len(notes.unseen)
            notes = with_names(notes, machine, tree, budget, constructors.answered.__contains__)
        except (ValueError, TypeError, CkptconvError) as error:
            why = error.message if isinstance(error, CkptconvError) else "no base64"
            programs.append(Program(f"{DATA}: {key}", Opaque(_LOADS, "called", (f"cannot be followed: {why}",)), NAME))
            continue
        result = [node for _, node in opaque_wholes(tree.root)] + list(notes.unseen[before:])
        programs += [Program(f"{DATA}: {key}", node, NAME) for node in result]
    return notes, tuple(programs)
