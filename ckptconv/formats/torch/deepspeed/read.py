"""Reader of DeepSpeed's folders: the pickles of all files, and tensors that lie in the ranks' flat ones.

The model's tensors are the fp32 weights of the optimizer, under the names and in the order of the module's state_dict;
its buffers, and parameters that the optimizer has not, are as the module has them (in stage 3 as rank 0 has them). The
16-bit weights, which are these rounded, are left out. What the files of the other ranks say differently from rank 0's
is kept under the file's name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptconv.core.report import Finding
from ckptconv.errors import COPY_ALL_AGAIN, CorruptFileError, located
from ckptconv.formats.torch.deepspeed.files import files_of, tag_folder
from ckptconv.formats.torch.deepspeed.ranks import Ranks
from ckptconv.formats.torch.deepspeed.reading import Reading, state_dict
from ckptconv.formats.torch.deepspeed.states import ModelStates, model_states, optimizer_states
from ckptconv.formats.torch.deepspeed.universal import Universal
from ckptconv.formats.torch.tree.roots import put

if TYPE_CHECKING:
    from ckptconv.core.checkpoint import Checkpoint
    from ckptconv.formats.torch.pickle import Value
    from ckptconv.io.folder import Folder


def read(folder: Folder) -> Checkpoint:
    """Open the checkpoint of this tag, or that which ``latest`` names: every file's pickle; no byte of a tensor.

    Raises CorruptFileError, LimitError, UnsupportedError, UnsafeError, UsageError, which name the file.
    """
    found = tag_folder(folder)
    with located(found.path):
        return _read(folder, found)


def _read(outer: Folder, folder: Folder) -> Checkpoint:
    reading, files = Reading(outer), files_of(folder)
    models = [model_states(reading.open(folder, name)) for name in files.model]
    for model in models[1:]:
        model.module.clear()  # the first rank's counts, and there may be a thousand of others
    if files.universal:
        tensors, beside = Universal(reading, models, folder).join()
    elif files.optimizer:
        ranks = [optimizer_states(reading.open(folder, name)) for name in files.optimizer]
        tensors, beside = Ranks(reading, models, ranks).join()
    else:
        tensors, beside = _whole(reading, models[0])
    return reading.finish(state_dict(models[0].module, tensors), beside)


def _whole(reading: Reading, model: ModelStates) -> tuple[dict[str, Value], dict[Value, Value]]:
    """A checkpoint without optimizer states: the module has the weights. Raises CorruptFileError where it has not."""
    if model.divided:
        raise CorruptFileError(
            "the weights of stage 3 are in the ranks' optim_states files, and there are none",
            path=model.file.folder.path, hint=COPY_ALL_AGAIN,
        )  # fmt: skip
    if model.shapes:
        message = "there are no optim_states, which have the fp32 weights: these are the module's own"
        reading.findings.append(Finding("no-optim-states", "warning", "", message))
    beside: dict[Value, Value] = {}
    put(beside, model.rest)
    return dict(model.module), beside
