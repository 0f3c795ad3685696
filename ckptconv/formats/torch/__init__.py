"""PyTorch's file formats, read and written without torch.

Begin with `containers.zip_archive`, which reads what torch.save writes. `pickle` interprets a pickle and builds only
data; `values.construct` lists the torch objects that it may build. Each tensor is a stub at first; `tree` finds its
bytes in the end.

    pickle                    an interpreter for pickles
    calls                     what the names and calls in a pickle would do when it is loaded elsewhere
    values                    the torch and numpy objects that a pickle may build
    tree                      from the unpickled object to a checkpoint: the model's tensors, and where their bytes are
    containers                files of pickles and storages: torch.save's archives and older formats, bare pickles
    programs                  TorchScript and torch.export
    others                    joblib's files, Stable-Baselines3's archives, tensordict's folders
    sets                      shards with an index, Llama's slices
    dcp  deepspeed  megatron  folders that several processes wrote
    writer                    the writer
    dtypes                    torch's names for element types

pyproject.toml has a contract that says which of them may import which.
"""

from ckptconv.core.arrays import TORCH_NAMES
from ckptconv.formats.base import Format, Holds

_LEGACY_NUMBER = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."

_STAMPED = tuple((0, b"%02d\x03\x04" % number) for number in range(10))
"""GPT-SoVITS' archives (`ckptconv.io.zip.STAMPED_MAGICS`; formats are listed without importing that)."""

FORMATS = (
    Format(
        name="torch",
        summary="torch.save's zip archive: a bare state_dict, or one with metadata around it",
        suffixes=(".pth", ".pt", ".bin", ".ckpt"),
        magic=((0, b"PK\x03\x04"), (0, b"PK\x05\x06"), *_STAMPED),
        claims="ckptconv.formats.torch.containers.zip_archive:claims",
        reader="ckptconv.formats.torch.containers.zip_archive:read",
        writer="ckptconv.formats.torch.writer.write:write",
        notices="ckptconv.formats.torch.writer.notices:notices",
        holds=Holds(dtypes=tuple(TORCH_NAMES), metadata="typed", extras=True, ties=True, composites=True),
        sharded="torch-sharded",
    ),
    Format(
        name="megatron",
        summary="Megatron-LM's folder: Megatron-Core's .distcp files, or model_optim_rng.pt of each rank",
        suffixes=(),
        claims="ckptconv.formats.torch.megatron.read:claims",
        reader="ckptconv.formats.torch.megatron.read:read",
        takes=("folder",),
    ),
    Format(
        name="torch-dcp",
        summary="torch.distributed.checkpoint's folder: a .metadata that lists the chunks in .distcp files",
        suffixes=(),
        claims="ckptconv.formats.torch.dcp.read:claims",
        reader="ckptconv.formats.torch.dcp.read:read",
        writer="ckptconv.formats.torch.dcp.write:write",
        notices="ckptconv.formats.torch.writer.notices:notices",
        holds=Holds(dtypes=tuple(TORCH_NAMES), metadata="typed", extras=True, ties=True),
        takes=("folder",),
        main=".metadata",
    ),
    Format(
        name="torch-sharded",
        summary="torch.save archives of the parts of a bare state_dict, and their index",
        suffixes=(".bin.index.json", ".pth.index.json", ".pt.index.json", ".ckpt.index.json"),
        magic=((0, b"{"),),
        claims="ckptconv.formats.torch.sets.sharded:claims",
        reader="ckptconv.formats.torch.sets.sharded:read",
        writer="ckptconv.formats.torch.sets.sharded:write",
        layout="ckptconv.formats.torch.sets.sharded:layout",
        holds=Holds(dtypes=tuple(TORCH_NAMES), metadata="record", extras=True, ties=True, opaque=True),
        takes=("file", "folder"),
        main="pytorch_model.bin.index.json",
    ),
    Format(
        name="torch-slices",
        summary="a folder of consolidated.00.pth and so on, as Meta releases Llama: each has a slice of every matrix",
        suffixes=(),
        claims="ckptconv.formats.torch.sets.slices:claims",
        reader="ckptconv.formats.torch.sets.slices:read",
        takes=("folder",),
        dialect="meta",
    ),
    Format(
        name="torch-legacy",
        summary="torch.save before 1.6: stacked pickles, then the storages",
        suffixes=(".pth", ".pt", ".bin", ".ckpt"),
        magic=(*((offset, _LEGACY_NUMBER) for offset in (2, 11)), (0, b"L119547037146038801333356L\n.")),
        claims="ckptconv.formats.torch.containers.legacy:claims",
        reader="ckptconv.formats.torch.containers.legacy:read",
    ),
    Format(
        name="torch-tar",
        summary="torch.save before 0.1.12: a tar archive of pickles and storages",
        suffixes=(".pth", ".pt"),
        magic=((257, b"ustar"),),
        claims="ckptconv.formats.torch.containers.tar:claims",
        reader="ckptconv.formats.torch.containers.tar:read",
    ),
    Format(
        name="torchscript",
        summary="torch.jit.save's zip archive: parameters and buffers, without the code",
        suffixes=(".pt", ".ptl"),
        magic=((0, b"PK\x03\x04"), (0, b"PK\x05\x06")),
        claims="ckptconv.formats.torch.programs.script:claims",
        reader="ckptconv.formats.torch.programs.script:read",
    ),
    Format(
        name="torch-export",
        summary="torch.export's zip archive: weights and constants, without the graph",
        suffixes=(".pt2",),
        magic=((0, b"PK\x03\x04"), (0, b"PK\x05\x06")),
        claims="ckptconv.formats.torch.programs.export:claims",
        reader="ckptconv.formats.torch.programs.export:read",
    ),
)

DEEPSPEED = Format(
    name="deepspeed",
    summary="DeepSpeed's folder: model_states, and each rank's optim_states, of ZeRO stages 0 to 3",
    suffixes=(),
    claims="ckptconv.formats.torch.deepspeed.files:claims",
    reader="ckptconv.formats.torch.deepspeed.read:read",
    takes=("folder",),
)
"""Asked after the formats that claim a folder with whole weights, which a trainer may put beside ``latest``."""

TENSORDICT = Format(
    name="tensordict",
    summary="tensordict's folder, as TensorDict.memmap writes it: a meta.json, and a .memmap file for each tensor",
    suffixes=(),
    claims="ckptconv.formats.torch.others.memmaps:claims",
    reader="ckptconv.formats.torch.others.memmaps:read",
    takes=("folder",),
)

STABLE_BASELINES3 = Format(
    name="stable-baselines3",
    summary="Stable-Baselines3's zip archive: a policy's weights, its optimizers' state, the agent's settings",
    suffixes=(".zip",),
    magic=((0, b"PK\x03\x04"),),
    claims="ckptconv.formats.torch.others.stable_baselines3:claims",
    reader="ckptconv.formats.torch.others.stable_baselines3:read",
)

JOBLIB = Format(
    name="joblib",
    summary="joblib.dump's pickle with arrays between its opcodes, as for scikit-learn models, or a compressed pickle",
    suffixes=(".joblib",),
    claims="ckptconv.formats.torch.others.joblib:claims",
    reader="ckptconv.formats.torch.others.joblib:read",
)
"""Asked before `PICKLE`, because it begins like a bare pickle."""

PICKLE = Format(
    name="pickle",
    summary="a bare pickle of arrays or tensors: pickle.dump, .pdparams",
    suffixes=(".pkl", ".pickle", ".pdparams", ".pdopt"),
    claims="ckptconv.formats.torch.containers.bare:claims",
    reader="ckptconv.formats.torch.containers.bare:read",
)
"""Asked last: a pickle's first bytes are the least distinctive."""
