"""`hub config`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hub.cli.main import main
from hub.settings import Settings


def test_every_setting_is_told_with_its_origin(
    bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Value, origin, unit, default and description, from defaults, the file and the environment."""
    (bare / "hub.toml").write_text("retention_hours = 24\n")
    monkeypatch.setenv("HUB_PORT", "3401")

    assert main(["config", "--json"]) == 0

    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)["settings"]}
    assert set(found) == {f"HUB_{name.upper()}" for name in Settings.model_fields}
    assert (found["HUB_PORT"]["value"], found["HUB_PORT"]["origin"], found["HUB_PORT"]["default"]) == (
        3401,
        "environment",
        3400,
    )
    assert (found["HUB_RETENTION_HOURS"]["value"], found["HUB_RETENTION_HOURS"]["origin"]) == (24, "hub.toml")
    assert found["HUB_HOST"]["origin"] == "default"
    assert found["HUB_RETENTION_HOURS"]["unit"] == "hours"
    assert all(one["description"] for one in found.values())


def test_the_table_has_a_line_a_setting_and_no_password(
    bare: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tab-separated where no terminal is; credentials of the Redis stay hidden."""
    monkeypatch.setenv("HUB_REDIS_URL", "redis://user:hidden@redis:6379/0")

    assert main(["config"]) == 0

    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0][:2] == ["setting", "value"]
    assert len(lines) == 1 + len(Settings.model_fields)
    shown = {line[0]: line[1] for line in lines}
    assert shown["HUB_REDIS_URL"] == "redis://***@redis:6379/0"
    assert shown["HUB_JWT_KEYS"] == "(unset)"
    assert shown["HUB_DEFLATE"] == "false"
    assert shown["HUB_ROLES"] == "gateway,archiver,webhooks,scheduler"
