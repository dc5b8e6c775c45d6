"""Bounds of the predictor that no deployment had to change, each with its reason.

Times are in seconds. What a deployment chooses is a setting (serving/settings.py).
"""

# HTTP. A whole head, request line included, fits into one packet or two; a caller who needs longer than these
# is slow on purpose, or gone. uvicorn bounds neither.
HEAD_BYTES = 64 * 1024
HEAD_TIMEOUT = 10.0
BODY_TIMEOUT = 10.0
READ_TIMEOUT = 30.0

# A row is predicted in about 50 µs, and 256 waiting rows are worked off in a fraction of a second; a request
# that has waited for a whole one waits behind something slow, and its caller does better to hear it.
QUEUE_TIMEOUT = 1.0

# Requests that may wait for their turn; one more gets 503.
MAX_QUEUE = 256
# Predictions that are worked on at once; it is lists and slow models that are under way at once.
MAX_CONCURRENCY = 64
# A larger body answers 413, unless it is a list, which may be as large as its rows need. As many longer
# bodies as predictions are read at once.
MAX_BODY_BYTES = 64 * 1024
# Open connections; one more takes the place of a silent one of the caller who has most of them, or is closed
# unheard. Systems often let a process have 1,024 files open.
MAX_CONNECTIONS = 1000
# Of one address: half of all, far more than a program or a browser opens.
CALLER_CONNECTIONS = 500
# Of one address, without a whole head for longer than a second; beyond them the oldest are closed. Whoever
# has something to ask sends its head at once.
CALLER_HEADS, HEAD_GRACE = 128, 1.0
# Headers of one request. Browsers and proxies send some dozen.
MAX_HEADERS = 100

# A larger model file is refused. Loaded it takes about twice its size, and for a moment beside the one that
# it replaces.
MAX_MODEL_BYTES = 100 * 2**20
# Between two looks at what is in Production. A look costs the registry one request.
POLL = 1.0

# The prediction log. A row takes about 1 kB of memory; what comes beyond is answered all the same, not kept,
# and counted.
LOG_ROWS = 100_000
# The folder of files that wait for the bucket; beyond it rows are dropped, and counted.
SPOOL_BYTES = 256 * 1024 * 1024
# A stop waits so long for the bucket; what is not there by then goes with the next start. A pod's grace
# period (infra/k8s) has room for it.
SPOOL_TIMEOUT = 10.0

# Rows that the model answers for one explanation. A forest of 200 trees answers so many in about 0.1 s on one
# processor; four times as many would halve the sampling error.
EXPLAIN_ROWS = 8192

# MLflow pyfunc models: one request, the start of a process, and bytes of its address space (RLIMIT_AS);
# importing MLflow and scikit-learn takes about 2 GiB of that.
PYFUNC_TIMEOUT = 10.0
PYFUNC_LOAD_TIMEOUT = 60.0
PYFUNC_MEMORY = 4 * 2**30

# ONNX models. What the first load and the first runs of a version may take, each; the largest file takes some
# seconds to load.
TRIAL_TIMEOUT = 20.0
# Bytes of address space for a file, beside what its process has already, and for each byte of the file, which
# is held as it is, as it was parsed and as the session has it.
ONNX_MEMORY = 512 * 2**20
ONNX_MEMORY_PER_BYTE = 6
# On the event loop a run has at most so many rows, or one request's, and may take so long: nothing else is
# answered meanwhile. 80 rows of a forest of 200 trees take 3 ms.
LOOP_ROWS, LOOP_SECONDS = 80, 0.025
# Elsewhere in the predictor's process; longer lists and explanations are run in parts. What takes more time
# or memory runs in another process.
CALL_ROWS, CALL_SECONDS, CALL_MEMORY = 1024, 0.5, 128 * 2**20
# One run in another process, which is ended then. Callers wait a second longer: for the run of another.
RUN_TIMEOUT = 5.0
