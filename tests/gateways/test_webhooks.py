"""Webhooks from outside: managed over HTTP, received by a server that knows nothing but their public specification."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from house import WAIT_S, House
from standardwebhooks import Webhook
from webhook_receiver import OK, SILENCE, Answer, Call, Receiver, busy, fresh_secret, moved, receiving

PMS, SAAS, MEMBER = "hotel-pms", "hotel-saas", "hotel-member"
OPS: dict[str, Any] = {"system": "hub", "tenants": ("*",), "scopes": ("subscribe:*", "ops")}
ROUTES = {
    "/api/v1/webhooks": {"get", "post"},
    "/api/v1/webhooks/{id}": {"get", "patch", "delete"},
    "/api/v1/webhooks/{id}/test": {"post"},
    "/api/v1/webhooks/{id}/rotate": {"post"},
    "/api/v1/webhooks/{id}/recover": {"post"},
}


class Desk:
    """The webhooks of a hub over HTTP."""

    def __init__(self, house: House) -> None:
        self.house = house

    async def ask(self, method: str, path: str, asked: Any = None, *, code: int = 200, **token: Any) -> Any:
        """An answer of `/webhooks`; its JSON, if it has any."""
        content = asked if isinstance(asked, bytes) else None if asked is None else orjson.dumps(asked)
        response = await self.house.http.request(
            method, f"/webhooks{path}", content=content, headers=self.house.headers(**token)
        )
        assert response.status_code == code, response.text
        return response.json() if response.content else None

    async def create(self, receiver: Receiver, *patterns: str, **more: Any) -> dict[str, Any]:
        """An endpoint at the receiver; what is no field of it goes to the token."""
        token: dict[str, Any] = {name: more.pop(name) for name in ("tenants", "scopes", "view") if name in more}
        token["system"] = more.get("system", PMS)
        asked = {"url": receiver.url, "secret": receiver.secret} | ({"patterns": patterns} if patterns else {}) | more
        made: dict[str, Any] = await self.ask("POST", "", asked, code=201, **token)
        return made

    async def change(self, made: dict[str, Any], *, code: int = 200, as_: dict[str, Any] = OPS, **fields: Any) -> Any:
        """PATCH."""
        return await self.ask("PATCH", f"/{made['id']}", fields, code=code, **as_)

    async def show(self, made: dict[str, Any]) -> Any:
        """GET."""
        return await self.ask("GET", f"/{made['id']}", **OPS)

    async def recover(self, made: dict[str, Any], *, code: int = 202, **fields: Any) -> Any:
        """Have it sent again."""
        return await self.ask("POST", f"/{made['id']}/recover", fields, code=code, **OPS)

    async def settled(self, made: dict[str, Any]) -> dict[str, Any]:
        """It, once nothing waits for it."""
        shown: dict[str, Any] = await eventually(
            lambda: self.show(made), lambda shown: shown["waiting"] == 0 and not shown["recovering"]
        )
        return shown

    async def trace(self, event_id: str) -> Any:
        """An event's story."""
        response = await self.house.http.get(f"/events/{event_id}/trace", headers=self.house.headers(**OPS))
        assert response.status_code == 200, response.text
        return response.json()

    async def hooks(self, event_id: str, *steps: str) -> list[dict[str, Any]]:
        """What its story says of webhooks, once these are its steps, whatever order and time they are noted in."""

        async def found() -> list[dict[str, Any]]:
            timeline = (await self.trace(event_id))["timeline"]
            return [one for one in timeline if one["channel"] == "webhook"]

        hooks: list[dict[str, Any]] = await eventually(
            found, lambda told: sorted(one["step"] for one in told) == sorted(steps)
        )
        return hooks


async def eventually(ask: Callable[[], Awaitable[Any]], condition: Callable[[Any], bool]) -> Any:
    """What is asked for, once it is so: stores are written by themselves, which sends no signal."""
    found = None
    try:
        async with asyncio.timeout(WAIT_S * 2):
            while not condition(found := await ask()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(found) from None
    return found


@pytest.fixture
def outward(start: Callable[..., Any]) -> Callable[..., Any]:
    """Start a hub that sends to this machine, and tries again soon."""

    def begin(**settings: Any) -> Any:
        defaults = {"webhook_allow_hosts": ("127.0.0.1",), "webhook_schedule": (0.1,) * 8}
        return start(**defaults | settings)

    return begin


@pytest.fixture
async def desk(outward: Callable[..., Any]) -> AsyncIterator[Desk]:
    """Such a hub."""
    async with outward() as house:
        yield Desk(house)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """An endpoint."""
    async with receiving() as found:
        yield found


@pytest.fixture
async def other() -> AsyncIterator[Receiver]:
    """Another one."""
    async with receiving() as found:
        yield found


def arrival(id: str, **more: Any) -> dict[str, Any]:
    """A guest arrives: an event of priority CRITICAL."""
    data = {"reservation_id": id, "room_number": "101", "payment_status": "pending"}
    return {"type": "checkin_checkout", "action": "checked_in", "data": data} | more


def told(calls: list[Call]) -> list[str]:
    """The ids of events, as they came."""
    return [call.id for call in calls]


def ids(receipts: list[dict[str, Any]]) -> list[str]:
    """The ids of events, as they were published."""
    return [one["event_id"] for one in receipts]


# -- what arrives -----------------------------------------------------------------------------------------------------


async def test_a_critical_event_arrives_signed_within_the_second(desk: Desk, receiver: Receiver) -> None:
    """Beside WebSocket, not in its place; the same event, with its place in the headers; and nothing less urgent."""
    made = await desk.create(receiver)
    async with desk.house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["*"])
        at = asyncio.get_running_loop().time()
        _, receipt = await desk.house.publish(desk.house.reservation("R1"), arrival("R1"))
        frames = await socket.take(2)
        call = await receiver.next()
    assert call.at - at < 1
    assert call.json == frames[1]["event"]
    assert call.json["priority"] == "CRITICAL"
    assert call.id == receipt["event_id"]
    assert (call.headers["hub-cursor"], call.headers["hub-sequence"]) == (receipt["cursor"], "2")
    assert call.headers["content-type"] == "application/json"
    assert call.attempt == 1
    assert "hub-replay" not in call.headers
    shown = await desk.settled(made)
    assert (shown["last_error"], shown["failing_since"]) == (None, None)
    assert shown["last_success_at"] is not None
    assert receiver.untaken == []


async def test_an_endpoint_with_patterns_gets_those_and_no_others(desk: Desk, receiver: Receiver) -> None:
    """Whatever their priority; what went before on the same entity would have come before."""
    await desk.create(receiver, "reservation.updated", "room.*")
    publish, reservation = desk.house.publish, desk.house.reservation
    receipts = await publish(reservation("R1"), arrival("R1"), reservation("R1", action="updated"))
    assert (await receiver.next()).id == receipts[2]["event_id"]
    assert receiver.untaken == []


async def test_a_system_gets_no_other_systems_and_no_other_tenants_events(
    desk: Desk, receiver: Receiver, other: Receiver
) -> None:
    """Each endpoint is proof that the event which is not for the other one was looked at."""
    mine = await desk.create(receiver, "*")
    saas = await desk.create(other, "*", system=SAAS)
    elsewhere = await desk.create(other, "*", tenants=["elsewhere"])
    publish, reservation = desk.house.publish, desk.house.reservation
    to_saas, to_mine = await publish(reservation("R1", targets=[SAAS]), reservation("R1", targets=[PMS]))
    (to_other,) = await publish(reservation("R1"), tenants=["elsewhere"])
    (to_all,) = await publish(reservation("R1", action="updated"))
    assert told(await receiver.take(2)) == ids([to_mine, to_all])
    assert sorted(told(await other.take(3))) == sorted(ids([to_saas, to_all, to_other]))
    for one in (mine, saas, elsewhere):
        await desk.settled(one)
    assert receiver.untaken == other.untaken == []


async def test_a_thin_payload_has_ids_alone(desk: Desk, receiver: Receiver) -> None:
    """By which who may read it fetches the event."""
    await desk.create(receiver, "*", payload="thin")
    (receipt,) = await desk.house.publish(desk.house.reservation("R1", data_guest_name="Taro Yamada"))
    call = await receiver.next()
    assert call.json == {
        "event_id": receipt["event_id"],
        "tenant_id": "default",
        "type": "reservation",
        "action": "created",
        "entity": "reservation:R1",
        "revision": 1,
        "sequence": 1,
        "cursor": receipt["cursor"],
    }
    found = await desk.house.http.get(f"/events/{call.id}", headers=desk.house.headers())
    assert found.json()["event"]["data"]["guest_name"] == "Taro Yamada"


async def test_a_masked_token_makes_a_masked_endpoint(desk: Desk, receiver: Receiver) -> None:
    """And neither redirects nor changes one that is not, nor gets its secret."""
    publish, reservation = desk.house.publish, desk.house.reservation
    masked = await desk.create(receiver, "*", view="masked")
    assert masked["view"] == "masked"
    await publish(reservation("R1", data_guest_name="Taro Yamada", data_room_type="suite"))
    data = (await receiver.next()).json["data"]
    assert data["room_type"] == "suite"
    assert data["guest_name"] != "Taro Yamada"
    assert b"Yamada" not in receiver.calls[-1].body
    assert (await desk.change(masked, description="still"))["view"] == "masked"
    await desk.ask("DELETE", f"/{masked['id']}", code=204, **OPS)

    full = await desk.create(receiver, "*")
    await publish(reservation("R2", data_guest_name="Taro Yamada"))
    assert b"Yamada" in (await receiver.next()).body
    for change in ({"url": receiver.url}, {"patterns": ["*"]}, {"description": "mine"}, {"state": "disabled"}):
        await desk.change(full, code=403, as_={"view": "masked"}, **change)
    await desk.ask("POST", f"/{full['id']}/rotate", code=403, view="masked")
    await publish(reservation("R2", action="updated", data_guest_name="Taro Yamada"))
    assert b"Yamada" in (await receiver.next()).body


async def test_what_is_published_right_after_the_answer_arrives(desk: Desk, receiver: Receiver) -> None:
    """Again and again: an endpoint gets every event after it was made, once, and none from before."""
    made, sent = [], []
    await desk.house.publish(arrival("R0"))
    for number in range(30):
        tenants = [f"t{number % 3}"]
        made.append(await desk.create(receiver, url=receiver.at(f"/{number}"), tenants=tenants))
        sent += ids(await desk.house.publish(arrival(f"R{number}"), tenants=tenants))
    await receiver.until(lambda: len(receiver.calls) >= 3 * 55)
    for one in made:
        await desk.settled(one)
    for number in range(30):
        got = [call.id for call in receiver.calls if call.path == f"/{number}"]
        assert sorted(got) == sorted(sent[number::3])


async def test_endpoints_that_are_made_amid_events_miss_none(desk: Desk, receiver: Receiver) -> None:
    """While others publish without a pause, each gets everything from one place on, once: no later than what was
    published after the answer, and nothing that had its receipt before the endpoint was asked for."""
    sequences: list[int] = []
    by_event: dict[str, int] = {}
    over = asyncio.Event()

    async def publish() -> None:
        while not over.is_set():
            receipts = await desk.house.publish(*[desk.house.reservation() for _ in range(3)])
            by_event.update({one["event_id"]: one["sequence"] for one in receipts})
            sequences.extend(one["sequence"] for one in receipts)

    made, begins = [], []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(publish()) for _ in range(2)]
        for number in range(10):
            before = max(sequences, default=0)
            made.append(await desk.create(receiver, "*", url=receiver.at(f"/{number}")))
            (after,) = await desk.house.publish(desk.house.reservation())
            by_event[after["event_id"]] = after["sequence"]
            begins.append(range(before + 1, after["sequence"] + 1))
        over.set()
        await asyncio.gather(*tasks)
    last = max(by_event.values())
    for number, one in enumerate(made):
        await desk.settled(one)
        got = sorted(by_event[call.id] for call in receiver.calls if call.path == f"/{number}")
        assert got == list(range(got[0], last + 1))
        assert got[0] in begins[number]


async def test_an_endpoint_may_be_made_on_a_hub_that_sends_nothing(
    outward: Callable[..., Any], receiver: Receiver, tmp_path: Path
) -> None:
    """Another one sends, and learns of it later: what was published right after the answer arrives all the same, when
    it is made and when it is enabled, and nothing from before."""
    data_dir = tmp_path / "hub"
    async with outward(data_dir=data_dir) as house:
        sending = Desk(house)
        # Somebody is served there, so the stream is looked through as it comes.
        await sending.create(receiver, "*", url=receiver.at("/first"))
        async with outward(data_dir=data_dir, redis_url=house.hub.url, roles=("gateway",)) as beside:
            desk = Desk(beside)
            for number in range(3):
                path = f"/{number}"

                def got(path: str = path) -> list[str]:
                    return [call.id for call in receiver.calls if call.path == path]

                await beside.publish(arrival("R1"))
                made = await desk.create(receiver, url=receiver.at(path))
                sent = ids(await beside.publish(arrival("R1")))
                await receiver.until(lambda: len(got()) == 1)
                await sending.change(made, state="disabled")
                await beside.publish(arrival("R1"))
                await desk.change(made, state="enabled")
                sent += ids(await beside.publish(arrival("R1")))
                await receiver.until(lambda: len(got()) == 2)
                await sending.settled(made)
                assert got() == sent


async def test_a_burst_into_many_entities_arrives_once_each_and_in_order(desk: Desk, receiver: Receiver) -> None:
    """While some of it fails: order holds within each entity, and nothing is lost."""
    made = await desk.create(receiver, "*")
    failing: dict[str, int] = {}

    def decide(call: Call) -> Answer:
        # Every seventh event fails at first; never so many in a row that the endpoint is spared.
        return Answer(500) if failing.setdefault(call.id, len(failing)) % 7 == 3 and call.attempt == 1 else OK

    receiver.decide = decide
    events = [desk.house.reservation(f"R{number % 20}", action="updated") for number in range(200)]
    receipts = await desk.house.publish(*events)
    taken: dict[str, list[str]] = {}
    await receiver.until(lambda: len({call.id for call in receiver.calls}) == 200)
    await desk.settled(made)
    for call in receiver.calls:
        if failing[call.id] % 7 != 3 or call.attempt == 2:
            taken.setdefault(call.entity, []).append(call.id)
    assert taken == {f"reservation:R{number}": ids(receipts[number::20]) for number in range(20)}


async def test_batched_events_wait_for_their_time_or_for_a_later_one(
    outward: Callable[..., Any], receiver: Receiver
) -> None:
    """Until the batch is due, or an event of the same entity that does not wait: order holds."""
    async with outward(batch_cron="0 0 29 2 *") as house:
        desk = Desk(house)
        made = await desk.create(receiver, "*")
        (waits,) = await house.publish(house.reservation("R1", sync_mode="batch"))
        (goes,) = await house.publish(house.reservation("R2"))
        assert (await receiver.next()).id == goes["event_id"]
        async with asyncio.timeout(10):
            # The answer to the other one may not be written down yet.
            while (await desk.show(made))["waiting"] != 1:
                pass
        (later,) = await house.publish(house.reservation("R1", action="updated"))
        assert told(await receiver.take(2)) == ids([waits, later])


# -- what fails -------------------------------------------------------------------------------------------------------


async def test_order_holds_over_failures_and_others_pass(desk: Desk, receiver: Receiver) -> None:
    """An entity's second event waits for its first, however often that fails; another entity's does not."""
    await desk.create(receiver, "*")
    cured = False
    receiver.decide = lambda call: OK if cured or call.entity != "reservation:BAD" or call.attempt > 3 else Answer(500)
    publish, reservation = desk.house.publish, desk.house.reservation
    receipts = await publish(
        reservation("BAD"), reservation("BAD", action="updated"), reservation("G1"), reservation("G2")
    )
    await receiver.until(lambda: len(receiver.calls) == 7)
    bad = [(call.id, call.attempt) for call in receiver.calls if call.entity == "reservation:BAD"]
    first, second = ids(receipts[:2])
    assert bad == [(first, 1), (first, 2), (first, 3), (first, 4), (second, 1)]
    third = next(call.number for call in receiver.calls if (call.id, call.attempt) == (first, 2))
    assert [call.number < third for call in receiver.calls if call.entity != "reservation:BAD"] == [True, True]


async def test_retry_after_is_honoured(desk: Desk, receiver: Receiver) -> None:
    """As seconds, where the schedule alone would have tried again at once."""
    await desk.create(receiver)
    receiver.script.append(busy(1, 429))
    (receipt,) = await desk.house.publish(arrival("R1"))
    first, second = await receiver.take(2)
    assert first.id == second.id == receipt["event_id"]
    assert second.attempt == 2
    assert second.at - first.at >= 1


async def test_an_answer_that_does_not_come_is_a_failure(outward: Callable[..., Any], receiver: Receiver) -> None:
    """After HUB_WEBHOOK_TIMEOUT_S; the next attempt gets through. One that is under way is not made again because the
    endpoint was changed meanwhile."""
    async with outward(webhook_timeout_s=1.5) as house:
        desk = Desk(house)
        made = await desk.create(receiver)
        receiver.script.append(SILENCE)
        (receipt,) = await house.publish(arrival("R1"))
        first = await receiver.next()
        await desk.change(made, description="changed")
        second = await receiver.next()
        assert second.at - first.at >= 1.5
        (attempted, _) = await desk.hooks(receipt["event_id"], "attempted", "delivered")
        assert "took longer than 1.5 s" in attempted["error_message"]
        assert (await desk.settled(made))["last_error"] is None


async def test_what_is_gone_is_disabled_and_an_alarm_says_so(desk: Desk, receiver: Receiver, other: Receiver) -> None:
    """At once, to the system whose endpoint it was and no other; no event goes there any more."""
    made = await desk.create(receiver, "reservation.*")
    beside = await desk.create(other, "reservation.*")
    receiver.script.append(Answer(410))
    async with desk.house.socket() as socket, desk.house.socket(token=desk.house.token(SAAS)) as stranger:
        for one in (socket, stranger):
            await one.ask("subscribe", id=1, patterns=["system.*"])
        await desk.house.publish(desk.house.reservation("R1"))
        alarm = (await socket.next())["event"]
        await stranger.quiet()
    assert (alarm["type"], alarm["action"]) == ("system", "alarm")
    assert alarm["data"]["severity"] == "critical"
    assert alarm["data"]["detail"] == {"endpoint_id": made["id"], "system": PMS, "reason": "it answered 410 Gone"}
    shown = await eventually(lambda: desk.show(made), lambda found: found["state"] == "disabled")
    assert shown["reason"] == "it answered 410 Gone"
    # When this has taken effect, so has the other.
    await desk.change(beside, description="seen")
    before = len(receiver.calls)
    await desk.house.publish(desk.house.reservation("R2"))
    await other.take(2)
    assert len(receiver.calls) == before
    await desk.recover(made, code=409, since=shown["created_at"])


async def test_a_redirect_is_not_followed(desk: Desk, receiver: Receiver, other: Receiver) -> None:
    """Neither to a cloud's metadata nor to where it would be allowed; the error says what to do."""
    await desk.create(receiver)
    receiver.script += [moved("http://169.254.169.254/latest/meta-data/", 307), moved(other.url, 308)]
    (receipt,) = await desk.house.publish(arrival("R1"))
    assert [call.attempt for call in await receiver.take(3)] == [1, 2, 3]
    (first, second, _) = await desk.hooks(receipt["event_id"], "attempted", "attempted", "delivered")
    assert (first["error_message"], second["error_message"]) == (
        "HTTP 307: redirects are not followed; the URL must be the last one",
        "HTTP 308: redirects are not followed; the URL must be the last one",
    )
    assert other.untouched


async def test_a_name_that_leads_inside_later_is_not_called(
    outward: Callable[..., Any], receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address is judged at every attempt, not only when the endpoint is made."""
    addresses = ["93.184.215.14"]

    async def resolve(host: str, port: int) -> list[str]:
        return addresses

    monkeypatch.setattr("hub.assembly.LookUps", lambda: resolve)
    async with outward() as house:
        desk = Desk(house)
        made = await desk.create(receiver, url=f"https://rebinding.example:{receiver.port}/hook")
        addresses[:] = ["93.184.215.14", "127.0.0.1"]
        (receipt,) = await house.publish(arrival("R1"))
        shown = await eventually(lambda: desk.show(made), lambda found: found["last_error"] is not None)
        assert shown["last_error"] == "the host rebinding.example leads to a loopback address"
        tested = await desk.ask("POST", f"/{made['id']}/test", **OPS)
        assert (tested["outcome"], tested["delivered"], tested["status"]) == ("forbidden", False, None)
        assert (await desk.trace(receipt["event_id"]))["systems"][PMS]["status"] in ("waiting", "retrying")
    assert receiver.untouched


async def test_the_rate_is_kept(desk: Desk, receiver: Receiver) -> None:
    """Its attempts a second at most, after as many at once."""
    await desk.create(receiver, "*", rate_limit=5)
    await desk.house.publish(*[desk.house.reservation() for _ in range(10)])
    calls = await receiver.take(10)
    assert calls[-1].at - calls[0].at >= 0.9


# -- what is known of it ----------------------------------------------------------------------------------------------


async def test_the_story_and_the_log_say_what_became_of_it(outward: Callable[..., Any], receiver: Receiver) -> None:
    """Attempts with their numbers and errors, the delivery, the giving up; listed by status."""
    async with outward(webhook_schedule=(0.05,)) as house:
        desk = Desk(house)
        made = await desk.create(receiver, "*", system=MEMBER)
        receiver.decide = lambda call: Answer(500, body=b"no such room") if call.entity.endswith("BAD") else OK
        receiver.script.append(Answer(503))
        (good,) = await house.publish(house.reservation("GOOD", targets=[MEMBER]))
        await receiver.take(2)
        await desk.settled(made)
        (bad,) = await house.publish(house.reservation("BAD", targets=[MEMBER]))
        await receiver.take(2)

        steps = await desk.hooks(good["event_id"], "attempted", "delivered")
        assert [(one["step"], one["attempts"], one["error_message"]) for one in steps] == [
            ("attempted", 1, "HTTP 503"),
            ("delivered", 2, None),
        ]
        assert {(one["system"], one["name"]) for one in steps} == {(MEMBER, made["id"])}
        trace = await desk.trace(good["event_id"])
        assert (trace["delivery_status"], trace["systems"][MEMBER]["status"]) == ("success", "delivered")
        assert trace["retry_count"] == 1

        steps = await desk.hooks(bad["event_id"], "attempted", "attempted", "given_up")
        assert steps[-1]["error_message"] == "HTTP 500: no such room"
        trace = await desk.trace(bad["event_id"])
        assert (trace["delivery_status"], trace["systems"][MEMBER]["status"]) == ("failed", "failed")
        for status, receipt in (("success", good), ("failed", bad)):
            params = {"status": status, "system": MEMBER}
            answer = await house.http.get("/deliveries", params=params, headers=house.headers(**OPS))
            assert [one["event_id"] for one in answer.json()["deliveries"]] == [receipt["event_id"]], status
        assert (await desk.settled(made))["last_error"] == "HTTP 500: no such room"


async def test_a_test_sends_a_sample_that_is_no_event(desk: Desk, receiver: Receiver) -> None:
    """Signed, marked, with the answer shown; it is in no history, and a failure changes nothing."""
    made = await desk.create(receiver)
    receiver.script += [Answer(200, body=b"hello"), Answer(500, body=b"oops"), moved("http://169.254.169.254/")]
    good, bad, elsewhere = [await desk.ask("POST", f"/{made['id']}/test") for _ in range(3)]
    call = await receiver.next()
    assert call.headers["hub-test"] == "true"
    assert (call.json["type"], call.json["action"], call.json["tenant_id"]) == ("system", "notice", "default")
    assert (good["delivered"], good["status"], good["response"], good["error"]) == (True, 200, "hello", None)
    assert good["webhook_id"] == call.id
    assert (bad["delivered"], bad["status"], bad["error"], bad["response"]) == (False, 500, "HTTP 500: oops", "oops")
    assert (elsewhere["outcome"], elsewhere["status"]) == ("redirect", 302)
    found = await desk.house.http.get("/events", headers=desk.house.headers())
    assert found.json()["events"] == []
    shown = await desk.show(made)
    assert (shown["state"], shown["last_error"], shown["waiting"]) == ("enabled", None, 0)


# -- what is changed --------------------------------------------------------------------------------------------------


async def test_after_a_rotation_both_secrets_sign(desk: Desk, receiver: Receiver) -> None:
    """So an endpoint may change over when it likes; the new secret is shown this once."""
    made = await desk.ask("POST", "", {"url": receiver.url, "patterns": ["*"]}, code=201)
    old = made["secret"]
    assert "secret" not in await desk.show(made)
    own = fresh_secret()
    for asked in ({}, {"secret": own}, None):
        rotated = await desk.ask("POST", f"/{made['id']}/rotate", asked)
        new = rotated["secret"]
        assert new != old
        assert rotated["old_secret_until"] > datetime.now(UTC).isoformat()
        assert (asked or {}).get("secret", new) == new
        for secret in (old, new):
            receiver.secrets = [secret]
            await desk.house.publish(desk.house.reservation())
            call = await receiver.next()
            assert len(call.headers["webhook-signature"].split(" ")) == 2
        Webhook(new).verify(call.body, call.headers)
        Webhook(old).verify(call.body, call.headers)
        old = new
    assert "secret" not in str(await desk.ask("GET", "", **OPS))


async def test_a_disabled_endpoint_gets_nothing_and_an_enabled_one_what_comes(
    desk: Desk, receiver: Receiver, other: Receiver
) -> None:
    """What it missed comes by recovering it: after a cursor, or since a time; in order, up to now."""
    made = await desk.create(receiver, "reservation.*")
    await desk.create(other, "reservation.*")
    publish, reservation = desk.house.publish, desk.house.reservation
    (before,) = await publish(reservation("R1"))
    await receiver.next()
    disabled = await desk.change(made, state="disabled")
    assert (disabled["state"], disabled["reason"]) == ("disabled", "by hand")
    missed = await publish(reservation("R1", action="updated"), reservation("R1", action="updated"))
    await other.take(3)
    assert receiver.untaken == []
    assert (await desk.change(made, state="enabled"))["reason"] is None
    (later,) = await publish(reservation("R1", action="updated"))
    assert (await receiver.next()).id == later["event_id"]

    await desk.settled(made)
    await desk.recover(made, after=before["cursor"])
    assert told(await receiver.take(3)) == ids([*missed, later])
    await desk.settled(made)
    await desk.recover(made, since=before_all(disabled))
    assert told(await receiver.take(4)) == ids([before, *missed, later])
    await desk.settled(made)
    assert receiver.untaken == []
    assert {call.headers.get("hub-replay") for call in receiver.calls} == {None}
    (again,) = await publish(reservation("R1", action="updated"))
    assert (await receiver.next()).id == again["event_id"]


def before_all(made: dict[str, Any]) -> str:
    """A time before anything was published for it."""
    moment: str = made["created_at"]
    return moment


async def test_it_may_be_recovered_while_events_come(desk: Desk, receiver: Receiver) -> None:
    """From the beginning: what was before comes in order within each entity, so does what comes meanwhile, which may
    overtake it; each event once."""
    events = [desk.house.reservation(f"R{number % 10}", action="updated") for number in range(150)]
    before = ids(await desk.house.publish(*events))
    made = await desk.create(receiver, "*")
    await desk.recover(made, after="earliest")
    meanwhile = ids(await desk.house.publish(*events))
    await receiver.until(lambda: {call.id for call in receiver.calls} == {*before, *meanwhile})
    await desk.settled(made)
    for sent in (before, meanwhile):
        taken: dict[str, list[str]] = {}
        for call in receiver.calls:
            if call.id in sent:
                taken.setdefault(call.entity, []).append(call.id)
        assert taken == {f"reservation:R{number}": sent[number::10] for number in range(10)}


async def test_a_recovery_from_nowhere_is_refused(desk: Desk, receiver: Receiver) -> None:
    """The answer names the field; another tenant's cursor is none of its own."""
    (receipt,) = await desk.house.publish(desk.house.reservation(), tenants=["elsewhere"])
    made = await desk.create(receiver)
    for asked, field in (
        ({}, "after"),
        ({"after": "earliest", "since": "2026-01-01T00:00:00Z"}, "after"),
        ({"since": "2999-01-01T00:00:00Z"}, "since"),
        ({"since": "yesterday"}, "since"),
        ({"form": "earliest"}, "form"),
    ):
        problem = await desk.recover(made, code=422, **asked)
        assert problem["errors"][0]["path"] == field
    for cursor in ("x", receipt["cursor"]):
        assert (await desk.recover(made, code=422, after=cursor))["code"] == "invalid_cursor"


async def test_a_deleted_endpoint_is_called_no_more(desk: Desk, receiver: Receiver, other: Receiver) -> None:
    """Also for what it was owed; it is not there."""
    receiver.decide = lambda _: Answer(500)
    other.decide = lambda call: Answer(500) if call.attempt < 4 else OK
    made = await desk.create(receiver, "*")
    await desk.create(other, "*")
    await desk.house.publish(desk.house.reservation())
    await receiver.next()
    await other.next()
    await desk.ask("DELETE", f"/{made['id']}", code=204)
    calls = len(receiver.calls)
    await other.take(3)
    assert len(receiver.calls) <= calls
    for method, path in (("GET", ""), ("PATCH", ""), ("DELETE", ""), ("POST", "/test"), ("POST", "/rotate")):
        await desk.ask(method, f"/{made['id']}{path}", {}, code=404)
    assert [one["id"] for one in (await desk.ask("GET", ""))["webhooks"]] != [made["id"]]


async def test_what_is_changed_holds_for_the_next_event(desk: Desk, receiver: Receiver, other: Receiver) -> None:
    """Each field by itself; null takes patterns and the rate limit away; what was not named stays."""
    made = await desk.create(receiver, "*", rate_limit=7, description="front desk")
    publish, reservation = desk.house.publish, desk.house.reservation
    changed = await desk.change(made, url=other.at("/new"), payload="thin")
    other.secrets = receiver.secrets
    kept = ("patterns", "rate_limit", "description", "system", "tenant_id", "state", "view", "created_at")
    assert {name: changed[name] for name in kept} == {name: made[name] for name in kept}
    await publish(reservation("R1"))
    call = await other.next()
    assert (call.path, "data" in call.json) == ("/new", False)

    changed = await desk.change(made, patterns=["reservation.updated"], payload="full", rate_limit=None)
    assert (changed["rate_limit"], changed["critical_only"]) == (None, False)
    await publish(reservation("R2"), reservation("R2", action="updated"))
    call = await other.next()
    assert (call.json["action"], "data" in call.json) == ("updated", True)

    changed = await desk.change(made, patterns=None)
    assert changed["critical_only"]
    await publish(reservation("R3", action="updated"), arrival("R3"))
    assert (await other.next()).json["type"] == "checkin_checkout"
    assert receiver.untouched
    assert other.untaken == []


async def test_a_replay_fires_no_webhook_that_it_does_not_name(desk: Desk, receiver: Receiver) -> None:
    """To a channel it sends everything again, and to endpoints nothing."""
    made = await desk.create(receiver, "*")
    publish, reservation = desk.house.publish, desk.house.reservation
    receipts = await publish(reservation("R1"), reservation("R2"))
    await receiver.take(2)
    async with desk.house.socket() as socket:
        await socket.ask("subscribe", id=1, patterns=["*"], replay="again")
        asked = {"target": {"system": PMS, "channel": "again"}, "speed": "full"}
        answer = await desk.house.http.post("/replays", json=asked, headers=desk.house.headers(**OPS))
        assert answer.status_code == 201, answer.text
        assert [frame["op"] for frame in await socket.take(3)] == ["event", "event", "notice"]
    (later,) = await publish(reservation("R1", action="updated"))
    assert (await receiver.next()).id == later["event_id"]
    await desk.settled(made)
    assert sorted(told(receiver.calls)) == sorted(ids([*receipts, later]))


async def test_a_replay_to_a_webhook_is_marked(desk: Desk, receiver: Receiver, other: Receiver) -> None:
    """It sends to the endpoint that it names, by the same ids, and to no other."""
    made = await desk.create(receiver, "*")
    beside = await desk.create(other, "*")
    publish, reservation = desk.house.publish, desk.house.reservation
    receipts = await publish(*[reservation("R1", action="updated") for _ in range(3)])
    await receiver.take(3)
    await other.take(3)
    asked = {"target": {"webhook": made["id"]}, "speed": "full", "tenants": ["default"]}
    answer = await desk.house.http.post("/replays", json=asked, headers=desk.house.headers(**OPS))
    assert answer.status_code == 201, answer.text
    calls = await receiver.take(3)
    assert told(calls) == ids(receipts)
    assert {call.headers["hub-replay"] for call in calls} == {answer.json()["replay_id"]}
    (later,) = await publish(reservation("R1", action="updated"))
    call = await receiver.next()
    assert (call.id, "hub-replay" in call.headers) == (later["event_id"], False)
    await other.next()
    for one in (made, beside):
        await desk.settled(one)
    assert receiver.untaken == other.untaken == []


async def test_what_is_owed_outlives_the_hub(outward: Callable[..., Any], receiver: Receiver, tmp_path: Path) -> None:
    """One that stops in the middle of failures goes on where it was, with the next attempt, the order kept."""
    receiver.decide = lambda _: Answer(500)
    async with outward(data_dir=tmp_path / "hub") as house:
        await Desk(house).create(receiver, "*")
        receipts = await house.publish(house.reservation("R1"), house.reservation("R1", action="updated"))
        await receiver.take(2)
    known = len(receiver.calls)
    receiver.decide = lambda _: OK
    async with outward(data_dir=tmp_path / "hub") as house:
        (made,) = (await Desk(house).ask("GET", ""))["webhooks"]
        await Desk(house).settled(made)
    rest = receiver.calls[known:]
    assert told(rest) == ids(receipts)
    assert rest[0].attempt > known - 1
    assert rest[1].attempt == 1


# -- who may ----------------------------------------------------------------------------------------------------------


async def test_an_endpoint_is_its_systems_own(desk: Desk, receiver: Receiver) -> None:
    """To another system, and to another tenant, it is not there; operators of its tenant see it."""
    made = await desk.create(receiver, "*")
    assert made["system"] == PMS
    strangers: list[dict[str, Any]] = [
        {"system": SAAS},
        {"system": PMS, "tenants": ["elsewhere"]},
        {"system": "hub", "tenants": ["elsewhere"], "scopes": ["ops", "subscribe:*"]},
        {"system": "hub", "tenants": ["*"], "scopes": ["subscribe:*"]},
    ]
    for token in strangers:
        for method, path, asked in (
            ("GET", "", None),
            ("PATCH", "", {"state": "disabled"}),
            ("DELETE", "", None),
            ("POST", "/test", None),
            ("POST", "/rotate", {}),
            ("POST", "/recover", {"after": "earliest"}),
        ):
            problem = await desk.ask(method, f"/{made['id']}{path}", asked, code=404, **token)
            assert problem["code"] == "not_found"
        assert (await desk.ask("GET", "", **token))["webhooks"] == []
    assert (await desk.show(made))["state"] == "enabled"
    for own in ({}, OPS, {"system": SAAS, "scopes": ["ops"]}):
        assert [one["id"] for one in (await desk.ask("GET", "", **own))["webhooks"]] == [made["id"]]
    assert receiver.calls == []
    for id in ("0" * 36, str(uuid4()), "x" * 5000, "%00", "..%2Fevents"):
        await desk.ask("GET", f"/{id}", code=404, **OPS)


async def test_listings_are_by_tenant(desk: Desk, receiver: Receiver) -> None:
    """Of those that are named, all of the token by default, oldest first."""
    made = [await desk.create(receiver, tenants=[tenant]) for tenant in ("ta", "tb", "ta")]
    own = [one["id"] for one in made]

    async def listed(path: str = "", **token: Any) -> list[str]:
        return [one["id"] for one in (await desk.ask("GET", path, **(token or OPS)))["webhooks"]]

    assert await listed() == own
    assert await listed("?tenant=ta") == [own[0], own[2]]
    assert await listed("?tenant=tb&tenant=tc") == [own[1]]
    assert await listed(tenants=["tb", "tc"]) == [own[1]]
    await desk.ask("GET", "?tenant=ta", code=403, tenants=["tb"])


async def test_a_token_gives_no_more_than_it_has(desk: Desk, receiver: Receiver) -> None:
    """Neither patterns beyond its scopes, nor another system or tenant."""
    cases: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"scopes": ["subscribe:room.*"]}, {"patterns": ["reservation.*"]}),
        ({"scopes": ["subscribe:room.*"]}, {"patterns": ["room.*", "*"]}),
        ({"scopes": ["publish:*"]}, {}),
        ({"scopes": ["publish:*"]}, {"patterns": ["room.*"]}),
        ({}, {"system": SAAS}),
        ({}, {"tenant_id": "elsewhere"}),
        ({"tenants": ["ta", "tb"]}, {"tenant_id": "default"}),
    ]
    for token, asked in cases:
        problem = await desk.ask("POST", "", {"url": receiver.url} | asked, code=403, **token)
        assert problem["code"] == "forbidden"


async def test_a_narrower_token_leads_nothing_wider_elsewhere(desk: Desk, receiver: Receiver, other: Receiver) -> None:
    """Of the same system: it changes nothing of an endpoint that gets more, and does not get its secret."""
    made = await desk.create(receiver, "*")
    narrow: dict[str, Any] = {"scopes": ["subscribe:room.*"]}
    await desk.change(made, code=403, as_=narrow, url=other.url)
    await desk.change(made, code=403, as_=narrow, patterns=["reservation.*"])
    await desk.change(made, code=403, as_=narrow, patterns=["room.*"])
    for way in ("rotate", "recover"):
        asked = {} if way == "rotate" else {"after": "earliest"}
        await desk.ask("POST", f"/{made['id']}/{way}", asked, code=403, **narrow)
        await desk.ask(
            "POST", f"/{made['id']}/{way}", asked, code=403, **OPS | narrow | {"scopes": ["ops", "subscribe:room.*"]}
        )
    await desk.ask("DELETE", f"/{made['id']}", code=403, **narrow)
    # What waited while it got more does not go where a narrower one leads it.
    receiver.decide = lambda _: Answer(500)
    await desk.house.publish(desk.house.reservation("R1"))
    await receiver.next()
    assert (await desk.change(made, patterns=["room.*"]))["patterns"] == ["room.*"]
    await desk.change(made, as_=narrow, url=other.url)
    await desk.settled(made)
    assert other.calls == []
    own = await desk.ask("POST", "", {"url": receiver.url}, code=201, scopes=["subscribe:reservation.created"])
    assert (own["patterns"], own["critical_only"]) == (["reservation.created"], True)


async def test_operators_make_endpoints_of_any_system(desk: Desk, receiver: Receiver) -> None:
    """In a tenant and for a system that they name."""
    made = await desk.create(receiver, "*", **OPS | {"system": PMS, "tenant_id": "default", "tenants": ["*"]})
    asked = {"url": receiver.url}
    for more, field in (
        ({"tenant_id": "default"}, "system"),
        ({"tenant_id": "default", "system": "hub"}, "system"),
        ({"tenant_id": "default", "system": "no-system"}, "system"),
        ({"system": SAAS}, "tenant_id"),
    ):
        problem = await desk.ask("POST", "", asked | more, code=422, **OPS)
        assert problem["errors"][0]["path"] == field
    other = await desk.ask("POST", "", asked | {"system": SAAS, "tenant_id": "default"}, code=201, **OPS)
    assert (made["system"], other["system"]) == (PMS, SAAS)


# -- bad input --------------------------------------------------------------------------------------------------------


BAD: list[tuple[dict[str, Any], str]] = [
    ({"url": None}, "url"),
    ({"url": ""}, "url"),
    ({"url": 7}, "url"),
    ({"url": "not a url"}, "url"),
    ({"url": "ftp://pms.example/"}, "url"),
    ({"url": "https://user:secret@pms.example/"}, "url"),
    ({"url": "http://pms.example/"}, "url"),
    ({"url": "http://93.184.215.14/"}, "url"),
    ({"url": "https://pms.example/#part"}, "url"),
    ({"url": "https://pms.example/" + "a" * 2000}, "url"),
    ({"url": "https://127.0.0.2/"}, "url"),
    ({"url": "https://10.0.0.1/"}, "url"),
    ({"url": "https://169.254.169.254/latest/meta-data/"}, "url"),
    ({"url": "https://[::1]/"}, "url"),
    ({"url": "https://[::ffff:10.0.0.1]/"}, "url"),
    ({"url": "https://2130706433/"}, "url"),
    ({"url": "https://0x7f.1/"}, "url"),
    ({"url": "https://loopback.example/"}, "url"),
    ({"url": "https://mapped.example/"}, "url"),
    ({"url": "https://both.example/"}, "url"),
    ({"url": "https://pms.example:0/"}, "url"),
    ({"url": "https://pms.example/\nHost: x"}, "url"),
    ({"secret": "whsec_" + "A" * 8}, "secret"),
    ({"secret": fresh_secret(23)}, "secret"),
    ({"secret": fresh_secret(65)}, "secret"),
    ({"secret": "A" * 44}, "secret"),
    ({"secret": "whsec_!!!" + "A" * 40}, "secret"),
    ({"patterns": []}, "patterns"),
    ({"patterns": ["Room"]}, "patterns.0"),
    ({"patterns": ["room.*"] * 65}, "patterns"),
    ({"payload": "raw"}, "payload"),
    ({"rate_limit": 0}, "rate_limit"),
    ({"rate_limit": 1001}, "rate_limit"),
    ({"rate_limit": "5"}, "rate_limit"),
    ({"description": "x" * 501}, "description"),
    ({"tenant_id": "no tenant"}, "tenant_id"),
    ({"system": "No System"}, "system"),
    ({"retries": 5}, "retries"),
    ({"id": "mine"}, "id"),
]
INSIDE = {
    "loopback.example": ["127.0.0.1"],
    "mapped.example": ["::ffff:10.0.0.1"],
    "both.example": ["93.184.215.14", "192.168.1.1"],
}


async def test_bad_fields_are_named(outward: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With what is wrong with them, when one is made and when it is changed; then nothing is, and no secret is
    repeated."""

    async def resolve(host: str, port: int) -> list[str]:
        return INSIDE.get(host, ["93.184.215.14"])

    monkeypatch.setattr("hub.assembly.LookUps", lambda: resolve)
    good = {"url": "https://pms.example/hook"}
    async with outward() as house:
        desk = Desk(house)
        made = await desk.ask("POST", "", good, code=201)
        for asked, field in BAD:
            tried = [await desk.ask("POST", "", good | asked, code=422)]
            if asked.keys() <= {"url", "patterns", "payload", "rate_limit", "description", "retries", "id"}:
                tried.append(await desk.change(made, code=422, **asked))
            for problem in tried:
                assert [one["path"] for one in problem["errors"]] == [field], asked
                assert problem["errors"][0]["message"]
                assert "secret" not in asked or asked["secret"] not in str(problem)
        for asked, field in (
            ({"state": "paused"}, "state"),
            ({"state": None}, "state"),
            ({"payload": None}, "payload"),
            ({"description": None}, "description"),
            ({"secret": fresh_secret()}, "secret"),
            ({"system": SAAS}, "system"),
            ({"tenant_id": "elsewhere"}, "tenant_id"),
            ({"view": "full"}, "view"),
        ):
            problem = await desk.change(made, code=422, **asked)
            assert [one["path"] for one in problem["errors"]] == [field], asked
        problem = await desk.ask("POST", f"/{made['id']}/rotate", {"secret": fresh_secret(8)}, code=422)
        assert problem["errors"][0]["path"] == "secret"
        listed = (await desk.ask("GET", "", **OPS))["webhooks"]
        assert [one | {"secret": made["secret"]} for one in listed] == [made]


async def test_bodies_that_are_none_are_refused(desk: Desk) -> None:
    """What is no JSON object, and what is larger than the limit."""
    for raw, code, name in (
        (b"{", 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"),
        (b'{"url": 1, "url": 2}', 400, "invalid_json"),
        (b"[]", 422, "invalid_request"),
        (b"null", 422, "invalid_request"),
        (b"", 422, "invalid_request"),
        (b'{"url": "' + b"x" * 1024 * 1024 + b'"}', 413, "too_large"),
    ):
        assert (await desk.ask("POST", "", raw, code=code))["code"] == name, raw[:20]
    assert (await desk.ask("GET", "", **OPS))["webhooks"] == []


async def test_a_tenant_has_a_hundred_endpoints_at_most(desk: Desk, receiver: Receiver) -> None:
    """Another tenant's do not count; one that is deleted makes room."""
    await desk.create(receiver, tenants=["elsewhere"])
    made = [await desk.create(receiver) for _ in range(100)]
    problem = await desk.ask("POST", "", {"url": receiver.url}, code=422)
    assert "100 endpoints" in problem["errors"][0]["message"]
    await desk.ask("DELETE", f"/{made[0]['id']}", code=204)
    await desk.create(receiver)
    (receipt,) = await desk.house.publish(arrival("R1"))
    assert set(told(await receiver.take(100))) == {receipt["event_id"]}


async def test_the_routes_are_documented(desk: Desk) -> None:
    """In OpenAPI, with what their bodies may be and must be."""
    document = (await desk.house.http.get(f"http://127.0.0.1:{desk.house.hub.port}/openapi.json")).json()
    paths = {path: set(found) for path, found in document["paths"].items() if path.startswith("/api/v1/webhooks")}
    assert paths == ROUTES
    body = document["paths"]["/api/v1/webhooks"]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"]
    assert body["required"]
    assert schema["required"] == ["url"]
    assert set(schema["properties"]) >= {"url", "system", "tenant_id", "patterns", "payload", "rate_limit", "secret"}
