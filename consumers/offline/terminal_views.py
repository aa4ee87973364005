"""How the terminal program shows the desk: banner and footer (R97-R100), lists, marks, explanations."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import Any, Final

from consumers.offline.capabilities import Capability
from consumers.offline.comparison import Compared
from consumers.offline.engine import SyncOutcome
from consumers.offline.guidance import Guidance
from consumers.offline.items import LogEntry, QueueItem, Record, SyncNote
from consumers.offline.rebuild import Rebuilt
from consumers.offline.recovery import Report
from consumers.offline.status import WAITING_MARK, Status, Text
from consumers.offline.terminal_console import Column, Console

ICONS: Final = {"offline": "✖", "warning": "⚠", "syncing": "⟳", "waiting": "…", "check": "✔"}
STYLES: Final = {"red": "bold white on red", "amber": "bold yellow", "green": "bold green"}
LEVELS: Final = {"info": "cyan", "warning": "yellow", "critical": "bold red"}
SKEW_MS: Final = 1000
"""Less than this nobody needs to be told of."""

_ITEM: Final = {
    "queued": Text(WAITING_MARK, "waiting"),
    "syncing": Text(WAITING_MARK, "waiting"),
    "failed": Text("同期失敗", "failed"),
    "conflict": Text("競合", "conflict"),
    "synced": Text("同期済み", "synced"),
    "discarded": Text("破棄", "discarded"),
}

RESERVATIONS: Final = (
    Column("reservation", Text("予約", "reservation")),
    Column("guest", Text("お客様", "guest")),
    Column("room", Text("客室", "room")),
    Column("type", Text("タイプ", "type")),
    Column("in", Text("到着", "in")),
    Column("out", Text("出発", "out")),
    Column("status", Text("状態", "status")),
    Column("total", Text("金額", "total"), right=True),
    Column("sync", Text("同期", "sync")),
)
ROOMS: Final = (
    Column("room", Text("客室", "room")),
    Column("type", Text("タイプ", "type")),
    Column("status", Text("状態", "status")),
    Column("housekeeping", Text("清掃", "housekeeping")),
    Column("guests", Text("滞在中", "guests")),
    Column("notes", Text("メモ", "notes")),
    Column("sync", Text("同期", "sync")),
)
ORDERS: Final = (
    Column("order", Text("注文", "order")),
    Column("room", Text("客室", "room")),
    Column("reservation", Text("予約", "reservation")),
    Column("items", Text("品目", "items")),
    Column("total", Text("金額", "total"), right=True),
    Column("state", Text("状態", "state")),
    Column("sync", Text("同期", "sync")),
)
QUEUE: Final = (
    Column("sequence", Text("番号", "no."), right=True),
    Column("mark", Text("同期", "sync")),
    Column("model", Text("種類", "model")),
    Column("operation", Text("操作", "operation")),
    Column("entity", Text("対象", "entity")),
    Column("made", Text("時刻", "made")),
    Column("retries", Text("再試行", "retries"), right=True),
    Column("error", Text("理由", "reason")),
    Column("uuid", Text("ID", "uuid")),
)
CONFLICTS: Final = (
    Column("conflict", Text("競合ID", "conflict")),
    Column("model", Text("種類", "model")),
    Column("operation", Text("操作", "operation")),
    Column("entity", Text("対象", "entity")),
    Column("made", Text("時刻", "made")),
    Column("said", Text("この端末の内容", "this desk says")),
    Column("reason", Text("理由", "reason")),
)
CAPABILITIES: Final = (
    Column("mark", Text("", "")),
    Column("label", Text("機能", "function")),
    Column("note", Text("備考", "note")),
    Column("name", Text("名前", "name")),
)
OPERATIONS: Final = (
    Column("at", Text("時刻", "at")),
    Column("operator", Text("担当", "operator")),
    Column("operation", Text("操作", "operation")),
    Column("target", Text("対象", "target")),
    Column("result", Text("結果", "result")),
    Column("detail", Text("詳細", "detail")),
)
HISTORY: Final = (
    Column("at", Text("時刻", "at")),
    Column("trigger", Text("きっかけ", "trigger")),
    Column("outcome", Text("結果", "outcome")),
    Column("pushed", Text("送信", "pushed"), right=True),
    Column("pulled", Text("受信", "pulled"), right=True),
    Column("ms", Text("ミリ秒", "ms"), right=True),
    Column("detail", Text("詳細", "detail")),
)
OPERATORS: Final = (
    Column("name", Text("担当者", "name")),
    Column("role", Text("役割", "role")),
    Column("state", Text("状態", "state")),
)

# -- the state of the desk --------------------------------------------------------------------------------------------


def banner(console: Console, status: Status) -> None:
    """Show a state: Japanese with English, whatever the language."""
    if status.banner is not None:
        text = Text(f"{ICONS[status.icon]} {status.banner.ja}", status.banner.en)
        console.both(text, STYLES[status.color])
    if status.detail is not None:
        console.say(f"  {console.text(status.detail)}", STYLES[status.color])


def footer(console: Console, status: Status, device: str, operator: str | None) -> None:
    """The sync indicator under every screen (R99)."""
    line = Text("オンライン", "online") if status.online else Text("オフライン", "offline")
    who = operator or "-"
    told = Text(
        f"[{line.ja}] {status.footer.ja} | {device} | {who}", f"[{line.en}] {status.footer.en} | {device} | {who}"
    )
    console.say(told, "dim")


def skew_text(skew_ms: int | None) -> Text | None:
    """How far this computer's clock is off; None: it is not known, or within what a request takes."""
    if skew_ms is None or abs(skew_ms) < SKEW_MS:
        return None
    seconds = abs(skew_ms) / 1000
    ja, en = ("進んで", "ahead of") if skew_ms > 0 else ("遅れて", "behind")
    return Text(f"この端末の時計はハブより {seconds:.0f} 秒{ja}います", f"this clock is {seconds:.0f} s {en} the hub's")


def guide(console: Console, told: Sequence[Guidance]) -> None:
    """Tell the staff what to do (R83)."""
    for one in told:
        text = one.ja if console.language == "ja" else one.en
        console.say(f"■ {text.title}", LEVELS[one.level])
        for step in text.steps:
            console.say(f"  ・{step}")


def recovery_line(report: Report) -> tuple[Text, str]:
    """One step of a recovery, and its style."""
    detail = f": {report.detail}" if report.detail else ""
    return (
        Text(
            f"復旧 {report.number}/{report.total} {report.step}（{report.attempt}回目、{report.state}）{detail}",
            f"recovery {report.number}/{report.total} {report.step} (attempt {report.attempt}, {report.state}){detail}",
        ),
        "dim",
    )


def outcome_text(outcome: SyncOutcome, pushed: int, pulled: int) -> Text:
    """What a sync came to; `pushed` and `pulled` since the last one that was asked for."""
    counts = outcome.counts
    numbers = Text(
        f"送信 {pushed}、受信 {pulled}、{WAITING_MARK} {counts.waiting}、失敗 {counts.failed}、競合 {counts.conflict}",
        f"{pushed} sent, {pulled} received, {counts.waiting} waiting, "
        f"{counts.failed} failed, {counts.conflict} in conflict",
    )
    if outcome.state == "done":
        return Text(f"同期完了: {numbers.ja}", f"synced: {numbers.en}")
    if outcome.state == "offline":
        return Text("オフライン中のため同期できません", "the hub is not reached: nothing was synced")
    detail = outcome.detail or outcome.state
    return Text(f"同期失敗（{outcome.state}）: {detail}", f"the sync ended as {outcome.state}: {detail}")


def compared_text(compared: Compared) -> Text:
    """How a comparison with the hub ended."""
    named = ", ".join(f"{type} {entity}" for type, entity in (compared.kept or compared.differing)[:5])
    match compared.state:
        case "equal":
            return Text(f"{compared.count}件すべて一致しました", f"all {compared.count} records are the hub's")
        case "repaired":
            return Text(
                f"{len(compared.differing)}件の相違を修復しました: {named}",
                f"{len(compared.differing)} records differed and were repaired: {named}",
            )
        case "differs":
            return Text(f"相違が残っています: {named}", f"some records differ from the hub's: {named}")
        case "postponed":
            return Text(f"照合は延期しました: {compared.reason}", f"not compared: {compared.reason}")


def rebuilt_text(rebuilt: Rebuilt) -> list[Text]:
    """What a rebuild came to."""
    told = [
        Text(
            f"修復しました: 項目 {rebuilt.items}（{WAITING_MARK} {rebuilt.waiting}、要確認 {rebuilt.uncertain}）",
            f"rebuilt: {rebuilt.items} items, {rebuilt.waiting} waiting, {rebuilt.uncertain} uncertain",
        ),
        Text(f"元のファイル: {rebuilt.aside}", f"the damaged file is kept as {rebuilt.aside}")
        if rebuilt.aside.exists()
        else Text("元のファイルはありません（控えから復元）", "there was no file: it is made of its journal"),
    ]
    return told + [Text(f"読めなかった部分: {hole}", f"could not be read: {hole}") for hole in rebuilt.holes]


# -- lists ------------------------------------------------------------------------------------------------------------


def waiting_mark(record: Record) -> str:
    """Beside a record with changes that the hub does not have yet (R98)."""
    return WAITING_MARK if record.pending else ""


def reservation_row(record: Record) -> dict[str, Any]:
    """One reservation."""
    data = record.data
    return {
        "reservation": data["reservation_id"],
        "guest": data.get("guest_name"),
        "room": data.get("room_number"),
        "type": data["room_type"],
        "in": data["checkin_date"],
        "out": data["checkout_date"],
        "status": data["status"],
        "total": data["total_amount"],
        "sync": waiting_mark(record),
    }


def room_row(record: Record, status: str, guests: Sequence[str]) -> dict[str, Any]:
    """One room."""
    data = record.data
    return {
        "room": data["room_number"],
        "type": data["room_type"],
        "status": status,
        "housekeeping": data.get("housekeeping"),
        "guests": ", ".join(guests),
        "notes": data.get("maintenance_notes"),
        "sync": waiting_mark(record),
    }


def order_row(console: Console, record: Record) -> dict[str, Any]:
    """One order."""
    data = record.data
    billed = Text("計上済み", "billed") if not data.get("estimated") else Text("未計上", "not billed")
    return {
        "order": data["order_id"],
        "room": data["room_number"],
        "reservation": data.get("reservation_id"),
        "items": ", ".join(f"{item['name']} x{item['quantity']}" for item in data["items"]),
        "total": data["total_amount"],
        "state": console.text(Text("取消", "cancelled") if record.deleted else billed),
        "sync": waiting_mark(record),
    }


def queue_row(console: Console, item: QueueItem, zone: tzinfo) -> dict[str, Any]:
    """One item on its way; times are on the property's clock."""
    return {
        "sequence": item.device_sequence,
        "mark": console.text(_ITEM[item.status]),
        "status": item.status,
        "model": item.model,
        "operation": item.operation,
        "entity": item.entity,
        "made": _shown(item.createdAt, zone),
        "retries": item.retries,
        "error": item.last_error,
        "uuid": item.uuid,
    }


def conflict_row(item: QueueItem, zone: tzinfo) -> dict[str, Any]:
    """One item that waits for a person, with what the hub said of it."""
    said = ", ".join(f"{name}={value}" for name, value in item.payload.items())
    return {
        "conflict": item.conflict_id,
        "uuid": item.uuid,
        "model": item.model,
        "operation": item.operation,
        "entity": item.entity,
        "made": _shown(item.createdAt, zone),
        "said": said,
        "reason": conflict_reason(item),
    }


def conflict_reason(item: QueueItem) -> str:
    """What the hub said of an item that waits for a person."""
    reasons = "; ".join(f"{error.path}: {error.message}" if error.path else error.message for error in item.errors)
    return reasons or item.last_error or item.model


def explained(console: Console, item: QueueItem) -> list[str]:
    """Why an item failed, and what can be done (R52, R53)."""
    told = [
        f"{item.model} {item.operation} {item.entity}  ({item.uuid})",
        console.text(
            Text(f"時刻 {item.createdAt}、再試行 {item.retries}回", f"made {item.createdAt}, {item.retries} retries")
        ),
        console.text(Text(f"理由: {item.last_error}", f"why: {item.last_error}")),
        *(f"  {error.path or '-'}: {error.message}" for error in item.errors),
        *(f"  {name} = {value}" for name, value in item.payload.items()),
    ]
    undone = (
        Text(
            "ハブが拒否したため、この端末でも取り消されています。",
            "The hub refused it: it is undone at this desk, too.",
        )
        if not item.laid
        else Text("この端末では有効のままです。", "At this desk it still counts.")
    )
    return [
        *told,
        console.text(undone),
        console.text(
            Text(
                f"再送信: resend {item.uuid[:8]}　破棄: discard {item.uuid[:8]} --reason …",
                f"send it again: resend {item.uuid[:8]}; give it up: discard {item.uuid[:8]} --reason …",
            )
        ),
    ]


def capability_row(console: Console, one: Capability) -> dict[str, Any]:
    """One function, and whether it works now."""
    mark = "×" if not one.available else "△" if one.degraded else "○"
    return {
        "mark": mark,
        "label": console.text(one.label),
        "note": None if one.note is None else console.text(one.note),
        "name": one.name,
        "level": one.level,
        "grey": not one.available,
    }


def log_row(entry: LogEntry, zone: tzinfo) -> dict[str, Any]:
    """One line of the operation log."""
    return {
        "at": _shown(entry.at, zone),
        "operator": entry.operator,
        "role": entry.role,
        "operation": entry.operation,
        "target": entry.target,
        "result": entry.result,
        "detail": entry.detail,
    }


def note_row(note: SyncNote, zone: tzinfo) -> dict[str, Any]:
    """One sync."""
    return {
        "at": _shown(note.at, zone),
        "trigger": note.trigger,
        "outcome": note.outcome,
        "pushed": note.pushed,
        "pulled": note.pulled,
        "ms": note.duration_ms,
        "detail": note.detail,
    }


def _shown(moment: datetime | str, zone: tzinfo) -> str:
    at = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return at.astimezone(zone).isoformat(timespec="seconds")
