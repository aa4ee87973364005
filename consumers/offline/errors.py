"""What the desk's local database raises. One root; each error carries its facts as fields."""

from __future__ import annotations

from collections.abc import Sequence

from consumers.errors import ConsumerError
from schemas.errors import FieldError


class LocalError(ConsumerError):
    """Root of what the local database raises on purpose."""


class InvalidChange(LocalError):
    """An operation does not fit, and nothing of it was kept.

    `errors` name the fields, like `changes.0.payload.room_number`.
    """

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{error.path}: {error.message}" for error in errors))
        self.errors = tuple(errors)


class NoSuchItem(LocalError):
    """The queue has no item of this uuid."""

    def __init__(self, uuid: str) -> None:
        super().__init__(f"the queue has no item {uuid}")
        self.uuid = uuid


class NotFailed(LocalError):
    """Only an item that failed can be sent again or discarded by hand."""

    def __init__(self, uuid: str, status: str) -> None:
        super().__init__(f"item {uuid} is {status}; only a failed one can be sent again or discarded")
        self.uuid = uuid
        self.status = status


class LocalFull(LocalError):
    """The disk has no room. Nothing of the call was kept; it can be repeated once there is room."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"no room for {path} ({reason}): nothing was kept; make room and do it again")
        self.path = path
        self.reason = reason


class LocalDamaged(LocalError):
    """The file's content is not what was written. `consumers.offline.salvage` reads what can be read of it."""

    def __init__(self, path: str, reasons: Sequence[str]) -> None:
        super().__init__(f"{path} is damaged: {'; '.join(reasons)}")
        self.path = path
        self.reasons = tuple(reasons)


class LocalUnusable(LocalError):
    """The file cannot be used as it is: of another desk or a newer release, or the disk does not read or write.

    When a write fails like this, whether it was kept is known only once the file is opened again.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


class OtherDesk(LocalUnusable):
    """The file is another desk's: its `field` (tenant_id, system or device_id) is `own`, and `given` was asked for."""

    def __init__(self, path: str, field: str, own: str, given: str) -> None:
        super().__init__(path, f"its {field} is {own!r}, not {given!r}: use that desk's own file")
        self.field = field
        self.own = own
        self.given = given


class LocalInUse(LocalUnusable):
    """Another process works on the file."""
