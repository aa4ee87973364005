"""The files that run the hub: settings and paths that exist, accepted by the programs that read them."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hub.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a checker that may not be on every machine."""
    program = shutil.which(command[0])
    if program is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run([program, *map(str, command[1:])], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_settings_exist(path: Path) -> None:
    """A file names no setting that the hub would refuse to start with."""
    known = {f"HUB_{name}".upper() for name in Settings.model_fields}
    named = set(re.findall(r"\bHUB_[A-Z_]+\b", path.read_text()))
    assert named <= known


def test_settings_have_values_the_hub_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the container, compose and systemd set can be loaded."""
    unit = (DEPLOY / "hub.service").read_text().replace("%S", "/var/lib")
    image = (DEPLOY / "Dockerfile").read_text()
    compose = (DEPLOY / "compose.yaml").read_text()
    given = re.findall(r"^Environment=(HUB_[A-Z_]+)=(\S+)", unit, re.M)
    given += re.findall(r"^ +(HUB_[A-Z_]+)=(\S+)", image, re.M)
    given += re.findall(r"^ +(HUB_[A-Z_]+): (\S+)", compose, re.M)
    assert {name for name, _ in given} == {"HUB_HOST", "HUB_DATA_DIR", "HUB_LOG_FORMAT", "HUB_REDIS_URL"}
    for name, value in given:
        monkeypatch.setenv(name, value)
        Settings()


def test_copied_and_mounted_files_exist() -> None:
    """The container copies, and compose mounts, what is there; the build may see what it copies."""
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (DEPLOY / "Dockerfile").read_text(), re.M)
    names = {name for line in copied for name in line.split()}
    assert {"hub", "consumers", "schemas", "requirements.lock"} <= names
    for name in names:
        assert (ROOT / name).exists(), name
    allowed = set(re.findall(r"^!(\S+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.M))
    assert allowed == names
    mounted = re.findall(r"^ +- \./(\S+?):", (DEPLOY / "compose.yaml").read_text(), re.M)
    assert mounted
    for name in mounted:
        assert (DEPLOY / name).is_file(), name


def test_the_image_runs_the_hub_as_nobody_special() -> None:
    """Packages come by their hashes, and the last stage does not run as root."""
    last = (DEPLOY / "Dockerfile").read_text().rpartition("\nFROM ")[2]
    assert re.search(r"^USER hub$", last, re.M)
    assert last.index("USER hub") < last.index("ENTRYPOINT")
    assert "--require-hashes -r requirements.lock" in (DEPLOY / "Dockerfile").read_text()


def test_compose_keeps_what_is_acknowledged() -> None:
    """The log of compose.yaml is one that /readyz calls durable."""
    command = re.search(r"command: \[(.*)\]", (DEPLOY / "compose.yaml").read_text())
    assert command is not None
    words = [word.strip(' "') for word in command[1].split(",")]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert options == {
        "--appendonly": "yes",
        "--appendfsync": "always",
        "--save": "",
        "--maxmemory-policy": "noeviction",
    }


def test_stopping_outlasts_draining() -> None:
    """Nobody kills a hub that is still within what its default settings allow it."""
    fields = Settings.model_fields
    # Sockets and requests drain one after the other; then appends under way, and 10 s for the embedded server.
    longest = 2 * fields["drain_s"].default + fields["publish_timeout_s"].default + 10
    unit = re.search(r"^TimeoutStopSec=(\d+)$", (DEPLOY / "hub.service").read_text(), re.M)
    grace = re.findall(r"stop_grace_period: (\d+)s", (DEPLOY / "compose.yaml").read_text())
    assert unit is not None
    assert all(int(seconds) > longest for seconds in (unit[1], *grace))


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say."""
    unit = (DEPLOY / "hub.service").read_text()
    (tmp_path / "hub.service").write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", unit, flags=re.M))
    found = run("systemd-analyze", "verify", tmp_path / "hub.service")
    assert (found.returncode, found.stdout + found.stderr) == (0, "")


def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    """`nginx -t` takes the file, with paths and a certificate of the test's own."""
    made = run(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=hub.example.jp"),
        *("-keyout", tmp_path / "hub.example.jp.key", "-out", tmp_path / "hub.example.jp.pem"),
    )
    assert made.returncode == 0, made.stderr
    text = (DEPLOY / "nginx.conf").read_text()
    for where in ("/etc/nginx/tls", "/var/log/nginx", "/run"):
        assert where in text
        text = text.replace(f" {where}/", f" {tmp_path}/")
    bodies = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(text.replace("http {", f"http {{ {bodies}", 1))
    found = run("nginx", "-t", "-p", tmp_path, "-e", tmp_path / "error.log", "-c", configuration)
    assert found.returncode == 0, found.stderr
