"""The alert rules and the dashboard: accepted by Prometheus, firing when they should, about metrics that exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from hub.telemetry import Metrics

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
ALERT_TESTS = DEPLOY / "prometheus" / "alerts.test.yml"
DASHBOARD = DEPLOY / "grafana" / "hub.json"

SERIES = re.compile(r"\b(hub_[a-z_]+)(?:\{([^}]*)\})?")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
GROUPED = re.compile(r"\bby \(([\w, ]+)\)")
OF_THE_SCRAPE = {"job", "instance", "le"}


def known_series() -> dict[str, set[str]]:
    """Every series the hub exposes, with its labels."""
    metrics = vars(Metrics(CollectorRegistry()))
    found: dict[str, set[str]] = {}
    for metric in metrics.values():
        # Prometheus has a `job` of its own, and keeps a metric's under another name.
        name, labels = metric._name, {"exported_job" if label == "job" else label for label in metric._labelnames}
        if isinstance(metric, Counter):
            found[f"{name}_total"] = labels
        elif isinstance(metric, Histogram):
            found |= {f"{name}_{part}": labels for part in ("bucket", "sum", "count")}
        else:
            found[name] = labels
    return found


def expressions_of_alerts() -> list[str]:
    """The rules' expressions; a folded one spans lines."""
    text = ALERTS.read_text()
    return [
        re.sub(r"\s+", " ", one) for one in re.findall(r"^ +expr: (?:>-\n)?(.*?)\n +(?:for|labels):", text, re.S | re.M)
    ]


def expressions_of_the_dashboard() -> list[str]:
    """Every panel's expressions."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Prometheus' own checker."""
    program = shutil.which("promtool")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is not installed; .ci/run installs it")
        pytest.skip("promtool is not installed")
    return subprocess.run([program, *arguments], capture_output=True, text=True, cwd=ALERTS.parent, check=False)


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("check", "config", "prometheus.yml"), id="configuration"),
        pytest.param(("check", "rules", ALERTS.name), id="rules"),
        pytest.param(("test", "rules", ALERT_TESTS.name), id="rules fire"),
    ],
)
def test_prometheus_accepts_them(arguments: tuple[str, ...]) -> None:
    """The configuration and the rules parse, and each rule fires for its trouble and not for a healthy hub."""
    found = promtool(*arguments)
    assert found.returncode == 0, found.stdout + found.stderr


def test_every_alert_is_tested() -> None:
    """Each rule has a case in which it fires and stands in the case of the healthy hub."""
    tests = ALERT_TESTS.read_text()
    healthy, *troubles = tests.split("\n  - name: ")[1:]
    names = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    assert names
    for name in names:
        assert f"alertname: {name}}}" in healthy, name
        assert any(re.search(rf'alertname(: |="){name}\b', one) for one in troubles), name


@pytest.mark.parametrize(
    "expression", [pytest.param(one, id=one[:60]) for one in expressions_of_alerts() + expressions_of_the_dashboard()]
)
def test_expressions_are_about_metrics_that_exist(expression: str) -> None:
    """Names, labels that are matched and labels that are grouped by are the hub's."""
    known = known_series()
    used = SERIES.findall(expression)
    assert used or "up{" in expression, expression
    labels = set(OF_THE_SCRAPE)
    for name, matchers in used:
        assert name in known, name
        labels |= known[name]
        assert set(LABEL.findall(matchers)) <= known[name] | OF_THE_SCRAPE, expression
    for grouped in GROUPED.findall(expression):
        assert set(grouped.split(", ")) <= labels, expression


def test_the_rules_are_tested_with_series_as_the_hub_exposes_them() -> None:
    """A rule that is tested with labels nobody exposes would pass there and never fire."""
    known = known_series()
    series = SERIES.findall("\n".join(re.findall(r"- series: (.*)", ALERT_TESTS.read_text())))
    assert len(series) > 20
    for name, labels in series:
        assert set(LABEL.findall(labels)) - OF_THE_SCRAPE == known[name], name


def test_the_dashboard_shows_every_metric() -> None:
    """What is measured can be seen."""
    shown = {name for one in expressions_of_the_dashboard() for name, _ in SERIES.findall(one)}
    hidden = {name for name in known_series() if not name.endswith(("_sum", "_count"))} - shown
    assert not hidden


def test_the_dashboard_can_be_provisioned() -> None:
    """Panels have ids of their own and ask the data source that is provisioned beside them."""
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    assert dashboard["uid"]
    sources = {panel["datasource"]["uid"] for panel in dashboard["panels"] if panel["type"] != "row"}
    provisioned = re.findall(r"^    uid: (\S+)$", (DEPLOY / "grafana" / "datasource.yaml").read_text(), re.M)
    assert sources == set(provisioned)
