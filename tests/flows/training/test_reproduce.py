"""What a run says of its search is a claim: nobody trains for days because of it."""

import pytest

from flows.errors import TrainingError
from flows.training import reproduce
from registry.client.registry import Version
from registry.names import Stage

VERSION = Version("genre", 3, Stage.NONE, "run", "models:/m", {})


@pytest.mark.parametrize("text", ["", "-1", "1e3", "1001", "9" * 5000, "٣", "8\n"])
def test_a_number_of_trials_that_no_search_has_is_refused(text: str) -> None:
    with pytest.raises(TrainingError, match="The run of genre version 3 says that its search had"):
        reproduce._trials(text, VERSION)


@pytest.mark.parametrize("text", ["0", "8", "1000"])
def test_a_number_of_trials_is_taken(text: str) -> None:
    assert reproduce._trials(text, VERSION) == int(text)
