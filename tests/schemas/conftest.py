"""The golden events: one stored event of every type and version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest


@pytest.fixture(scope="session")
def golden_directory() -> Path:
    """Where the golden files lie."""
    return Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="session")
def golden(golden_directory: Path) -> Callable[[str], dict[str, Any]]:
    """Load a golden event by its name, `<type>.v<n>`; each call gives a new one."""

    def load(name: str) -> dict[str, Any]:
        event: dict[str, Any] = orjson.loads((golden_directory / f"{name}.json").read_bytes())
        return event

    return load
