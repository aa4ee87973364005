"""What the terminal program tells of an error: in Japanese what it is, in English what the error says itself."""

from __future__ import annotations

import re
from typing import Final

from consumers.errors import AccessRefused, ConsumerError, Disconnected, HubRefused
from consumers.offline.desk import OfflineModeDisabled
from consumers.offline.errors import InvalidChange, LocalDamaged, LocalFull, LocalUnusable, NotFailed
from consumers.offline.operators import (
    InvalidOperator,
    LastManager,
    OperatorDisabled,
    PinMustWait,
    UnknownOperator,
    WrongPin,
)
from consumers.offline.pin import InvalidPin
from consumers.offline.sessions import SessionEnded
from consumers.offline.status import Text
from consumers.offline.tokens import UnreadableToken
from consumers.offline.vault import SealBroken

_CHANGE: Final = re.compile(r"^changes\.\d+\.(payload\.)?")
_JAPANESE: Final[dict[type[ConsumerError], str]] = {
    AccessRefused: "ハブがトークンを受け付けません",
    Disconnected: "ハブに接続できません",
    HubRefused: "ハブが拒否しました",
    OfflineModeDisabled: "オフライン中は操作できない設定です",
    InvalidChange: "入力内容に誤りがあります",
    LocalDamaged: "保存エラー・データ修復",
    LocalFull: "ディスクの空き容量がありません。保存されていません",
    LocalUnusable: "この端末のデータを使用できません",
    NotFailed: "同期失敗の項目ではありません",
    InvalidOperator: "担当者名または役割に誤りがあります",
    LastManager: "責任者がいなくなるため実行できません",
    OperatorDisabled: "この担当者は無効です",
    PinMustWait: "PINの誤りが続いたため、しばらく待ってください",
    UnknownOperator: "この担当者は登録されていません",
    WrongPin: "PINが違います",
    InvalidPin: "このPINは使用できません",
    SessionEnded: "一定時間操作がなかったため、PINを入力してください",
    UnreadableToken: "トークンを読み取れません",
    SealBroken: "封印されたデータが壊れています",
}


def _fields(error: InvalidChange) -> str:
    """What is wrong, by the fields' own names: which change of an operation it was nobody at the desk knows."""
    return "; ".join(f"{_CHANGE.sub('', one.path)}: {one.message}" for one in error.errors)


def failure(error: ConsumerError) -> Text:
    """What to tell of it."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, Text):
        return reason
    said = _fields(error) if isinstance(error, InvalidChange) else str(error) or type(error).__name__
    if isinstance(error, Disconnected):
        said = f"the hub is not reached: {said}"
    for kind in type(error).__mro__:
        if (japanese := _JAPANESE.get(kind)) is not None:
            return Text(f"{japanese}（{said}）", said)
    return Text(said, said)
