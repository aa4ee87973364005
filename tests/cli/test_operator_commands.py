"""`hub lag`, `hub dead-letters`, `hub tenants`: what operators look at and change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_process import HubProcess, interrupted, next_line, running_hub
from redis import Redis

from hub.cli.lag import total
from hub.cli.remote import Remote
from hub.log.embedded import EmbeddedServer
from hub.log.keys import Keys, partition_of


def state(group: str, lag: int | None, pending: int, oldest: float) -> dict[str, Any]:
    """What the hub tells of a group on a partition."""
    return {
        "group": group,
        "partition": "p00",
        "lag": lag,
        "pending": pending,
        "oldest_pending_seconds": oldest,
        "consumers": 1,
    }


def bury(hub: HubProcess, group: str, tenant: str, count: int) -> list[str]:
    """Put dead letters into a group, as a consumer does; their ids."""
    keys, partition = Keys("hub"), partition_of(tenant, 8)
    server: Any = Redis.from_url(EmbeddedServer(hub.directory / "data").url)
    hub.publish(range(count), tenant)
    ids = []
    for id, fields in server.xrange(keys.events(partition)):
        if fields[b"tenant_id"].decode() != tenant:
            continue
        letter = fields | {"reason": "no\x1b[31m room", "attempts": 5, "failed_at": "2026-07-15T01:00:00Z"}
        made = server.xadd(keys.dead(partition, group), letter | {"source_id": id})
        ids.append(f"p{partition:02d}:{made.decode()}")
    server.close()
    return ids


class TestLag:
    """`hub lag`."""

    def test_every_group_and_partition_is_told_and_their_sum(self, tmp_path: Path) -> None:
        """Five groups on eight partitions; what nobody has read is lag."""
        with running_hub(tmp_path, roles="gateway") as hub:
            hub.publish(range(3))
            found = hub.json("lag")
            one = hub.json("lag", "--group", "hotel-pms")
            lines = hub.call("lag").stdout.splitlines()

        assert len(found["groups"]) == 40
        assert found["total"] == {
            "lag": 15,
            "unknown": 0,
            "pending": 0,
            "oldest_pending_seconds": 0.0,
            "consumers": 0,
        }
        assert {group["group"] for group in one["groups"]} == {"hotel-pms"}
        assert one["total"]["lag"] == 3
        assert lines[0].split("\t") == ["group", "partition", "lag", "pending", "oldest", "consumers"]
        assert lines[-1].split("\t") == ["total", "40 streams", "15", "0", "0.0", "0"]

    def test_an_unknown_lag_is_counted_apart(self) -> None:
        """The sum is of what is known; the oldest of all is the oldest."""
        summed = total([state("a", None, 1, 3.5), state("b", 4, 2, 1.0)])

        assert (summed["lag"], summed["unknown"], summed["pending"]) == (4, 1, 3)
        assert (summed["oldest_pending_seconds"], summed["consumers"]) == (3.5, 2)

    async def test_watching_goes_on_until_ctrl_c(self, hub: HubProcess) -> None:
        """A line a look where no terminal is."""
        async with hub.command("lag", "--watch", "--every", "0.1", "--json") as watch:
            for _ in range(3):
                assert len(json.loads(await next_line(watch))["groups"]) == 40

            assert await interrupted(watch) == 130


class TestDeadLetters:
    """`hub dead-letters`."""

    def test_they_are_listed_and_shown(self, hub: HubProcess) -> None:
        """With group, event and reason; text from consumers cannot steer a terminal."""
        ids = bury(hub, "hotel-saas", "listed-letters", 2)

        lines = [line.split("\t") for line in hub.call("dead-letters", "list").stdout.splitlines()]
        found = hub.json("dead-letters", "list", "--group", "hotel-saas")["dead_letters"]
        shown = hub.json("dead-letters", "show", ids[1], "--group", "hotel-saas")

        assert [letter["id"] for letter in found] == ids
        assert lines[1][:4] == [ids[0], "hotel-saas", "listed-letters", "room.status_changed"]
        assert lines[1][-1] == "no\ufffd[31m room"
        assert (shown["id"], shown["event"]["entity"]) == (ids[1], "room:r1")
        assert hub.json("dead-letters", "list", "--group", "archiver")["dead_letters"] == []
        missing = hub.call("dead-letters", "show", "p00:1-0", "--group", "hotel-saas")
        assert (missing.returncode, missing.stdout) == (1, "")

    def test_chosen_ones_are_redriven_and_the_rest_discarded(self, hub: HubProcess) -> None:
        """Each counts once; discarding all needs to be meant."""
        ids = bury(hub, "hotel-member", "moved-letters", 5)
        group = ("--group", "hotel-member")

        assert hub.json("dead-letters", "redrive", *group, ids[0], ids[1]) == {"redriven": 2}
        assert hub.json("dead-letters", "redrive", *group, ids[0]) == {"redriven": 0}
        assert hub.call("dead-letters", "discard", *group, "--all").returncode == 2
        assert hub.json("dead-letters", "discard", *group, ids[2], "--yes") == {"discarded": 1}
        done = hub.call("dead-letters", "discard", *group, "--all", "--yes")
        assert done.stdout == "2 dead letters of hotel-member discarded\n"
        assert hub.json("dead-letters", "list", *group)["dead_letters"] == []
        wrong = hub.call("dead-letters", "redrive", *group, "nonsense")
        assert (wrong.returncode, "'nonsense' is not the id of a dead letter" in wrong.stderr) == (1, True)

    def test_all_means_more_than_one_request_moves(self, hub: HubProcess, monkeypatch: pytest.MonkeyPatch) -> None:
        """The hub moves a thousand at a time: `--all` asks until fewer went."""
        moved = [1000, 1000, 7]

        async def post(_: Remote, path: str, body: Any, token: str | None = None) -> Any:
            assert (path, body) == ("dead-letters/redrive", {"group": "archiver"})
            return {"redriven": moved.pop(0)}

        monkeypatch.setattr(Remote, "post", post)

        assert hub.json("dead-letters", "redrive", "--group", "archiver", "--all") == {"redriven": 2007}


class TestTenants:
    """`hub tenants`."""

    def test_a_property_is_described_bit_by_bit(self, hub: HubProcess) -> None:
        """What is not named stays; the listing tells the last sequence."""
        first = hub.json("tenants", "set", "lisbon", "--currency", "EUR", "--timezone", "Europe/Lisbon")
        hub.publish(range(3), "lisbon")
        line = hub.call("tenants", "set", "lisbon", "--name", "Cidade", "--rollover-hour", "4").stdout.splitlines()[1]

        roomy = hub.json("tenants", "set", "lisbon", "--rooms", "226")

        assert (first["currency"], first["rollover_hour"], first["rooms"]) == ("EUR", 5, None)
        assert line.split("\t") == ["lisbon", "Cidade", "EUR", "Europe/Lisbon", "4", ""]
        assert (roomy["name"], roomy["rooms"]) == ("Cidade", 226)
        [found] = [one for one in hub.json("tenants", "list")["tenants"] if one["tenant_id"] == "lisbon"]
        assert (found["name"], found["sequence"]) == ("Cidade", 3)
        assert "lisbon\tCidade\tEUR\tEurope/Lisbon\t4\t226\t3" in hub.call("tenants", "list").stdout.splitlines()

    @pytest.mark.parametrize(
        "options", [("--currency", "euro"), ("--timezone", "Lisbon"), ("--name", "x" * 201)], ids=lambda one: one[0]
    )
    def test_a_wrong_value_is_named(self, options: tuple[str, str], hub: HubProcess) -> None:
        """And nothing is changed."""
        done = hub.call("tenants", "set", "unset", *options)

        assert done.returncode == 1
        assert options[0].lstrip("-") in done.stderr
        assert "unset" not in {one["tenant_id"] for one in hub.json("tenants", "list")["tenants"]}
