"""Settings that are wrong, or that there are no more."""

from pathlib import Path

import pytest
from pydantic import Field, SecretStr, ValidationError, field_validator

from registry.settings import GreenroomSettings, KeySettings, RegistrySettings, explain


class _Settings(GreenroomSettings):
    workers: int = Field(default=1, ge=1)
    token: SecretStr = SecretStr("")

    @field_validator("token")
    @classmethod
    def _long(cls, value: SecretStr) -> SecretStr:
        if 0 < len(value.get_secret_value()) < 8:
            raise ValueError("it must be longer")
        return value


RENAMED = "GREENROOM_SEARCH_SECONDS is GREENROOM_SEARCH_TRIALS now, a number of trials: set that, or nothing."


@pytest.mark.parametrize("settings", [KeySettings, RegistrySettings, _Settings])
def test_a_renamed_setting_refuses_with_its_new_name(
    settings: type[GreenroomSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GREENROOM_SEARCH_SECONDS", "15")
    with pytest.raises(ValidationError) as refusal:
        settings()
    assert explain(refusal.value) == RENAMED


def test_a_renamed_setting_that_is_empty_or_in_an_old_home_refuses_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GREENROOM_HOME", str(tmp_path))
    monkeypatch.setenv("GREENROOM_SEARCH_SECONDS", "")
    (tmp_path / "stack.env").write_text("GREENROOM_SEARCH_SECONDS=15\nGREENROOM_WORKERS=2\n")
    assert _Settings().workers == 2


def test_every_wrong_setting_is_named_and_none_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_WORKERS", "0")
    monkeypatch.setenv("GREENROOM_TOKEN", "hunter2")
    with pytest.raises(ValidationError) as refusal:
        _Settings()
    assert explain(refusal.value) == (
        "GREENROOM_WORKERS: Input should be greater than or equal to 1; GREENROOM_TOKEN: it must be longer"
    )


def test_a_setting_that_is_a_constant_now_refuses_with_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GREENROOM_NOTIFY_TIMEOUT", "5")
    with pytest.raises(ValidationError) as refusal:
        KeySettings()
    assert explain(refusal.value) == (
        "GREENROOM_NOTIFY_TIMEOUT is no setting any more: every address has 10 seconds. Unset it."
    )
