"""Settings of models that are no ONNX file."""

from pydantic import Field

from registry.settings import GreenroomSettings


class PyfuncSettings(GreenroomSettings):
    """Whether, with which interpreter and within which bounds MLflow pyfunc models are run."""

    serving_pyfunc_python: str = Field(
        default="",
        description="GREENROOM_SERVING_PYFUNC_PYTHON: Python interpreter, with MLflow and what the models "
        "need, that runs versions without an ONNX file, each in a process of its own. Loading one executes "
        "code that is in its files. Empty: such versions are refused.",
    )
    serving_pyfunc_timeout: float = Field(
        default=10.0,
        gt=0,
        description="GREENROOM_SERVING_PYFUNC_TIMEOUT: seconds that such a model may take for one request; "
        "then its process is ended, and started again for the next.",
    )
    serving_pyfunc_load_timeout: float = Field(
        default=60.0,
        gt=0,
        description="GREENROOM_SERVING_PYFUNC_LOAD_TIMEOUT: seconds that starting such a process may take.",
    )
    serving_pyfunc_memory: int = Field(
        default=4096,
        ge=256,
        description="GREENROOM_SERVING_PYFUNC_MEMORY: MiB of address space that such a process may use "
        "(RLIMIT_AS); importing MLflow and scikit-learn takes about 2000.",
    )
