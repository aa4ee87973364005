"""Figures of a run: percentiles of latencies, memory and processor time of processes (Linux)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def percentiles(nanoseconds: Sequence[int]) -> dict[str, float | None]:
    """p50, p99 and p999 in milliseconds; None without a sample."""
    ordered = sorted(nanoseconds)

    def at(share: float) -> float | None:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1e6, 3) if ordered else None

    return {"p50_ms": at(0.5), "p99_ms": at(0.99), "p999_ms": at(0.999)}


def ratio(one: float | None, other: float | None) -> float | None:
    """How many times `other` `one` is; None where either is missing."""
    return round(one / other, 3) if one is not None and other else None


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found


def is_log_server(pid: int) -> bool:
    """Whether a process is the embedded log server, not the hub."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().startswith(("valkey", "redis"))
    except OSError:
        return False


def resident_bytes(pid: int) -> int:
    """Memory that a process holds; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def processor_s(pid: int) -> float:
    """Processor time that a process has used, in seconds; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
