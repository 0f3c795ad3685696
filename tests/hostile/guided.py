"""The fuzzer guided by coverage: ``pip install 'ckptconv[fuzz]'``, then
``python -m tests.hostile.guided TARGET [libFuzzer's options]``, for example ``-max_total_time=600``.

Mutants are made by turns by libFuzzer and by `tests.hostile.mutate`. A finding ends the run: libFuzzer keeps the file.
"""

from __future__ import annotations

import random
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["ckptconv"]):
    from ckptconv.errors import CkptconvError
    from tests.hostile import fuzz

from tests.hostile.mutate import mutant


def main() -> None:
    """Run one target until libFuzzer's options end it."""
    target = next(target for target in fuzz.TARGETS if target.name == sys.argv[1])
    starts = fuzz.seeds(target)
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "seeds").mkdir()
        for i, seed in enumerate(starts):
            (folder / "seeds" / str(i)).write_bytes(seed)

        def once(data: bytes) -> None:
            try:
                target.run(folder / "mutant", data, chance)
            except CkptconvError as error:
                assert len(str(error)) < 20_000

        def change(data: bytes, most: int, seed: int) -> bytes:
            if seed % 2:
                return atheris.Mutate(data, most)
            return mutant(data, starts, target.tokens, random.Random(seed))[:most]

        options = [
            sys.argv[0],
            "-timeout=2",
            "-rss_limit_mb=1024",
            "-max_len=65536",
            *sys.argv[2:],
            str(folder / "seeds"),
        ]
        atheris.Setup(options, once, custom_mutator=change)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
