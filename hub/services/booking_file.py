"""`hotel_bookings.csv`, bare or in a zip, row by row."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final
from zoneinfo import ZoneInfo

from hub.core.booking_rows import COLUMNS, EXTRA, Property
from hub.errors import HubError

MAX_BYTES: Final = 256 * 1024 * 1024
"""The most a CSV may measure unpacked; the real one has 17 MB."""

ZONE: Final = "Europe/Lisbon"


class BookingFileError(HubError):
    """The file as a whole cannot be read: which, at which line and column where that is known, and why."""

    def __init__(self, path: Path, message: str, line: int | None = None, column: str | None = None) -> None:
        place = "".join(
            [f", line {line}" if line is not None else "", f", column {column}" if column is not None else ""]
        )
        super().__init__(f"{path}{place}: {message}")
        self.path = path
        self.message = message
        self.line = line
        self.column = column


def portuguese_hotels(city: str = "city-hotel", resort: str = "resort-hotel") -> dict[str, Property]:
    """The file's two hotels as these tenants."""
    zone = ZoneInfo(ZONE)
    return {"City Hotel": Property(city, zone), "Resort Hotel": Property(resort, zone)}


def read_rows(path: Path, max_bytes: int = MAX_BYTES) -> Iterator[tuple[int, dict[str, str]]]:
    """Every row below the header with its line number, column by column, as it is read from the file.

    A short row lacks its last columns, a long one has the surplus under `EXTRA`: one bad row is its own affair.

    Raises:
        BookingFileError: the file cannot be opened, is no CSV with the columns of `COLUMNS`, is not UTF-8, or would
            measure more than `max_bytes` unpacked.
    """
    line = 0
    try:
        with _opened(path, max_bytes) as raw:
            reader = csv.reader(_decoded(path, raw), strict=True)
            header = next(reader, None)
            _check_header(path, header)
            assert header is not None
            width, line = len(header), reader.line_num
            for fields in reader:
                line = reader.line_num
                if not fields:
                    continue
                row = dict(zip(header, fields, strict=False))
                if len(fields) > width:
                    row[EXTRA] = ",".join(fields[width:])
                yield line, row
    except csv.Error as error:
        raise BookingFileError(path, str(error), line + 1) from error
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise BookingFileError(path, f"the zip is damaged: {error}", line + 1 if line else None) from error
    except OSError as error:
        raise BookingFileError(path, error.strerror or str(error)) from error


def _check_header(path: Path, header: list[str] | None) -> None:
    if header is None:
        raise BookingFileError(path, "the file is empty; its first line must name the columns", 1)
    missing = [column for column in COLUMNS if column not in header]
    if missing:
        raise BookingFileError(path, f"the header lacks {', '.join(missing)}", 1, missing[0])
    if twice := [column for column, count in Counter(header).items() if count > 1]:
        raise BookingFileError(path, "the header names the column twice", 1, twice[0])


def _decoded(path: Path, raw: BinaryIO) -> Iterator[str]:
    # Line by line, where a text file would decode a block ahead and know only the block.
    for number, line in enumerate(raw, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise BookingFileError(path, f"not UTF-8: {error.reason} {line[error.start]:#04x}", number) from error


@contextmanager
def _opened(path: Path, max_bytes: int) -> Iterator[BinaryIO]:
    if not zipfile.is_zipfile(path):
        size = path.stat().st_size
        if size > max_bytes:
            raise BookingFileError(path, f"{size} bytes; the limit is {max_bytes}")
        with path.open("rb") as bare:
            yield bare
        return
    with zipfile.ZipFile(path) as archive:
        member = _only_csv(path, archive)
        # The archive's own figure is binding: `zipfile` hands out no byte more than it says.
        if member.file_size > max_bytes:
            raise BookingFileError(path, f"{member.filename} unpacks to {member.file_size} bytes; max {max_bytes}")
        try:
            packed = archive.open(member)
        except (RuntimeError, NotImplementedError) as error:
            raise BookingFileError(path, f"{member.filename} cannot be unpacked: {error}") from error
        with io.BufferedReader(packed, 1 << 16) as unpacked:  # type: ignore[type-var]
            yield unpacked


def _only_csv(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    found = [
        member
        for member in archive.infolist()
        if member.filename.lower().endswith(".csv")
        and not member.is_dir()
        # What macOS adds beside every file.
        and not member.filename.startswith("__MACOSX/")
    ]
    if not found:
        raise BookingFileError(path, "the zip holds no CSV")
    if len(found) > 1:
        raise BookingFileError(path, f"the zip holds {len(found)} CSVs: {', '.join(one.filename for one in found)}")
    return found[0]
