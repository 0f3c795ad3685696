"""The process's entry point: ``ckptconv``, and ``python -m ckptconv``."""

from __future__ import annotations

import signal
from typing import NoReturn


def run() -> NoReturn:
    """Load the command line, and run it. Until then Ctrl-C ends the process at once: there is nothing to say."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if usual:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from ckptconv.cli.main import run

    if usual:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    run()
