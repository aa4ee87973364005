"""Settings: `HUB_*` variables, or `hub.toml` in the working directory (or the file that HUB_CONFIG names).

A variable wins over the file. Each setting says its unit and why its default is what it is; `hub config` prints them.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from hub.core.calendar import check_cron
from hub.errors import StartError
from schemas.frames import Pattern
from schemas.types import HOTEL_MEMBER, HOTEL_PMS, HOTEL_SAAS, SystemName

MAX_WAIT_S = 30 * 86_400
Role = Literal["gateway", "archiver", "webhooks", "scheduler"]


JobName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]


class JobSetting(BaseModel):
    """A report job of the operators' own: five cron fields, and which report."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: str
    report: Literal["daily_report", "weekly_report", "monthly_report"]

    @field_validator("cron")
    @classmethod
    def _fires(cls, value: str) -> str:
        check_cron(value)
        return value


def _setting(default: Any, description: str, *, unit: str = "", **limits: Any) -> Any:
    return Field(default=default, description=description, json_schema_extra={"unit": unit}, **limits)


class Settings(BaseSettings):
    """Everything that can be set."""

    model_config = SettingsConfigDict(
        env_prefix="HUB_",
        frozen=True,
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    # Where it listens
    host: str = _setting("127.0.0.1", "Address to listen on; only this machine by default")
    port: int = _setting(3400, "TCP port of HTTP and WebSocket alike (R1); 0 takes a free one", ge=0, le=65535)
    workers: int = _setting(1, "Gateway processes that share the port; more than the cores helps nobody", ge=1, le=64)
    allowed_origins: Annotated[tuple[str, ...], NoDecode] = _setting(
        (), "Origins of browser pages that may connect, beside the hub's own; * for all", unit="comma-separated"
    )
    max_connections: int = _setting(20_000, "WebSocket connections one process will hold", unit="connections", ge=1)

    # Where it keeps things
    data_dir: Path = _setting(Path(".hub"), "The hub's own files: keys and the embedded server's data")
    redis_url: str | None = _setting(
        None,
        "External Redis or Valkey 7.0+: redis://, rediss://, unix://, redis+sentinel://, redis+cluster://",
    )
    key_prefix: str = _setting("hub", "Prefix of all Redis keys", pattern=r"^[A-Za-z0-9._-]{1,40}$")
    partitions: int = _setting(8, "Streams the tenants are spread over; fixed at first start", ge=1, le=100)
    embedded_fsync: Literal["always", "everysec"] = _setting(
        "always", "appendfsync of the embedded server; everysec loses up to a second of acknowledged events on a crash"
    )
    embedded_maxmemory_mb: int = _setting(0, "Memory of the embedded server; 0 sets no limit", unit="MiB", ge=0)

    store_url: str | None = _setting(
        None, "Where every event is kept: postgresql://user:password@host/database; unset: SQLite in the data directory"
    )

    # How long
    retention_hours: float = _setting(72, "Age at which finished events leave the stream", unit="hours", gt=0)
    archive_days: int = _setting(400, "Age at which events leave the archive", unit="days", ge=1)
    ledger_days: int = _setting(90, "Age at which the delivery ledger forgets", unit="days", ge=1)
    outstanding_s: float = _setting(
        300, "An event that a target has not acknowledged for so long is listed as outstanding", unit="s", gt=0
    )
    idempotency_hours: int = _setting(
        168, "How long an event_id is remembered for de-duplication; a week outlasts any outage", unit="hours", ge=168
    )

    # Who
    roles: Annotated[tuple[Role, ...], NoDecode] = _setting(
        ("gateway", "archiver", "webhooks", "scheduler"), "What this process does", unit="comma-separated"
    )
    groups: Annotated[tuple[str, ...], NoDecode] = _setting(
        ("archiver", "webhooks", HOTEL_PMS, HOTEL_SAAS, HOTEL_MEMBER),
        "Consumer groups made on every partition; the stream is trimmed below all of them",
        unit="comma-separated",
    )
    systems: dict[SystemName, tuple[Pattern, ...]] = _setting(
        {}, "Systems beside the three, and the patterns each is a target of", unit="JSON"
    )
    jwt_keys: Path | None = _setting(None, "JWK Set with the keys of other token issuers (HS256, EdDSA)")

    # Outward
    webhook_schedule: Annotated[tuple[float, ...], NoDecode] = _setting(
        (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400),
        "Waits before the second, third … attempt at a webhook; one more fails and it is given up",
        unit="s, comma-separated",
    )
    webhook_timeout_s: float = _setting(15.0, "How long a webhook endpoint may take to answer", unit="s", gt=0, le=60)
    webhook_allow_hosts: Annotated[tuple[str, ...], NoDecode] = _setting(
        (),
        "Hosts that webhooks may reach at private addresses and without TLS: for development",
        unit="comma-separated",
    )
    batch_cron: str = _setting(
        "0 23 * * *",
        "When webhooks of events with sync_mode batch go out, in each property's time (R26); a cron line",
    )
    jobs: dict[JobName, JobSetting] = _setting(
        {},
        'Report jobs beside the built-in ones, in each property\'s time: {"noon": {"cron": "0 12 * * *", '
        '"report": "daily_report"}}',
        unit="JSON",
    )
    catch_up_days: int = _setting(
        62, "Reports that fell due within so long while no hub ran are made up for", unit="days", ge=1, le=400
    )

    # How much
    deflate: bool = _setting(False, "Offer permessage-deflate; saves two thirds of the bytes and costs CPU")
    publish_per_s: int = _setting(
        500, "Events one WebSocket connection may publish; twice that in a burst", unit="1/s", ge=1
    )
    max_waiting: int = _setting(10_000, "Events waiting for the log in one process before publishers get 503", ge=1)
    publish_timeout_s: float = _setting(
        5.0, "How long an append is tried before the publisher hears 503", unit="s", gt=0
    )
    high_water_kib: int = _setting(256, "Unsent bytes at which a connection leaves its group", unit="KiB", ge=16)
    slow_timeout_s: float = _setting(
        30.0, "A connection that reads nothing for so long is closed with 4008", unit="s", gt=0
    )
    drain_s: float = _setting(5.0, "How long shutdown waits for what is in flight", unit="s", ge=0)

    # What it says
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "Least level that is logged")
    log_format: Literal["auto", "json", "console"] = _setting("auto", "JSON, or text when stderr is a terminal")

    @field_validator("allowed_origins", "roles", "groups", "webhook_schedule", "webhook_allow_hosts", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return tuple(value) if isinstance(value, list) else value

    @field_validator("batch_cron")
    @classmethod
    def _fires(cls, value: str) -> str:
        check_cron(value)
        return value

    @field_validator("webhook_schedule")
    @classmethod
    def _waits(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(not 0 < wait <= MAX_WAIT_S for wait in value):
            raise ValueError(f"must be one or more waits, each more than 0 and at most {MAX_WAIT_S} s")
        return value

    @field_validator("webhook_allow_hosts")
    @classmethod
    def _hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_host(host.lower().strip("[]").removesuffix(".")) for host in value)

    @field_validator("redis_url", "store_url", "jwt_keys", mode="before")
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return None if value == "" else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=config_file())


def _host(host: str) -> str:
    """A name, or an address in its one spelling: as the host of a URL is compared."""
    try:
        return str(ip_address(host))
    except ValueError:
        return host


class Origin(NamedTuple):
    """A setting as `hub config` shows it."""

    name: str
    value: Any
    origin: str
    unit: str
    default: Any
    description: str


_READERS = ("HUB_CONFIG", "HUB_TOKEN", "HUB_URL")
"""Variables of the command line's clients, not settings of the hub."""


def config_file() -> Path:
    """The file settings are read from, if it exists."""
    return Path(os.environ.get("HUB_CONFIG", "hub.toml"))


def load(**overrides: Any) -> Settings:
    """Read the settings.

    Raises:
        StartError: one of them is wrong or unknown; the message names it.
    """
    known = {f"HUB_{name}".upper() for name in Settings.model_fields}
    for name in os.environ:
        if name.startswith("HUB_") and name not in known and name not in _READERS:
            raise StartError(f"{name} is not a setting", "`hub config` lists them all")
    file = config_file()
    if not file.is_file() and ("HUB_CONFIG" in os.environ or file.exists()):
        raise StartError(f"the settings file {file} is not there, or no file", "Correct HUB_CONFIG, or unset it")
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = ".".join(map(str, first["loc"])).upper()
        raise StartError(f"HUB_{name}: {first['msg']}", "`hub config` tells what each setting takes") from None
    except ValueError as error:
        raise StartError(
            f"the settings cannot be read: {error}", f"Correct the HUB_ variables or {config_file()}"
        ) from error


def explain(settings: Settings) -> list[Origin]:
    """Every setting with where its value comes from; secrets in URLs are left out."""
    file_values: dict[str, Any] = {}
    if config_file().exists():
        file_values = TomlConfigSettingsSource(Settings, toml_file=config_file())()
    read = Settings()
    shown = []
    for name, info in Settings.model_fields.items():
        value = getattr(settings, name)
        variable = f"HUB_{name}".upper()
        if value != getattr(read, name):
            origin = "command line"
        elif variable in os.environ:
            origin = "environment"
        elif name in file_values:
            origin = str(config_file())
        else:
            origin = "default"
        extra = info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}
        if name in ("redis_url", "store_url") and isinstance(value, str):
            value = _without_secrets(value)
        shown.append(Origin(variable, value, origin, str(extra.get("unit", "")), info.default, info.description or ""))
    return shown


def _without_secrets(url: str) -> str:
    scheme, _, rest = url.partition("://")
    credentials, _, place = rest.rpartition("@")
    place, _, options = place.partition("?")
    return f"{scheme}://{'***@' if credentials else ''}{place}{'?***' if options else ''}"


__all__ = ["Origin", "Role", "Settings", "config_file", "explain", "load"]
