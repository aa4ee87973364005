"""How long devices take to come back whole: from the first push after an absence until nothing is left to push."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

AWAY_MS: Final = 60_000
"""A device that was not heard of for so long was away."""
REMEMBERED: Final = 10_000

Key = tuple[str, str]


class Recoveries:
    """What one hub has seen of devices coming back. Times are Unix ms. One it never heard of before tells nothing."""

    def __init__(self) -> None:
        self._heard: OrderedDict[Key, int] = OrderedDict()
        self._since: dict[Key, int] = {}

    def heard(self, key: Key, now_ms: int) -> None:
        """A device pushed or pulled."""
        self._heard[key] = now_ms
        self._heard.move_to_end(key)
        while len(self._heard) > REMEMBERED:
            gone, _ = self._heard.popitem(last=False)
            self._since.pop(gone, None)

    def pushed(self, key: Key, began_ms: int, now_ms: int, items: int, left: int | None) -> float | None:
        """A device pushed `items` and has `left` to push; the seconds its recovery took, where it ends here."""
        last = self._heard.get(key)
        if items and last is not None and began_ms - last >= AWAY_MS:
            self._since.setdefault(key, began_ms)
        self.heard(key, now_ms)
        if left != 0 or key not in self._since:
            return None
        return max(0, now_ms - self._since.pop(key)) / 1000
