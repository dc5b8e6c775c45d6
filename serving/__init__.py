"""serving: the predictor: a FastAPI service over the Production version of each model."""

import sys

# httpx without its command line, as where rich is not installed: 4 MB less in each process.
sys.modules.setdefault("httpx._main", None)  # type: ignore[arg-type] # None: an import of it fails
