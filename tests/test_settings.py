"""Settings: where they come from, what is refused, what is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hub.errors import StartError
from hub.security.addresses import parse_url
from hub.settings import Origin, Settings, explain, load


@pytest.fixture(autouse=True)
def nothing_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable and no file of the machine reaches these tests."""
    import os

    for name in list(os.environ):
        if name.upper().startswith("HUB_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def shown(settings: Settings, name: str) -> Origin:
    """One line of `hub config`."""
    return {one.name: one for one in explain(settings)}[name]


def test_the_defaults_are_those_of_the_contract() -> None:
    """Address, port, retention, archive, roles and groups without any setting; everything is explained."""
    settings = load()
    assert (settings.host, settings.port, settings.redis_url) == ("127.0.0.1", 3400, None)
    assert (settings.retention_hours, settings.archive_days, settings.partitions) == (72, 400, 8)
    assert settings.roles == ("gateway", "archiver", "webhooks", "scheduler")
    assert settings.groups == ("archiver", "webhooks", "hotel-pms", "hotel-saas", "hotel-member")
    for one in explain(settings):
        assert one.origin == "default"
        assert one.value == one.default
        assert one.description
        assert one.name.startswith("HUB_")


def test_a_command_line_wins_over_a_variable_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Precedence, and `explain` names the place a value really came from."""
    (tmp_path / "hub.toml").write_text('port = 5001\nhost = "0.0.0.0"\ndrain_s = 1\nworkers = 3\n')
    monkeypatch.setenv("HUB_HOST", "10.0.0.1")
    monkeypatch.setenv("HUB_DRAIN_S", "2")
    settings = load(drain_s=3, port=None, workers=1)
    assert (settings.port, settings.host, settings.drain_s, settings.workers) == (5001, "10.0.0.1", 3, 1)
    assert shown(settings, "HUB_PORT").origin == "hub.toml"
    assert shown(settings, "HUB_HOST").origin == "environment"
    assert shown(settings, "HUB_DRAIN_S").origin == "command line"
    assert shown(settings, "HUB_WORKERS").origin == "command line", "it only looks like the default"
    assert shown(settings, "HUB_LOG_LEVEL").origin == "default"


def test_the_file_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HUB_CONFIG names the file; one that is not there is an error, not a hub with other settings."""
    (tmp_path / "other.toml").write_text('roles = ["gateway"]\n[systems]\nhousekeeping-app = ["room.*"]\n')
    monkeypatch.setenv("HUB_CONFIG", str(tmp_path / "other.toml"))
    settings = load()
    assert settings.roles == ("gateway",)
    assert settings.systems == {"housekeeping-app": ("room.*",)}
    assert shown(settings, "HUB_ROLES").origin == str(tmp_path / "other.toml")
    monkeypatch.setenv("HUB_CONFIG", str(tmp_path / "nowhere.toml"))
    with pytest.raises(StartError, match=r"nowhere\.toml"):
        load()


def test_lists_and_maps_are_written_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comma-separated lists with spaces, systems as JSON, empty for unset."""
    monkeypatch.setenv("HUB_ALLOWED_ORIGINS", " https://a.example , https://b.example,")
    monkeypatch.setenv("HUB_ROLES", "gateway")
    monkeypatch.setenv("HUB_SYSTEMS", '{"housekeeping-app": ["room.*", "order.placed"]}')
    monkeypatch.setenv("HUB_REDIS_URL", "")
    monkeypatch.setenv("HUB_JWT_KEYS", "")
    settings = load()
    assert settings.allowed_origins == ("https://a.example", "https://b.example")
    assert settings.roles == ("gateway",)
    assert settings.systems == {"housekeeping-app": ("room.*", "order.placed")}
    assert settings.redis_url is None
    assert settings.jwt_keys is None


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("LocalHost", "http://localhost:8080/"),
        ("localhost.", "http://localhost:8080/"),
        ("localhost", "http://localhost.:8080/"),
        ("127.0.0.1", "http://127.0.0.1./"),
        ("[0:0:0:0:0:0:0:1]", "http://[::1]/"),
        ("::1", "http://[0::1]/"),
        ("[FD00:0::A]", "http://[fd00::a]/"),
        ("::ffff:10.0.0.1", "http://[::ffff:a00:1]/"),
    ],
)
def test_an_allowed_host_may_be_spelt_in_any_way(monkeypatch: pytest.MonkeyPatch, host: str, url: str) -> None:
    """However a host is written in the setting and in a URL, the one is found to be the other, and no other is."""
    monkeypatch.setenv("HUB_WEBHOOK_ALLOW_HOSTS", f"other.example, {host}")
    allowed = load().webhook_allow_hosts
    assert parse_url(url, allowed).scheme == "http"
    with pytest.raises(ValueError, match="https"):
        parse_url("http://[::2]/", allowed)


@pytest.mark.parametrize("name", ["HUB_PORTS", "HUB_", "HUB_REDIS", "HUB_PORT_"])
def test_an_unknown_variable_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A misspelt variable stops the start instead of being passed over."""
    monkeypatch.setenv(name, "1")
    with pytest.raises(StartError) as refused:
        load()
    assert name in refused.value.message


@pytest.mark.parametrize("name", ["HUB_TOKEN", "HUB_URL"])
def test_variables_of_the_clients_are_passed_over(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What the command line's clients read is no setting and no mistake."""
    monkeypatch.setenv(name, "x")
    load()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HUB_PORT", "abc"),
        ("HUB_PORT", "65536"),
        ("HUB_PORT", "-1"),
        ("HUB_WORKERS", "0"),
        ("HUB_PARTITIONS", "0"),
        ("HUB_PARTITIONS", "101"),
        ("HUB_KEY_PREFIX", "a b"),
        ("HUB_KEY_PREFIX", "{x}"),
        ("HUB_KEY_PREFIX", "hub\n"),
        ("HUB_KEY_PREFIX", ""),
        ("HUB_RETENTION_HOURS", "0"),
        ("HUB_RETENTION_HOURS", "nan"),
        ("HUB_RETENTION_HOURS", "inf"),
        ("HUB_PUBLISH_TIMEOUT_S", "inf"),
        ("HUB_SLOW_TIMEOUT_S", "-1"),
        ("HUB_DRAIN_S", "inf"),
        ("HUB_IDEMPOTENCY_HOURS", "167"),
        ("HUB_ROLES", "gateway,barkeeper"),
        ("HUB_EMBEDDED_FSYNC", "no"),
        ("HUB_LOG_LEVEL", "loud"),
        ("HUB_DEFLATE", "perhaps"),
        ("HUB_SYSTEMS", "{"),
        ("HUB_SYSTEMS", '{"Bad Name": ["*"]}'),
        ("HUB_SYSTEMS", '{"good": ["room"]}'),
        ("HUB_SYSTEMS", "[]"),
    ],
)
def test_a_wrong_value_names_its_setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The error says which setting is wrong, and how to see what it takes."""
    monkeypatch.setenv(name, value)
    with pytest.raises(StartError) as refused:
        load()
    assert name in refused.value.message.upper().replace('"SYSTEMS"', "HUB_SYSTEMS")
    assert refused.value.fix


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("port = 'x'", "HUB_PORT"),
        ("ports = 1", "HUB_PORTS"),
        ("port = ", "hub.toml"),
        ("[server]\nport = 1", "HUB_SERVER"),
        ("roles = 'barkeeper'", "HUB_ROLES"),
    ],
)
def test_a_wrong_file_names_its_setting(tmp_path: Path, text: str, told: str) -> None:
    """A broken file, an unknown key and a wrong value are told like those of variables."""
    (tmp_path / "hub.toml").write_text(text)
    with pytest.raises(StartError) as refused:
        load()
    assert told in str(refused.value)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """A directory in its place is an error of the start."""
    (tmp_path / "hub.toml").mkdir()
    with pytest.raises(StartError, match=r"hub\.toml"):
        load()


@pytest.mark.parametrize(
    "url",
    [
        "redis://:geheim@host:6379/0",
        "redis://user:geheim@host:6379/0",
        "redis://user:ge@geheim@host:6379",
        "rediss://host:6379/0?username=u&password=geheim",
        "redis+sentinel://user:geheim@one:1,two:2/hotel",
        "unix:///tmp/socket?password=geheim",
        "redis://:ge/geheim@host:6379",
    ],
)
def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """`hub config` shows where the server is, never the password, wherever the URL holds it."""
    monkeypatch.setenv("HUB_REDIS_URL", url)
    found = shown(load(), "HUB_REDIS_URL")
    assert "geheim" not in str(found)
    assert found.origin == "environment"
    assert found.value.partition(":")[0] == url.partition(":")[0]


def test_settings_do_not_change() -> None:
    """Settings are fixed once they are read."""
    settings: Any = load()
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1
