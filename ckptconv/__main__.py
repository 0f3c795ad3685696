"""``python -m ckptconv``."""

from ckptconv.cli.main import run

if __name__ == "__main__":
    run()
