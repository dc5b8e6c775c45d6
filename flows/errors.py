"""What can stop a training; each message says what to do."""


class TrainingError(Exception):
    """The training cannot go on, and trying again will not help."""


class DataError(TrainingError):
    """The table is not what its declaration says."""


class ExportError(TrainingError):
    """The trained pipeline cannot be turned into an ONNX model that agrees with it."""


class SubmissionError(TrainingError):
    """What was submitted is no model that the gate could look at; nothing was registered."""


class SeenError(TrainingError):
    """A model as it was fitted elsewhere scores as one that has seen the held-out rows; not registered."""
