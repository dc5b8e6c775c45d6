"""`python predictor_with.py NAME=VALUE …`: the predictor with other limits (serving/limits.py) than its own.

Workers read this file as well, as multiprocessing does with what started them; so they have the same limits.
"""

import sys

from serving import limits
from serving.__main__ import main

for argument in sys.argv[1:]:
    name, value = argument.split("=")
    setattr(limits, name, type(getattr(limits, name))(float(value)))

if __name__ == "__main__":
    main()
