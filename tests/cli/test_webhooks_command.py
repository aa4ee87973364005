"""`hub webhooks`: endpoints made, looked at, changed, tried and removed by command."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hub_process import HubProcess, eventually, running_hub
from standardwebhooks import Webhook

from hub.security.tokens import Tokens, own_key
from tests.gateways.webhook_receiver import Answer, Receiver, fresh_secret, receiving

pytestmark = pytest.mark.process
OF_PMS = ("--system", "hotel-pms", "--tenant")


@pytest.fixture(scope="module")
def outward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """A hub that sends to this machine; each test takes a tenant of its own."""
    settings = {"webhook_allow_hosts": "127.0.0.1", "webhook_schedule": "0.2,0.2,0.2,0.2"}
    with running_hub(tmp_path_factory.mktemp("outward"), **settings) as started:
        yield started


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """An endpoint."""
    async with receiving() as found:
        yield found


def create(hub: HubProcess, tenant: str, *options: str, url: str = "https://93.184.215.14/hook") -> dict[str, Any]:
    """An endpoint, as it was made."""
    made: dict[str, Any] = hub.json("webhooks", "create", url, *OF_PMS, tenant, *options)
    return made


def fields(text: str) -> dict[str, str]:
    """What a table of fields says."""
    head, *lines = text.splitlines()
    assert head == "field\tvalue"
    return {name: value for name, _, value in (line.partition("\t") for line in lines)}


def test_a_secret_is_shown_once(outward: HubProcess) -> None:
    """When the endpoint is made and when the secret is changed, with a word on stderr; never again."""
    done = outward.call("webhooks", "create", "https://93.184.215.14/hook", *OF_PMS, "once")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "keep the secret now: it is not shown again\n"
    made = fields(done.stdout)
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/=]{44}", made["secret"])
    assert (made["system"], made["patterns"], made["critical_only"]) == ("hotel-pms", "*", "yes")

    own = fresh_secret()
    rotated = outward.call("webhooks", "rotate", made["id"], "--secret", "-", "--json", input=f"{own}\n")
    assert json.loads(rotated.stdout)["secret"] == own
    assert "not shown again" in rotated.stderr
    assert outward.json("webhooks", "rotate", made["id"])["secret"] not in (own, made["secret"])
    for shown in (("show", made["id"]), ("list",), ("set", made["id"], "--description", "x")):
        assert "whsec_" not in outward.call("webhooks", *shown).stdout
        assert "whsec_" not in json.dumps(outward.json("webhooks", *shown))


def test_every_field_is_given_and_changed(outward: HubProcess) -> None:
    """By an option each; what is not named stays, and the options that take something away do."""
    made = create(
        outward,
        "fields",
        *("--pattern", "room.*,reservation.created", "--pattern", "order.*", "--payload", "thin"),
        *("--rate-limit", "5", "--description", "front desk", "--secret", fresh_secret()),
    )
    assert made["patterns"] == ["room.*", "reservation.created", "order.*"]
    assert (made["payload"], made["rate_limit"], made["description"]) == ("thin", 5, "front desk")

    def changed(*options: str) -> dict[str, Any]:
        now: dict[str, Any] = outward.json("webhooks", "set", made["id"], *options)
        return {name: value for name, value in now.items() if name != "updated_at" and value != made[name]}

    assert changed("--to", "https://93.184.215.15/") == {"url": "https://93.184.215.15/"}
    made = outward.json("webhooks", "show", made["id"])
    assert changed("--payload", "full") == {"payload": "full"}
    made = outward.json("webhooks", "show", made["id"])
    assert changed("--no-rate-limit", "--description", "") == {"rate_limit": None, "description": ""}
    made = outward.json("webhooks", "show", made["id"])
    assert changed("--critical") == {"patterns": ["*"], "critical_only": True}
    made = outward.json("webhooks", "show", made["id"])
    assert changed("--pattern", "room.*", "--rate-limit", "9") == {
        "patterns": ["room.*"],
        "critical_only": False,
        "rate_limit": 9,
    }


def test_endpoints_are_listed(outward: HubProcess) -> None:
    """Of all tenants or of one, as lines for programs, without control characters that an endpoint brought in."""
    first, second = create(outward, "listed"), create(outward, "listed", "--pattern", "room.*")
    create(outward, "not-listed", "--description", "\x1b[31mred")
    head, *rows = outward.call("webhooks", "list", "--tenant", "listed").stdout.splitlines()
    assert head.split("\t")[:4] == ["id", "tenant", "system", "state"]
    assert [row.split("\t")[:7] for row in rows] == [
        [first["id"], "listed", "hotel-pms", "enabled", "0", "* (critical)", "full"],
        [second["id"], "listed", "hotel-pms", "enabled", "0", "room.*", "full"],
    ]
    found = outward.json("webhooks", "list")["webhooks"]
    assert {"listed", "not-listed"} <= {one["tenant_id"] for one in found}
    (other,) = outward.json("webhooks", "list", "--tenant", "not-listed")["webhooks"]
    shown = outward.call("webhooks", "show", other["id"]).stdout
    assert "red" in shown
    assert "\x1b" not in shown


def test_one_is_disabled_enabled_and_deleted(outward: HubProcess) -> None:
    """Each command shows what came of it; what is deleted is not there."""
    id = create(outward, "moved")["id"]
    disabled = fields(outward.call("webhooks", "disable", id).stdout)
    assert (disabled["state"], disabled["reason"]) == ("disabled", "by hand")
    assert outward.json("webhooks", "enable", id)["state"] == "enabled"
    gone = outward.call("webhooks", "delete", id)
    assert (gone.returncode, gone.stdout, gone.stderr) == (0, "", f"{id} is deleted\n")
    again = outward.call("webhooks", "delete", id, "--json")
    assert (again.returncode, again.stdout) == (1, "")
    assert f"there is no webhook endpoint {id}" in again.stderr
    other = create(outward, "moved")["id"]
    assert outward.json("webhooks", "delete", other) == {"id": other, "deleted": True}


async def test_a_sample_that_is_not_taken_is_a_failure(outward: HubProcess, receiver: Receiver) -> None:
    """Exit code 1 with the answer shown; what is taken is 0."""
    made = await asyncio.to_thread(create, outward, "sampled", "--secret", receiver.secret, url=receiver.url)
    receiver.script += [Answer(200, body=b"thanks"), Answer(500, body=b"no\nsuch room")]
    taken = await asyncio.to_thread(outward.call, "webhooks", "test", made["id"])
    assert (taken.returncode, taken.stderr) == (0, "")
    assert fields(taken.stdout)["response"] == "thanks"
    refused = await asyncio.to_thread(outward.call, "webhooks", "test", made["id"], "--json")
    assert refused.returncode == 1
    assert json.loads(refused.stdout)["status"] == 500
    assert refused.stderr == "error: the endpoint did not take the sample: HTTP 500: no.\n"
    assert [call.headers["hub-test"] for call in receiver.calls] == ["true", "true"]


async def test_what_was_missed_is_recovered(outward: HubProcess, receiver: Receiver) -> None:
    """After a cursor, or since as long ago as is said; signed with the secret that the command printed."""
    made = await asyncio.to_thread(create, outward, "missed", "--pattern", "room.*", url=receiver.url)
    receiver.secrets = [made["secret"]]
    await asyncio.to_thread(outward.call, "webhooks", "disable", made["id"])
    await asyncio.to_thread(outward.publish, range(3), "missed")
    refused = await asyncio.to_thread(outward.call, "webhooks", "recover", made["id"], "--since", "1h")
    assert refused.returncode == 1
    assert "enable it first" in refused.stderr
    await asyncio.to_thread(outward.call, "webhooks", "enable", made["id"])

    def idle() -> bool:
        shown = outward.json("webhooks", "show", made["id"])
        return bool(shown["waiting"] == 0 and not shown["recovering"])

    for place in (("--after", "earliest"), ("--since", "1h"), ("--since", made["created_at"])):
        recovered = await asyncio.to_thread(outward.json, "webhooks", "recover", made["id"], *place)
        assert recovered["id"] == made["id"]
        calls = await receiver.take(3)
        assert sorted(call.entity for call in calls) == ["room:r0", "room:r1", "room:r2"]
        Webhook(made["secret"]).verify(calls[0].body, calls[0].headers)
        await asyncio.to_thread(eventually, idle)


def test_what_makes_no_sense_is_said(outward: HubProcess) -> None:
    """A wrong call is 2, what the hub refuses 1; the message names what is wrong, on stderr alone."""
    id = create(outward, "wrong")["id"]
    for arguments, code, words in (
        (("set", id), 2, "nothing to set"),
        (("set", id, "--critical", "--pattern", "room.*"), 2, "--critical and --pattern"),
        (("set", id, "--no-rate-limit", "--rate-limit", "3"), 2, "--rate-limit"),
        (("set", id, "--rate-limit", "1001"), 2, "rate-limit"),
        (("set", id, "--payload", "raw"), 2, "payload"),
        (("set", id, "--pattern", ""), 1, "patterns"),
        (("set", id, "--to", "http://pms.example/"), 1, "https://"),
        (("recover", id), 2, "--after or --since"),
        (("recover", id, "--after", "earliest", "--since", "2h"), 2, "--after or --since"),
        (("recover", id, "--since", "9999999d"), 2, "--since"),
        (("recover", id, "--since", "yesterday"), 1, "since"),
        (("recover", id, "--after", "x"), 1, "cursor"),
        (("rotate", id, "--secret", "short"), 1, "secret"),
        (("create",), 2, "URL"),
        (("create", "https://10.0.0.1/", *OF_PMS, "wrong"), 1, "private address"),
        (("create", "https://93.184.215.14/", "--tenant", "wrong"), 1, "system"),
        (("create", "https://93.184.215.14/", "--system", "hotel-pms"), 1, "tenant_id"),
        (("show", ".."), 1, "there is no webhook endpoint .."),
        (("show", "../events"), 1, "there is no"),
        (("delete", ""), 2, "id is empty"),
        (("show", "00000000-0000-7000-8000-000000000000"), 1, "there is no webhook endpoint"),
        (("test", "nothing"), 1, "there is no webhook endpoint"),
        (("list", "--tenant", "no tenant"), 1, "tenant"),
        (("list", "--tenant", "nobody"), 0, ""),
    ):
        done = outward.call("webhooks", *arguments)
        assert (done.returncode, words in done.stderr) == (code, True), (arguments, done.stderr)
        assert code == 0 or done.stdout == "", arguments
    assert outward.json("webhooks", "show", id)["waiting"] == 0


def test_a_systems_own_token_is_enough(outward: HubProcess) -> None:
    """It names neither system nor tenant, and sees its own alone."""
    key = own_key(outward.directory / "data")
    token = Tokens([key]).issue("hotel-saas", ["lone"], ["subscribe:room.*"])
    foreign = create(outward, "lone")
    made = outward.json("webhooks", "create", "https://93.184.215.14/hook", "--token", token)
    assert (made["system"], made["tenant_id"], made["patterns"]) == ("hotel-saas", "lone", ["room.*"])
    (listed,) = outward.json("webhooks", "list", "--token", token)["webhooks"]
    assert listed["id"] == made["id"]
    hidden = outward.call("webhooks", "delete", foreign["id"], "--token", token)
    assert (hidden.returncode, "there is no webhook endpoint" in hidden.stderr) == (1, True)
