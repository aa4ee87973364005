"""The data key under the PINs, what is sealed by it, sessions, and the token that is fetched silently (R85, R90)."""

from __future__ import annotations

import asyncio
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from desk_rig import DeskRig
from hypothesis import given
from hypothesis import strategies as st
from pin_desk import BOSS, BOSS_PIN, CHEAP, CLERK, CLERK_PIN, PinDesk, jwt

from consumers.errors import Disconnected
from consumers.offline import operators as operators_module
from consumers.offline.errors import LocalFull
from consumers.offline.local_thread import LocalThread
from consumers.offline.operators import DeskOperators, InvalidOperator, LastManager, Operators, WrongPin
from consumers.offline.pin import InvalidPin, keys_of
from consumers.offline.roles import NotAllowed
from consumers.offline.sessions import SessionEnded
from consumers.offline.tokens import (
    CREDENTIAL,
    TOKEN,
    CachedToken,
    NoCredential,
    PinRequired,
    SilentSignIn,
    UnreadableToken,
    cached_token,
    keep_token,
)
from consumers.offline.vault import (
    CryptographyMissing,
    DatabaseVault,
    SealBroken,
    ThreadVault,
    VaultLocked,
    seal,
    unseal,
)

KEY = bytes(range(32))
NOON = datetime(2026, 7, 15, 12, 0, tzinfo=UTC)


# -- sealing ----------------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.lists(st.text(max_size=10), min_size=1, max_size=3))
def test_what_is_sealed_comes_back(value: bytes, what: list[str]) -> None:
    """As it was, under the same key and name; twice sealed it does not look the same."""
    sealed = seal(KEY, value, *what)
    assert unseal(KEY, sealed, *what) == value
    assert sealed != seal(KEY, value, *what)


@given(st.data())
def test_a_seal_tells_what_was_done_to_it(data: st.DataObject) -> None:
    """A flipped bit anywhere, a cut at either end, another key or another name: nothing of it is used."""
    sealed = seal(KEY, b"a token", "secrets", "a")
    at, bit = data.draw(st.integers(0, len(sealed) - 1)), data.draw(st.integers(0, 7))
    changed = bytearray(sealed)
    changed[at] ^= 1 << bit
    for broken in (bytes(changed), sealed[:at], sealed[at + 1 :]):
        with pytest.raises(SealBroken, match="tampered"):
            unseal(KEY, broken, "secrets", "a")
    for key, what in [(bytes(32), ("secrets", "a")), (KEY, ("secrets", "b")), (KEY, ("secrets", "a", ""))]:
        with pytest.raises(SealBroken):
            unseal(key, sealed, *what)


def test_without_cryptography_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes before anybody's attempt is counted."""
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)
    with pytest.raises(CryptographyMissing, match=r"hotel-event-hub\[offline\]"):
        Operators(PinDesk().disk)


# -- one data key, several operators ----------------------------------------------------------------------------------


def test_all_operators_open_the_same_secrets() -> None:
    """What one put another reads, after a restart and a change of PIN as well."""
    house = PinDesk()
    desk = house.staffed()
    desk.sign_in(BOSS, BOSS_PIN).secrets.put(CREDENTIAL, b"key of the hotel")
    desk.change_pin(CLERK, CLERK_PIN, "6172")
    secrets = house.start().sign_in(CLERK, "6172").secrets
    assert secrets.get(CREDENTIAL) == b"key of the hotel"
    secrets.put("other", b"o")
    secrets.put(CREDENTIAL, None)
    assert (secrets.get(CREDENTIAL), secrets.get("other")) == (None, b"o")


def test_nothing_lies_in_the_clear() -> None:
    """Neither PIN nor secret nor data key is on the disk, nor in what is printed of the objects."""
    house = PinDesk()
    desk = house.staffed()
    session = desk.sign_in(CLERK, CLERK_PIN)
    session.secrets.put(TOKEN, b"eyJ-a-token")
    raw = b"".join(house.disk.values.values())
    assert all(said not in raw for said in (b"eyJ-a-token", CLERK_PIN.encode() + b'"', session.secrets.key()))
    assert "eyJ" not in repr(CachedToken.read(jwt(NOON)))


def test_a_role_changed_in_the_file_opens_nothing() -> None:
    """Who writes himself into another role loses the data key with it."""
    house = PinDesk()
    desk = house.staffed()
    roster = orjson.loads(house.disk.values["operators"])
    roster["operators"][CLERK]["role"] = "manager"
    house.disk.values["operators"] = orjson.dumps(roster)
    with pytest.raises(SealBroken, match="data key"):
        desk.sign_in(CLERK, CLERK_PIN)


def test_one_operators_lock_does_not_open_as_anothers() -> None:
    """A clerk's own lock, copied to the manager's name, makes no manager."""
    house = PinDesk()
    desk = house.staffed()
    roster = orjson.loads(house.disk.values["operators"])
    roster["operators"][BOSS]["lock"] = roster["operators"][CLERK]["lock"]
    house.disk.values["operators"] = orjson.dumps(roster)
    with pytest.raises(SealBroken):
        desk.sign_in(BOSS, CLERK_PIN)


def test_secrets_that_were_tampered_with_can_be_started_over() -> None:
    """They are reported and never used; forgetting them is the way out."""
    house = PinDesk()
    secrets = house.staffed().sign_in(CLERK, CLERK_PIN).secrets
    secrets.put(TOKEN, b"t")
    sealed = house.disk.values["secrets"]
    house.disk.values["secrets"] = sealed[:-1] + bytes([sealed[-1] ^ 1])
    with pytest.raises(SealBroken):
        secrets.get(TOKEN)
    with pytest.raises(SealBroken):
        secrets.put(TOKEN, b"u")
    secrets.start_over()
    assert secrets.get(TOKEN) is None


def test_secrets_of_operators_that_are_gone_are_forgotten() -> None:
    """Where the roster was lost and the secrets were not, the new ones begin with none, not with broken ones."""
    house = PinDesk()
    house.staffed().sign_in(CLERK, CLERK_PIN).secrets.put(TOKEN, b"t")
    del house.disk.values["operators"]
    assert house.staffed().sign_in(CLERK, CLERK_PIN).secrets.get(TOKEN) is None


def test_who_may_let_somebody_work_here() -> None:
    """The first one, as manager; then managers, and never the last one out."""
    house = PinDesk()
    desk = house.start()
    with pytest.raises(NotAllowed):
        desk.enrol(CLERK, CLERK_PIN, "front_desk", by=None)
    desk.enrol(BOSS, BOSS_PIN, "manager", by=None)
    with pytest.raises(NotAllowed):
        desk.enrol("second", "6172", "manager", by=None)
    boss = desk.sign_in(BOSS, BOSS_PIN)
    desk.enrol(CLERK, CLERK_PIN, "front_desk", by=boss)
    clerk = desk.sign_in(CLERK, CLERK_PIN)
    with pytest.raises(NotAllowed):
        desk.enrol(CLERK, CLERK_PIN, "manager", by=clerk)
    with pytest.raises(NotAllowed):
        desk.disable(BOSS, by=clerk)
    with pytest.raises(LastManager):
        desk.disable(BOSS, by=boss)
    with pytest.raises(LastManager):
        desk.enrol(BOSS, "6172", "accounting", by=boss)
    desk.enrol(CLERK, "6172", "manager", by=boss)
    assert clerk.ended, "the role that it was opened in is gone"
    desk.disable(BOSS, by=desk.sign_in(CLERK, "6172"))
    with pytest.raises(SessionEnded):
        desk.enrol("third", "8053", "housekeeping", by=boss)


@pytest.mark.parametrize("name", ["", " a", "a ", "a\nb", "a" * 65])
def test_names_that_cannot_be(name: str) -> None:
    """They stand in lists and logs: no control characters, no spaces around."""
    with pytest.raises(InvalidOperator, match="operator"):
        PinDesk().start().enrol(name, BOSS_PIN, "manager", by=None)


def test_wrong_arguments_change_nothing() -> None:
    """A bad role or PIN leaves the desk without operators."""
    house = PinDesk()
    desk = house.start()
    with pytest.raises(InvalidOperator, match="role"):
        desk.enrol(BOSS, BOSS_PIN, "owner", by=None)  # type: ignore[arg-type]
    with pytest.raises(InvalidPin):
        desk.enrol(BOSS, "1234", "manager", by=None)
    assert house.disk.values == {}


# -- sessions ---------------------------------------------------------------------------------------------------------


def test_a_session_ends_when_nothing_is_done() -> None:
    """Each operation begins the time again; once it is over it never comes back, and the secrets are locked."""
    house = PinDesk()
    session = house.staffed().sign_in(CLERK, CLERK_PIN)
    secrets = session.secrets
    for _ in range(3):
        house.machine.pass_by(899)
        session.require("check_in", online=False)
    house.machine.pass_by(300)
    house.wall -= timedelta(days=1)
    assert session.idle_left_s == 600
    house.machine.pass_by(600)
    assert (session.ended, session.idle_left_s, session.may("check_in", online=True)) == (True, 0.0, False)
    with pytest.raises(SessionEnded, match="PIN"):
        session.touch()
    with pytest.raises(VaultLocked):
        secrets.get(TOKEN)
    house.machine.at -= 800
    assert session.ended


def test_a_session_allows_what_its_role_does() -> None:
    """Online more than offline; what is refused says whether the line is why."""
    session = PinDesk().staffed().sign_in(CLERK, CLERK_PIN)
    session.require("check_in", "refund", online=True)
    with pytest.raises(NotAllowed, match="while the hub is not reached") as told:
        session.require("check_in", "refund", online=False)
    assert told.value.offline_only
    with pytest.raises(NotAllowed, match="at all"):
        session.require("operators", online=True)
    session.end()
    with pytest.raises(SessionEnded):
        session.require("check_in", online=True)


# -- the token --------------------------------------------------------------------------------------------------------


def test_a_token_tells_when_it_expires() -> None:
    """Ten minutes before, it is to be renewed; from the second on it is over."""
    cached = CachedToken.read(jwt(NOON, sub="desk"))
    assert cached.expires_at == NOON
    states = [cached.state(NOON - timedelta(seconds=left)) for left in (601, 600, 1, 0, -1)]
    assert states == ["valid", "expiring", "expiring", "expired", "expired"]


@pytest.mark.parametrize(
    "token", ["", "a.b", "a.b.c", "a.e30.c", "a.eyJleHAiOiJ4In0.c", "a.eyJleHAiOjFlNDAwfQ.c", "a.W10.c"]
)
def test_what_is_no_token(token: str) -> None:
    """The error says what is wrong and does not repeat it."""
    with pytest.raises(UnreadableToken, match="exp"):
        CachedToken.read(token)


class Issuer:
    """Whoever issues tokens; `down` while the line is."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        self.down = False

    async def fetch(self, credential: bytes) -> str:
        self.seen.append(credential)
        if self.down:
            raise Disconnected("no line")
        return jwt(NOON + timedelta(hours=8), jti=str(len(self.seen)))


async def test_the_pin_is_asked_for_and_the_rest_is_silent() -> None:
    """R85: expired and nobody there takes the PIN; with it a fresh token is fetched and kept over a restart."""
    house, issuer = PinDesk(), Issuer()
    desk = house.staffed()
    session = desk.sign_in(CLERK, CLERK_PIN)
    session.secrets.put(CREDENTIAL, b"c")
    keep_token(session.secrets, CachedToken.read(jwt(NOON)))

    silent = SilentSignIn(issuer.fetch, now=lambda: NOON)
    with pytest.raises(PinRequired, match="PIN"):
        await silent.token()
    silent.signed_in(session)
    assert await silent.state() == "expired"
    token = await silent.token()
    assert issuer.seen == [b"c"]
    assert await silent.state() == "valid"

    again = SilentSignIn(issuer.fetch, now=lambda: NOON)
    again.signed_in(house.start().sign_in(CLERK, CLERK_PIN))
    assert await again.token() == token
    assert len(issuer.seen) == 1, "the sealed one is good"
    assert await again.token() != token, "who asks again was refused with it"


async def test_a_token_about_to_expire_is_renewed_while_the_line_is_there() -> None:
    """With the line down it is used as long as it lasts; an expired one is not."""
    issuer, now = Issuer(), [NOON - timedelta(minutes=5)]
    secrets_of = PinDesk().staffed().sign_in(CLERK, CLERK_PIN)
    secrets_of.secrets.put(CREDENTIAL, b"c")
    old = jwt(NOON)
    keep_token(secrets_of.secrets, CachedToken.read(old))
    issuer.down = True
    silent = SilentSignIn(issuer.fetch, now=lambda: now[0])
    silent.signed_in(secrets_of)
    assert await silent.token() == old
    now[0] = NOON
    with pytest.raises(Disconnected):
        await silent.token()
    issuer.down = False
    assert await silent.token() != old


async def test_a_session_that_ended_asks_for_the_pin() -> None:
    """Nobody's desk fetches no tokens."""
    house, issuer = PinDesk(), Issuer()
    session = house.staffed().sign_in(CLERK, CLERK_PIN)
    silent = SilentSignIn(issuer.fetch, now=lambda: NOON)
    silent.signed_in(session)
    with pytest.raises(NoCredential):
        await silent.token()
    session.secrets.put(CREDENTIAL, b"c")
    house.machine.pass_by(900)
    with pytest.raises(PinRequired):
        await silent.token()
    assert await silent.state() is None
    assert issuer.seen == []


async def test_a_token_that_cannot_be_kept_is_used_all_the_same() -> None:
    """A full disk does not keep the desk off line."""
    house, issuer = PinDesk(), Issuer()
    session = house.staffed().sign_in(CLERK, CLERK_PIN)
    session.secrets.put(CREDENTIAL, b"c")
    house.disk.broken = LocalFull("desk.db", "no space")
    silent = SilentSignIn(issuer.fetch, now=lambda: NOON)
    silent.signed_in(session)
    assert CachedToken.read(await silent.token()).state(NOON) == "valid"
    assert cached_token(session.secrets) is None


# -- in the desk's database -------------------------------------------------------------------------------------------


def found(directory: Path, said: bytes) -> bool:
    """Whether a file of the directory holds it."""
    return any(said in path.read_bytes() for path in directory.iterdir())


async def test_at_a_real_desk(rig: DeskRig, tmp_path: Path) -> None:
    """Over the database's own thread: secrets and attempts are in the file, and only there, when it is opened again."""
    local = await LocalThread.open(rig.open)
    desk = DeskOperators(local, cost=CHEAP)
    await desk.enrol(BOSS, BOSS_PIN, "manager", by=None)
    await desk.enrol(CLERK, CLERK_PIN, "front_desk", by=await desk.sign_in(BOSS, BOSS_PIN))
    session = await desk.sign_in(CLERK, CLERK_PIN)
    await asyncio.to_thread(session.secrets.put, TOKEN, b"eyJ-a-token")
    with pytest.raises(WrongPin):
        await desk.sign_in(CLERK, "9407")
    with pytest.raises(RuntimeError, match="to_thread"):
        session.secrets.get(TOKEN)
    await desk.change_pin(BOSS, BOSS_PIN, "6172")
    await local.close()

    assert not found(tmp_path, b"eyJ-a-token")
    assert found(tmp_path, b"operators")
    database = rig.open()
    try:
        operators = Operators(DatabaseVault(database), cost=CHEAP)
        assert [(one.name, one.wrong) for one in operators.all()] == [(CLERK, 1), (BOSS, 0)]
        assert operators.sign_in(CLERK, CLERK_PIN).secrets.get(TOKEN) == b"eyJ-a-token"
        operators.disable(CLERK, by=operators.sign_in(BOSS, "6172"))
        operators.start_over()
        assert operators.all() == []
    finally:
        database.close()


async def test_neither_loop_nor_database_waits_for_scrypt(rig: DeskRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a PIN is being checked the desk goes on saving operations."""
    local = await LocalThread.open(rig.open)
    desk = DeskOperators(local, cost=CHEAP)
    await desk.enrol(BOSS, BOSS_PIN, "manager", by=None)
    checking, go_on = threading.Event(), threading.Event()

    def slow(*given: object) -> object:
        checking.set()
        assert go_on.wait(10)
        return keys_of(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(operators_module, "keys_of", slow)
    signing_in = asyncio.create_task(desk.sign_in(BOSS, BOSS_PIN))
    await asyncio.to_thread(checking.wait, 10)
    assert (await local.call(lambda database: database.counts())).waiting == 0
    assert not signing_in.done()
    go_on.set()
    assert (await signing_in).operator == BOSS
    await local.close()


async def test_a_vault_of_a_closed_desk_says_so(rig: DeskRig) -> None:
    """It does not wait for ever."""
    local = await LocalThread.open(rig.open)
    vault = ThreadVault(local, asyncio.get_running_loop())
    await local.close()
    with pytest.raises(Exception, match="closed"):
        await asyncio.to_thread(vault.get, "operators")
