"""Bounds of the predictor that no deployment had to change, each with its reason.

Times are in seconds. What a deployment chooses is a setting (serving/settings.py).
"""

# HTTP. A whole head fits into one packet or two; a caller who needs longer than these is slow on purpose, or
# gone. uvicorn bounds neither.
HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT = 10.0
BODY_TIMEOUT = 10.0
READ_TIMEOUT = 30.0

# A row is predicted in about 50 µs, and 256 waiting rows are worked off in a fraction of a second; a request
# that has waited for a whole one waits behind something slow, and its caller does better to hear it.
QUEUE_TIMEOUT = 1.0

# Between two looks at what is in Production. A look costs the registry one request.
POLL = 1.0

# The prediction log. A row takes about 1 kB of memory; what comes beyond is answered all the same, not kept,
# and counted.
LOG_ROWS = 100_000
# The folder of files that wait for the bucket; beyond it rows are dropped, and counted.
SPOOL_BYTES = 256 * 1024 * 1024

# Rows that the model answers for one explanation. A forest of 200 trees answers so many in about 0.1 s on one
# processor; four times as many would halve the sampling error.
EXPLAIN_ROWS = 8192

# MLflow pyfunc models: one request, the start of a process, and bytes of its address space (RLIMIT_AS);
# importing MLflow and scikit-learn takes about 2 GiB of that.
PYFUNC_TIMEOUT = 10.0
PYFUNC_LOAD_TIMEOUT = 60.0
PYFUNC_MEMORY = 4 * 2**30
