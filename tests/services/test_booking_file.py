"""Reading `hotel_bookings.csv`: bare or zipped, and every way in which a file can be wrong."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from hub.core.booking_rows import COLUMNS, EXTRA
from hub.services.booking_file import BookingFileError, read_rows

HEADER = ",".join(COLUMNS)
LINE = ",".join(["City Hotel", *(str(n) for n in range(1, len(COLUMNS)))])


def zipped(path: Path, **members: str | bytes) -> Path:
    """A zip of these members; `_` in a name stands for its dot."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("_csv", ".csv"), content)
    return path


def text_file(path: Path, *lines: str) -> Path:
    """A CSV of these lines."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_rows_come_with_their_lines_and_columns(tmp_path: Path) -> None:
    """Rows are numbered as an editor numbers them, empty lines and line breaks in quotes included."""
    broken = LINE.replace("City Hotel", '"City\nHotel"')

    found = list(read_rows(text_file(tmp_path / "b.csv", HEADER, LINE, "", LINE, broken)))

    assert [line for line, _ in found] == [2, 4, 6]
    assert found[0][1]["hotel"] == "City Hotel"
    assert found[0][1]["reservation_status_date"] == str(len(COLUMNS) - 1)
    assert found[2][1]["hotel"] == "City\nHotel"


def test_a_zip_is_read_like_its_csv(tmp_path: Path) -> None:
    """A zip gives the rows of its one CSV, whatever macOS put beside it and whatever the zip's own name."""
    bare = text_file(tmp_path / "b.csv", HEADER, LINE, LINE)
    content = bare.read_bytes()

    members: dict[str, str | bytes] = {"b_csv": content, "__MACOSX/._b_csv": b"\0\5\26", "readme.txt": "x"}
    packed = zipped(tmp_path / "data", **members)

    assert list(read_rows(packed)) == list(read_rows(bare))


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    """What spreadsheets write is read as what it means."""
    path = tmp_path / "b.csv"
    path.write_bytes(b"\xef\xbb\xbf" + f"{HEADER}\r\n{LINE}\r\n".encode())

    assert [row["hotel"] for _, row in read_rows(path)] == ["City Hotel"]


def test_columns_may_stand_in_any_order(tmp_path: Path) -> None:
    """Columns go by their names; more than the known ones do no harm."""
    path = text_file(tmp_path / "b.csv", ",".join(["note", *reversed(COLUMNS)]), ",".join(["x", *reversed(COLUMNS)]))

    ((_, row),) = read_rows(path)

    assert {column: row[column] for column in COLUMNS} == {column: column for column in COLUMNS}


def test_a_row_of_another_width_is_given_as_it_is(tmp_path: Path) -> None:
    """One short or long row does not end the file: it comes out as such, for its own refusal."""
    short, long = (row for _, row in read_rows(text_file(tmp_path / "b.csv", HEADER, "City Hotel,1", LINE + ",a,b")))

    assert set(short) == {"hotel", "is_canceled"}
    assert long[EXTRA] == "a,b"


def test_reading_is_lazy(tmp_path: Path) -> None:
    """The first rows are there before the last ones are looked at."""
    rows = read_rows(text_file(tmp_path / "b.csv", HEADER, LINE, 'a"b"'))

    assert next(rows)[0] == 2
    rows.close()  # type: ignore[attr-defined]


def _not_there(path: Path) -> Path:
    return path / "nothing.csv"


def _empty(path: Path) -> Path:
    (path / "b.csv").write_bytes(b"")
    return path / "b.csv"


def _no_adr(path: Path) -> Path:
    return text_file(path / "b.csv", HEADER.replace("adr", "rate"), LINE)


def _twice(path: Path) -> Path:
    return text_file(path / "b.csv", HEADER + ",adr", LINE)


def _latin(path: Path) -> Path:
    (path / "b.csv").write_bytes(f"{HEADER}\n{LINE}\n{LINE}\n".encode() + b"H\xf4tel," + LINE.encode())
    return path / "b.csv"


def _open_quote(path: Path) -> Path:
    return text_file(path / "b.csv", HEADER, LINE, '"' + LINE)


def _no_csv(path: Path) -> Path:
    return zipped(path / "b.zip", readme="x")


def _two_csvs(path: Path) -> Path:
    return zipped(path / "b.zip", a_csv="x", b_csv="y")


def _damaged(path: Path) -> Path:
    packed = zipped(path / "b.zip", b_csv="\n".join([HEADER, *[LINE] * 3000]))
    raw = bytearray(packed.read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    packed.write_bytes(raw)
    return packed


def _encrypted(path: Path) -> Path:
    packed = zipped(path / "b.zip", b_csv="\n".join([HEADER, LINE]))
    raw = bytearray(packed.read_bytes())
    raw[6] |= 1
    raw[raw.index(b"PK\1\2") + 8] |= 1
    packed.write_bytes(raw)
    return packed


@pytest.mark.parametrize(
    ("make", "line", "column", "message"),
    [
        (_not_there, None, None, "No such file"),
        (_empty, 1, None, "empty"),
        (_no_adr, 1, "adr", "the header lacks adr"),
        (_twice, 1, "adr", "twice"),
        (_latin, 4, None, "not UTF-8"),
        (_open_quote, 3, None, "unexpected end of data"),
        (_no_csv, None, None, "holds no CSV"),
        (_two_csvs, None, None, "2 CSVs: a.csv, b.csv"),
        (_encrypted, None, None, "password required"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_by_line_and_column(
    tmp_path: Path, make: Callable[[Path], Path], line: int | None, column: str | None, message: str
) -> None:
    """The error says which file, where in it, and what is wrong."""
    path = make(tmp_path)

    with pytest.raises(BookingFileError, match=message) as raised:
        list(read_rows(path))

    assert (raised.value.line, raised.value.column) == (line, column)
    assert str(raised.value).startswith(str(path))


def test_a_damaged_zip_is_refused(tmp_path: Path) -> None:
    """A zip with a flipped bit fails by its checksum or its compression, not with strange rows and no word."""
    with pytest.raises(BookingFileError):
        list(read_rows(_damaged(tmp_path)))


@pytest.mark.parametrize("pack", [False, True])
def test_a_file_over_the_limit_is_refused_before_it_is_unpacked(tmp_path: Path, pack: bool) -> None:
    """A small zip that unpacks to much is refused by what it declares, a bare file by its size."""
    content = HEADER + "\n" + "x" * 500_000
    path = zipped(tmp_path / "b.zip", b_csv=content) if pack else text_file(tmp_path / "b.csv", content)

    with pytest.raises(BookingFileError, match="100000"):
        next(read_rows(path, max_bytes=100_000))


def test_a_zip_that_understates_its_size_gives_no_byte_more(tmp_path: Path) -> None:
    """A bomb that declares little is cut off at what it declares, and fails."""
    packed = zipped(tmp_path / "b.zip", b_csv="\n".join([HEADER, *[LINE] * 20_000]))
    raw = bytearray(packed.read_bytes())
    central = raw.index(b"PK\1\2")
    raw[central + 24 : central + 28] = (2_000).to_bytes(4, "little")
    packed.write_bytes(raw)
    seen: list[str] = []

    with pytest.raises(BookingFileError):
        seen.extend(",".join(row.values()) for _, row in read_rows(packed, max_bytes=10_000))

    assert sum(map(len, seen)) < 2_000
