"""PINs: which will do, what they come to, and how wrong ones slow down the next (R90)."""

from __future__ import annotations

import sys
import threading
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pin_desk import BOSS, BOSS_PIN, CHEAP, CLERK, CLERK_PIN, PinDesk

from consumers.offline import lockout
from consumers.offline import operators as operators_module
from consumers.offline.errors import LocalFull
from consumers.offline.lockout import Attempts, SystemUptime, counted, delay_s, left_s, served
from consumers.offline.operators import OperatorDisabled, Operators, PinMustWait, UnknownOperator, WrongPin
from consumers.offline.pin import Cost, InvalidPin, chosen, keys_of, plain
from consumers.offline.roster import Roster, RosterUnreadable

WRONG = "9407"


def wrong(desk: Operators, operator: str = CLERK) -> WrongPin:
    """Type a wrong PIN."""
    with pytest.raises(WrongPin) as told:
        desk.sign_in(operator, WRONG)
    return told.value


def waits(desk: Operators, pin: str, operator: str = CLERK) -> float:
    """Type a PIN that is not even looked at; how long it has to wait yet."""
    with pytest.raises(PinMustWait) as told:
        desk.sign_in(operator, pin)
    return told.value.wait_s


def refusal(pin: str) -> str | None:
    """Why a PIN will not do."""
    try:
        chosen(pin, CLERK)
    except InvalidPin as error:
        return error.reason
    return None


def outcome(desk: Operators, pin: str) -> WrongPin | PinMustWait | None:
    """What came of a PIN; None: it was right."""
    try:
        desk.sign_in(CLERK, pin)
    except (WrongPin, PinMustWait) as error:
        return error
    return None


# -- which will do ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", ["", "123", "1234567890123", "12a4", "12.4", "-1234", "12 34", "²³⁴x", "١٢٣٤"])
def test_what_is_no_pin(typed: str) -> None:
    """4 to 12 digits and nothing else; the error does not repeat what was typed."""
    with pytest.raises(InvalidPin, match="4 to 12 digits") as told:
        plain(typed)
    assert typed == "" or typed not in str(told.value)


def test_a_japanese_keyboard_types_full_width_digits() -> None:
    """１２３４ is the same PIN as 1234, and spaces around it are nothing."""
    assert plain("５８２０") == plain(" 5820\u3000") == "5820"


@pytest.mark.parametrize(
    "pin", ["0000", "1234", "4321", "7890", "0987", "1212", "123123", "1122", "2580", "1984", "2026", "012345678901"]
)
def test_what_anybody_would_try(pin: str) -> None:
    """Repeated digits, digits in a row, years and rows of the keypad are refused, with what to do."""
    with pytest.raises(InvalidPin, match="choose another one"):
        chosen(pin, CLERK)


def test_the_operators_own_number_is_no_pin() -> None:
    """Who signs in as desk 5820 may not have that as the PIN; anybody else may."""
    with pytest.raises(InvalidPin, match="own number"):
        chosen("5820", "desk-5820")
    assert chosen("5820", CLERK) == "5820"


@given(start=st.integers(0, 9), length=st.integers(4, 10), down=st.booleans())
def test_no_run_of_digits_will_do(start: int, length: int, down: bool) -> None:
    """Wherever it starts, upwards or down."""
    pin = "".join(str((start + (-step if down else step)) % 10) for step in range(length))
    with pytest.raises(InvalidPin):
        chosen(pin, CLERK)


@given(st.integers(0, 9999))
def test_most_pins_of_four_digits_will_do(number: int) -> None:
    """What is refused is refused for a reason that is told; all else passes unchanged."""
    pin = f"{number:04}"
    reason = refusal(pin)
    assert reason is None or (reason and pin not in reason)
    if reason is None:
        assert chosen(pin, CLERK) == pin


def test_few_pins_are_refused() -> None:
    """The policy leaves more than 96 of 100 PINs of four digits."""
    assert sum(refusal(f"{number:04}") is None for number in range(10_000)) > 9600


# -- what they come to ------------------------------------------------------------------------------------------------


def test_the_default_cost_works() -> None:
    """scrypt takes 32 MiB a PIN by default, and is let have it."""
    assert Cost() == (2**15, 8, 1)
    assert len(keys_of("5820", b"s" * 16, Cost()).verifier) == 32


def test_keys_depend_on_pin_salt_and_cost_alone() -> None:
    """The same gives the same; anything else gives something else, and what is stored is not what opens."""
    keys = keys_of("5820", b"s" * 16, CHEAP)
    assert keys == keys_of("5820", b"s" * 16, CHEAP)
    others = [
        keys_of("5821", b"s" * 16, CHEAP),
        keys_of("5820", b"t" * 16, CHEAP),
        keys_of("5820", b"s" * 16, Cost(4, 1, 1)),
    ]
    assert all(not other.verifies(keys.verifier) for other in others)
    assert len({keys.wrapping, keys.verifier, *(other.wrapping for other in others)}) == 5
    assert repr(keys) == "PinKeys(…)"


# -- the growing wait, as numbers -------------------------------------------------------------------------------------


def test_the_wait_grows_to_an_hour() -> None:
    """Four are free; the fifth costs 30 s, each further one twice as much, up to an hour."""
    waits = [delay_s(wrong) for wrong in range(15)]
    assert waits == [0] * 5 + [30, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    assert delay_s(10**9) == 3600


@given(st.integers(0, 40), st.floats(0, 1e6), st.lists(st.floats(0, 5000), max_size=8))
def test_only_running_time_shortens_a_wait(wrong: int, at: float, steps: list[float]) -> None:
    """Within a boot it runs down as time goes; what another boot's clock shows does nothing."""
    attempts = counted(Attempts(wrong), "a", at)
    assert attempts.wrong == wrong + 1
    now = at
    for step in steps:
        before, now = left_s(attempts, "a", now), now + step
        assert max(0.0, before - step - 1e-6) <= left_s(attempts, "a", now) <= before
        assert left_s(attempts, "b", now * 1000) == attempts.wait_s
    elsewhere = served(attempts, "b", 3.0)
    assert left_s(elsewhere, "b", 3.0) == attempts.wait_s
    assert left_s(elsewhere, "b", 3.0 + attempts.wait_s) == 0


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells its boots apart")
def test_the_machines_own_uptime_outlives_the_program() -> None:
    """Two starts within one boot: the same boot, and time does not go back."""
    first, second = SystemUptime(), SystemUptime()
    assert first.boot == second.boot
    assert first.seconds() <= second.seconds()


def test_where_boots_cannot_be_told_apart_every_start_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Then a restart of the program begins the wait again: never shorter, at most an hour longer."""
    monkeypatch.setattr(lockout, "_BOOT_ID", tmp_path / "none")
    first, second = SystemUptime(), SystemUptime()
    assert first.boot != second.boot
    assert first.seconds() <= first.seconds()


# -- the growing wait, at the desk ------------------------------------------------------------------------------------


def test_thirty_wrong_pins_with_restarts_between() -> None:
    """Each counts and costs its wait, whatever is restarted and however the clock is set, before the right one too."""
    house = PinDesk()
    desk, waited = house.staffed(), 0.0
    for count in range(1, 31):
        told = wrong(desk)
        assert (told.wrong, told.wait_s) == (count, delay_s(count))
        if told.wait_s:
            house.wall += timedelta(days=400 if count % 2 else -400)
            house.machine.pass_by(told.wait_s / 2)
            if count % 3 == 0:
                desk = house.start()
            assert waits(desk, CLERK_PIN) == pytest.approx(told.wait_s / 2)
            if count % 5 == 0:
                house.machine.reboot()
                desk = house.start()
                # What was served and seen before the reboot counts.
                assert waits(desk, CLERK_PIN) == pytest.approx(told.wait_s / 2)
            house.machine.pass_by(told.wait_s / 2 - 0.001)
            assert 0 < waits(desk, CLERK_PIN) <= 0.01
            house.machine.pass_by(0.01)
            waited += told.wait_s
        elif count == 3:
            desk = house.start()
    assert waited > 20 * 3600
    assert desk.sign_in(CLERK, CLERK_PIN).role == "front_desk"
    assert wrong(desk).wrong == 1


def test_a_right_pin_forgets_the_wrong_ones() -> None:
    """Four wrong, a right one, and four are free again, after a restart as well."""
    house = PinDesk()
    desk = house.staffed()
    for _ in range(4):
        wrong(desk)
    desk.sign_in(CLERK, CLERK_PIN)
    desk = house.start()
    assert [wrong(desk).wait_s for _ in range(5)] == [0, 0, 0, 0, 30]


def test_a_reboot_that_nobody_saw_waiting_starts_the_wait_again() -> None:
    """How long the machine was off nobody can tell: the wait that was last written is served in full, then ends."""
    house = PinDesk()
    desk = house.staffed()
    for _ in range(5):
        wrong(desk)
    house.machine.pass_by(20)
    house.machine.reboot()
    desk = house.start()
    house.machine.pass_by(29)
    assert waits(desk, CLERK_PIN) == 1
    house.machine.pass_by(1)
    assert desk.sign_in(CLERK, CLERK_PIN)


def test_operators_wait_each_for_themselves() -> None:
    """Who locked himself out does not lock out the others, and the list shows it."""
    desk = PinDesk().staffed()
    for _ in range(5):
        wrong(desk)
    assert [(one.name, one.wrong, one.wait_s) for one in desk.all()] == [(CLERK, 5, 30.0), (BOSS, 0, 0.0)]
    assert desk.sign_in(BOSS, BOSS_PIN).role == "manager"


def test_it_is_counted_before_it_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who pulls the plug while a PIN is checked has used up an attempt."""
    house = PinDesk()
    desk = house.staffed()

    def plug_pulled(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(operators_module, "keys_of", plug_pulled)
        for _ in range(5):
            with pytest.raises(KeyboardInterrupt):
                desk.sign_in(CLERK, WRONG)
    assert waits(house.start(), CLERK_PIN) == 30


def test_no_pin_is_checked_that_cannot_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a full disk nobody finds out whether a PIN is right."""
    house = PinDesk()
    desk = house.staffed()
    house.disk.broken = LocalFull("desk.db", "no space")
    monkeypatch.setattr(operators_module, "keys_of", lambda *_: pytest.fail("it was checked"))
    with pytest.raises(LocalFull):
        desk.sign_in(CLERK, CLERK_PIN)


def test_attempts_at_once_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten threads with wrong PINs: five are checked, the others have to wait."""
    desk = PinDesk().staffed()
    told: list[type] = []
    # Where they could be counted at once, all of them would be: they wait for each other here.
    together = threading.Barrier(10)

    def counted_together(*given: Any) -> Attempts:
        with suppress(threading.BrokenBarrierError):
            together.wait(0.1)
        return counted(*given)

    monkeypatch.setattr(operators_module, "counted", counted_together)

    def attempt() -> None:
        told.append(type(outcome(desk, WRONG)))

    threads = [threading.Thread(target=attempt) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told, key=str) == [PinMustWait] * 5 + [WrongPin] * 5


def test_what_cannot_be_a_pin_is_not_counted() -> None:
    """A slip on the keyboard costs no attempt; neither does a name that the desk does not have."""
    desk = PinDesk().staffed()
    for typed in ("", "12", "abcd"):
        with pytest.raises(InvalidPin):
            desk.sign_in(CLERK, typed)
    with pytest.raises(UnknownOperator):
        desk.sign_in("nobody", CLERK_PIN)
    assert {one.wrong for one in desk.all()} == {0}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.just("wrong"),
            st.sampled_from(["right", "restart", "reboot", "clock"]),
            st.floats(0, 4000).map(lambda seconds: ("wait", seconds)),
        ),
        max_size=40,
    )
)
def test_no_order_of_things_gets_a_pin_checked_too_early(story: list[Any]) -> None:
    """A PIN is checked only after its wait in running time, and always after it in one boot."""
    house = PinDesk()
    desk = house.staffed()
    count, running, in_boot = 0, 0.0, 0.0
    for step in [*["wrong"] * 4, *story]:
        match step:
            case ("wait", seconds):
                house.machine.pass_by(seconds)
                running, in_boot = running + seconds, in_boot + seconds
            case "restart":
                desk = house.start()
            case "reboot":
                house.machine.reboot()
                desk, in_boot = house.start(), 0.0
            case "clock":
                house.wall += timedelta(days=365)
            case _:
                told = outcome(desk, CLERK_PIN if step == "right" else WRONG)
                if isinstance(told, PinMustWait):
                    assert in_boot < delay_s(count) + 1e-6
                    assert told.wait_s <= delay_s(count)
                    continue
                assert running >= delay_s(count) - 1e-6
                count = 0 if told is None else count + 1
                assert (told is None) == (step == "right")
                assert told is None or told.wrong == count
                running, in_boot = 0.0, 0.0


# -- changing and disabling -------------------------------------------------------------------------------------------


def test_a_pin_is_changed_by_who_knows_the_old_one() -> None:
    """The new one counts from then on; a wrong old one is counted as any wrong PIN; the same one is no change."""
    house = PinDesk()
    desk = house.staffed()
    with pytest.raises(InvalidPin, match="the old one"):
        desk.change_pin(CLERK, CLERK_PIN, CLERK_PIN)
    with pytest.raises(InvalidPin, match="too easy"):
        desk.change_pin(CLERK, CLERK_PIN, "1111")
    with pytest.raises(WrongPin) as told:
        desk.change_pin(CLERK, WRONG, "6172")
    assert told.value.wrong == 1
    desk.change_pin(CLERK, CLERK_PIN, "6172")
    desk = house.start()
    with pytest.raises(WrongPin):
        desk.sign_in(CLERK, CLERK_PIN)
    assert desk.sign_in(CLERK, "6172").role == "front_desk"


def test_a_manager_helps_who_forgot_the_pin() -> None:
    """A new PIN ends the wait, and works at once."""
    desk = PinDesk().staffed()
    for _ in range(5):
        wrong(desk)
    desk.enrol(CLERK, "6172", "front_desk", by=desk.sign_in(BOSS, BOSS_PIN))
    assert desk.sign_in(CLERK, "6172").operator == CLERK


def test_a_disabled_operator_comes_in_no_more() -> None:
    """The session ends at once, the PIN opens nothing, and nothing of it is left on the disk."""
    house = PinDesk()
    desk = house.staffed()
    session = desk.sign_in(CLERK, CLERK_PIN)
    desk.disable(CLERK, by=desk.sign_in(BOSS, BOSS_PIN))
    assert session.ended
    desk = house.start()
    with pytest.raises(OperatorDisabled, match="new PIN"):
        desk.sign_in(CLERK, CLERK_PIN)
    assert Roster.decode(house.disk.values["operators"]).operators[CLERK].lock is None
    assert [(one.name, one.disabled) for one in desk.all()] == [(CLERK, True), (BOSS, False)]
    desk.enrol(CLERK, "6172", "housekeeping", by=desk.sign_in(BOSS, BOSS_PIN))
    assert desk.sign_in(CLERK, "6172").role == "housekeeping"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format":2}', b'{"format":1,"operators":{"a":{}}}'])
def test_a_damaged_roster_is_no_empty_one(damage: bytes) -> None:
    """Nobody becomes the first manager of a desk by damaging its file; starting over forgets what was sealed."""
    house = PinDesk()
    desk = house.staffed()
    desk.sign_in(BOSS, BOSS_PIN).secrets.put("token", b"t")
    house.disk.values["operators"] = damage
    with pytest.raises(RosterUnreadable, match="start over"):
        desk.enrol("thief", "6172", "manager", by=None)
    desk.start_over()
    assert house.disk.values == {}


def test_a_stored_cost_beyond_measure_is_damage() -> None:
    """A changed file cannot make a sign-in eat the machine's memory."""
    house = PinDesk()
    house.staffed()
    house.disk.values["operators"] = house.disk.values["operators"].replace(b'"n":2,', b'"n":1073741824,')
    with pytest.raises(RosterUnreadable):
        Operators(house.disk, cost=CHEAP, uptime=house.machine).sign_in(CLERK, CLERK_PIN)
