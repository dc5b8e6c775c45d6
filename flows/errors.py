"""What can stop a training; each message says what to do."""


class TrainingError(Exception):
    """The training cannot go on, and trying again will not help."""


class ExportError(TrainingError):
    """The trained pipeline cannot be turned into an ONNX model that agrees with it."""


class SubmissionError(TrainingError):
    """A submitted model cannot go through the gate; nothing was registered."""


class LeakageError(TrainingError):
    """A model that was fitted elsewhere scores as if it had learned the held-out rows; not registered."""
