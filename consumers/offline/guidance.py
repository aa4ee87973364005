"""What the staff at a desk should do now: in an outage and on the way back (R83, R84, R100). Pure; Japanese, English.

Texts name no guest and no room: they may stand where guests see them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, NamedTuple

from consumers.offline.failures import Action

Situation = Literal[
    "outage",
    "outage_long",
    "outage_day",
    "queue_full",
    "recovering",
    "pin_needed",
    "recovered",
    "unverified",
    "attention",
    "monitoring",
    "rebuild_proposed",
    "rebuilding",
    "rebuilt",
    "make_room",
    "failed",
]
Level = Literal["info", "warning", "critical"]

LONG_S: Final = 3600.0
"""An outage from here on is reported to the manager on duty."""
DAY_S: Final = 24 * 3600.0
QUEUE_ALERT: Final = 1000
"""Waiting items from here on are an alert (R54). Nothing is dropped."""


class Text(NamedTuple):
    """A title and what to do, in order."""

    title: str
    steps: tuple[str, ...]


class Guidance(NamedTuple):
    """What to tell the staff. `critical`: somebody must act, and it does not go away by itself."""

    situation: Situation
    level: Level
    ja: Text
    en: Text


_OUTAGE_JA: Final = (
    "チェックイン・チェックアウト・客室状態・日報・ルームサービスは通常どおり操作してください。端末に保存され、復旧後に自動で送信されます。",
    "新規会員登録、外部決済、OTAの在庫確認は復旧までできません。",
    "端末の電源を切らず、画面の「同期待ち」件数を確認してください。",
)
_OUTAGE_EN: Final = (
    "Go on with check-in, check-out, room status, daily report and room service as usual: they are kept on this "
    "computer and sent when the connection is back.",
    "New members, external payment and live OTA stock have to wait.",
    "Leave this computer on, and keep an eye on the number of waiting items.",
)

_ALL: Final[Mapping[Situation, Guidance]] = MappingProxyType(
    {
        one.situation: one
        for one in (
            Guidance("outage", "warning", Text("オフライン中", _OUTAGE_JA), Text("Offline", _OUTAGE_EN)),
            Guidance(
                "outage_long",
                "critical",
                Text(
                    "オフラインが1時間以上続いています",
                    (
                        "当直責任者に連絡し、ネットワーク機器（ルーター・LANケーブル）の状態を確認してください。",
                        "同じ客室を他の端末で割り当てないよう、客室の割り当ては一台の端末で行ってください。",
                        *_OUTAGE_JA,
                    ),
                ),
                Text(
                    "Offline for more than an hour",
                    (
                        "Tell the manager on duty, and check the network (router, cables).",
                        "Assign rooms at one desk only, so that no room is given twice.",
                        *_OUTAGE_EN,
                    ),
                ),
            ),
            Guidance(
                "outage_day",
                "critical",
                Text(
                    "オフラインが24時間以上続いています",
                    (
                        "システム管理者に至急連絡してください。",
                        "到着・出発一覧を印刷し、精算の控えを保管してください。",
                        *_OUTAGE_JA,
                    ),
                ),
                Text(
                    "Offline for more than a day",
                    (
                        "Call the system administrator now.",
                        "Print the lists of arrivals and departures, and keep copies of all settlements.",
                        *_OUTAGE_EN,
                    ),
                ),
            ),
            Guidance(
                "queue_full",
                "warning",
                Text(
                    "同期待ちが1000件を超えました",
                    (
                        "操作は続けられます。データは失われません。",
                        "当直責任者に同期待ちの件数を伝えてください。",
                    ),
                ),
                Text(
                    "More than 1000 items are waiting",
                    ("Go on working: nothing is lost.", "Tell the manager on duty how many items are waiting."),
                ),
            ),
            Guidance(
                "recovering",
                "info",
                Text(
                    "オンライン復旧・同期開始",
                    ("操作は続けられます。", "「全データ同期完了」と表示されるまで、端末の電源を切らないでください。"),
                ),
                Text(
                    "Back online, syncing",
                    ("Go on working.", "Leave this computer on until it says that all data are synced."),
                ),
            ),
            Guidance(
                "pin_needed",
                "warning",
                Text(
                    "セッション期限切れ・復旧時再認証",
                    (
                        "PINを入力してください。再認証と同期は自動で行われます。",
                        "PINが分からない場合は責任者に連絡してください。それまでの操作は端末に保存されます。",
                    ),
                ),
                Text(
                    "The session has expired",
                    (
                        "Enter your PIN. Signing in and syncing then go on by themselves.",
                        "If you do not know it, ask your manager. What you do meanwhile is kept on this computer.",
                    ),
                ),
            ),
            Guidance(
                "recovered",
                "info",
                Text("全データ同期完了", ("通常業務に戻ってください。すべての機能が使えます。",)),
                Text("All data are synced", ("Back to normal: all functions are available.",)),
            ),
            Guidance(
                "unverified",
                "warning",
                Text(
                    "同期済み・照合は未完了",
                    ("通常業務に戻ってください。データの照合は後で自動で行われます。",),
                ),
                Text(
                    "Synced, not yet compared",
                    ("Back to normal. The data are compared with the hub's later, by themselves.",),
                ),
            ),
            Guidance(
                "attention",
                "warning",
                Text(
                    "確認が必要な項目があります",
                    (
                        "同期失敗一覧を開き、失敗した項目を再送信するか、責任者に確認してください。",
                        "競合している項目は、責任者がどちらを採用するか決めるまで変更しないでください。",
                    ),
                ),
                Text(
                    "Some items need a look",
                    (
                        "Open the list of sync failures: send the failed items again, or ask your manager.",
                        "Do not change items in conflict until a manager has decided which version counts.",
                    ),
                ),
            ),
            Guidance(
                "monitoring",
                "info",
                Text(
                    "復旧後の監視中",
                    (
                        "通常どおり操作してください。約10分間、接続とデータを細かく確認しています。",
                        "復旧前後に手書きで控えた内容があれば、画面と照合してください。",
                    ),
                ),
                Text(
                    "Watching closely after the recovery",
                    (
                        "Work as usual. For about ten minutes connection and data are checked more often.",
                        "If you wrote anything down by hand meanwhile, hold it against the screen.",
                    ),
                ),
            ),
            Guidance(
                "rebuild_proposed",
                "critical",
                Text(
                    "保存エラー・データ修復",
                    (
                        "この端末に保存できません。操作を中止し、他の端末を使ってください。",
                        "責任者が「データ修復」を承認してください。同期待ちの項目は修復後に送信されます。",
                    ),
                ),
                Text(
                    "This computer cannot save",
                    (
                        "Stop working here and use another computer.",
                        "Ask a manager to approve the repair of the data. Waiting items are sent after it.",
                    ),
                ),
            ),
            Guidance(
                "rebuilding",
                "warning",
                Text(
                    "保存エラー・データ修復",
                    ("データを修復しています。終わるまで操作せず、端末の電源を切らないでください。",),
                ),
                Text(
                    "Repairing the data",
                    ("Do not use this computer or turn it off until the repair is done.",),
                ),
            ),
            Guidance(
                "rebuilt",
                "warning",
                Text(
                    "データ修復完了",
                    (
                        "直前の操作が画面に残っているか確認してください。残っていなければ、もう一度入力してください。",
                        "「要確認」の項目があれば、控えと照合してください。",
                    ),
                ),
                Text(
                    "The data are repaired",
                    (
                        "Check that your last operations are there; if one is not, enter it again.",
                        "Hold items listed as uncertain against your notes.",
                    ),
                ),
            ),
            Guidance(
                "make_room",
                "critical",
                Text(
                    "ディスクの空き容量がありません",
                    (
                        "この端末では新しい操作を保存できません。他の端末を使ってください。",
                        "システム管理者に連絡し、不要なファイルを削除してください。データベースのファイルは削除しないでください。",
                    ),
                ),
                Text(
                    "The disk is full",
                    (
                        "New operations cannot be kept here: use another computer.",
                        "Call the system administrator to make room. Never delete the database's own files.",
                    ),
                ),
            ),
            Guidance(
                "failed",
                "critical",
                Text(
                    "復旧に失敗しました",
                    (
                        "操作は続けられます。端末に保存され、データは失われません。",
                        "画面の詳細をシステム管理者に伝えてください。自動の再試行は続きます。",
                    ),
                ),
                Text(
                    "The recovery failed",
                    (
                        "Go on working: what you do is kept on this computer and not lost.",
                        "Tell the system administrator the details on the screen. Attempts go on by themselves.",
                    ),
                ),
            ),
        )
    }
)


def guidance(situation: Situation) -> Guidance:
    """What to tell the staff in a situation."""
    return _ALL[situation]


def in_outage(offline_s: float, waiting: int) -> list[Guidance]:
    """What to tell after so long an outage, with so many items waiting; the most urgent first (R83: escalate)."""
    situation: Situation = "outage_day" if offline_s >= DAY_S else "outage_long" if offline_s >= LONG_S else "outage"
    told = [_ALL[situation]]
    if waiting >= QUEUE_ALERT:
        told.append(_ALL["queue_full"])
    return told


def after_failure(action: Action) -> Guidance | None:
    """What to tell when a failure is answered so (R85); None where the staff need not know."""
    situation = _BY_ACTION.get(action)
    return None if situation is None else _ALL[situation]


_BY_ACTION: Final[Mapping[Action, Situation]] = MappingProxyType(
    {
        "go_offline": "outage",
        "ask_pin": "pin_needed",
        "propose_rebuild": "rebuild_proposed",
        "rebuild": "rebuilding",
        "make_room": "make_room",
        "escalate": "failed",
    }
)


def after_recovery(state: str, *, conflicts: int, failed: int, rebuilt: bool) -> list[Guidance]:
    """What to tell as a recovery ended in `state` (`consumers.offline.recovery.State`), the most urgent first."""
    if state not in ("recovered", "unverified"):
        return [_ALL[_BY_STATE[state]]]
    told = [_ALL["unverified"] if state == "unverified" else _ALL["recovered"], _ALL["monitoring"]]
    if conflicts or failed:
        # Not "all data are synced": some wait for a person.
        told = [_ALL["attention"], *(one for one in told if one.situation != "recovered")]
    return [_ALL["rebuilt"], *told] if rebuilt else told


_BY_STATE: Final[Mapping[str, Situation]] = MappingProxyType(
    {
        "running": "recovering",
        "offline": "outage",
        "pin_needed": "pin_needed",
        "rebuild_proposed": "rebuild_proposed",
        "make_room": "make_room",
        "failed": "failed",
    }
)
