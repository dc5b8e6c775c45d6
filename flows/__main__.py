"""`python -m flows` is `greenroom train`, for programs that start it as a process."""

import gc

from flows.training.cli import train

if __name__ == "__main__":
    gc.set_threshold(100_000)  # as registry/cli/main.py does
    train()
