"""Runs the command line `greenroom` with other values of some constants than the code has."""

import json
import sys
from pkgutil import resolve_name

from registry.cli.main import main

# `python -m tests.constants '{"flows.scoring.plan.PARTITION_ROWS": 100}' score …`
if __name__ == "__main__":
    for name, value in json.loads(sys.argv.pop(1)).items():
        owner, _, constant = name.rpartition(".")
        resolve_name(name)  # raises where there is no such constant
        setattr(resolve_name(owner), constant, value)
    main()
