"""`python predictor_with.py NAME=VALUE …`: the predictor with other limits (serving/limits.py) than its own.

A name with dots is a constant of another module; a value is written like Python's.

Workers read this file as well, as multiprocessing does with what started them; so they have the same limits.
"""

import sys
from ast import literal_eval
from pkgutil import resolve_name

from serving import limits
from serving.__main__ import main

for argument in sys.argv[1:]:
    name, value = argument.split("=")
    owner, _, constant = name.rpartition(".")
    module = resolve_name(owner) if owner else limits
    getattr(module, constant)  # raises where there is no such constant
    setattr(module, constant, literal_eval(value))

if __name__ == "__main__":
    main()
