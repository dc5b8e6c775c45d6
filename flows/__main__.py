"""`python -m flows` is `greenroom train`, for programs that start it as a process."""

from flows.commands import train

if __name__ == "__main__":
    train()
