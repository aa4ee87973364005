"""The desk's settings, as the environment says them (R63)."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumers.offline.settings import DeskSettings, InvalidSetting


def test_the_defaults_are_those_that_were_asked_for() -> None:
    """Five minutes, three retries, offline mode on, a file in the user's home; an empty variable says nothing."""
    settings = DeskSettings.from_environment({"MAX_RETRY_COUNT": ""})
    assert settings == DeskSettings()
    assert (settings.sync_interval_s, settings.max_retry_count, settings.offline_mode_enabled) == (300.0, 3, True)
    assert settings.local_db_path.is_relative_to(Path.home())


def test_the_environment_is_read() -> None:
    """Each variable counts."""
    settings = DeskSettings.from_environment(
        {
            "SYNC_INTERVAL_MINUTES": "0.5",
            "MAX_RETRY_COUNT": "7",
            "OFFLINE_MODE_ENABLED": "False",
            "LOCAL_DB_PATH": "~/front/desk.db",
        }
    )
    assert settings == DeskSettings(0.5, 7, False, Path.home() / "front/desk.db")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SYNC_INTERVAL_MINUTES", "soon"),
        ("SYNC_INTERVAL_MINUTES", "0"),
        ("SYNC_INTERVAL_MINUTES", "nan"),
        ("MAX_RETRY_COUNT", "2.5"),
        ("MAX_RETRY_COUNT", "-1"),
        ("OFFLINE_MODE_ENABLED", "maybe"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(name: str, value: str) -> None:
    """The error names the variable and what would do."""
    with pytest.raises(InvalidSetting, match=rf"{name}=.* must be ") as caught:
        DeskSettings.from_environment({name: value})
    assert caught.value.name == name
