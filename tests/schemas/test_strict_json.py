"""JSON as the hub accepts it, and what it says about the rest."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import strict_json
from schemas.errors import MAX_FIELD_ERRORS, FieldError, Problem
from schemas.strict_json import MAX_DEPTH

TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.integers(1 - 10**15, 10**15 - 1) | st.integers(-(10**11), 10**11).map(lambda whole: whole / 10**4)
CLEAN = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def nested(depth: int, innermost: str = "1") -> str:
    """A text of `depth` containers around a number, lists and objects in turn."""
    text = innermost
    for level in range(depth):
        text = f"[{text}]" if level % 2 else f'{{"a":{text}}}'
    return text


def refused(text: str | bytes) -> list[FieldError]:
    """The field errors that `text` is refused with."""
    with pytest.raises(Problem) as raised:
        strict_json.loads(text)
    assert raised.value.code == "invalid_json"
    orjson.dumps(raised.value.body())
    return list(raised.value.errors)


@given(CLEAN, st.booleans())
def test_clean_documents_mean_what_they_mean_elsewhere(document: Any, ascii_only: bool) -> None:
    """On a clean document the answer is the standard parser's, type by type, for text and bytes alike."""
    text = json.dumps(document, ensure_ascii=ascii_only)
    wanted = json.loads(text)
    for raw in (text, text.encode(), bytearray(text.encode())):
        found = strict_json.loads(raw)
        assert found == wanted
        assert repr(found) == repr(wanted)


@pytest.mark.parametrize(
    ("text", "path", "reason"),
    [
        ('{"a": 1, "a": 1}', "a", "stands twice"),
        ('{"x": [{"a": 1, "\\u0061": 2}]}', "x.0.a", "stands twice"),
        ("NaN", "", "NaN"),
        ('{"a": [1, NaN]}', "a.1", "NaN"),
        ('{"a": {"b": Infinity}}', "a.b", "Infinity"),
        ('{"a": -Infinity}', "a", "-Infinity"),
        ('{"a": 1e999}', "a", "too large"),
        ('{"a": -1E+400}', "a", "too large"),
        ('{"a": 1e-999}', "a", "too small"),
        ('{"a": 1234567890123456}', "a", "15 digits"),
        ('{"a": -1234567890123456}', "a", "15 digits"),
        ('{"a": 0.1234567890123456}', "a", "15 digits"),
        ('{"a": 123456789.0123456}', "a", "15 digits"),
        ('{"a": 1.234567890123456e5}', "a", "15 digits"),
        (f'{{"a": {"9" * 5000}}}', "a", "15 digits"),
        ('{"a": "\\ud800"}', "a", "surrogate"),
        ('["\\uDFFFx"]', "0", "surrogate"),
        ('"\\ud83d"', "", "surrogate"),
        ('{"a": {"\\ud800": 1}}', "a.\\ud800", "surrogate"),
        ('{"a": "x\\u0000"}', "a", "NUL"),
        ('{"a": {"b\\u0000": 1}}', "a.b\\x00", "NUL"),
    ],
)
def test_what_json_leaves_open_is_refused_where_it_stands(text: str, path: str, reason: str) -> None:
    """Each refusal carries the dotted path of its value and the reason."""
    (error,) = refused(text)
    assert error.path == path
    assert reason in error.message


@pytest.mark.parametrize(
    "text",
    [
        "999999999999999",
        "-999999999999999",
        "0.000000000000000000001",
        "1e22",
        "12345678901234.5",
        "-0",
        "0.0000",
        "0e-999",
        '"\\ud83c\\udf0a"',
        '"\\\\ud800"',
        '"\\\\u0000"',
        '{"a": 1, "A": 2}',
        "[]",
        " \t\r\n{} ",
    ],
)
def test_what_only_looks_odd_is_accepted(text: str) -> None:
    """The refusals end where precision and meaning are safe."""
    assert strict_json.loads(text) == json.loads(text)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b'{"a": 1,}',
        b"[01]",
        b"\xff",
        b'{"a": "\xc3\x28"}',
        b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf{}",
        '{"a": 1}'.encode("utf-16"),
        b'"\n"',
        b'"\x00"',
        b"{} {}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
    ids=repr,
)
def test_what_is_no_json_is_refused_whole(raw: bytes) -> None:
    """Without a tree there is no path to name."""
    assert refused(raw) == []


def test_text_with_a_surrogate_in_it_is_refused_whole() -> None:
    """Text that came from nowhere in UTF-8 cannot be sent on."""
    assert refused('{"a": "\ud800"}') == []


@pytest.mark.parametrize("innermost", ["1", '"\\u0000"'], ids=["plain", "odd"])
def test_nesting_ends_at_32(innermost: str) -> None:
    """32 containers are accepted, the 33rd is refused at its path; an oddity below it changes nothing."""
    assert strict_json.parse(nested(MAX_DEPTH)).refusals(strict_json.parse(nested(MAX_DEPTH)).tree) == []
    (error,) = refused(nested(MAX_DEPTH + 1, innermost))
    assert error.message == "nested deeper than 32"
    assert error.path.count(".") == MAX_DEPTH - 1


def test_nesting_is_counted_from_the_body() -> None:
    """An event in a batch stands two levels down already."""
    parsed = strict_json.parse(f'{{"events": [{nested(MAX_DEPTH - 2)}, {nested(MAX_DEPTH - 1)}]}}')
    first, second = parsed.tree["events"]
    assert parsed.refusals(first, "events.0", 2) == []
    assert len(parsed.refusals(second, "events.1", 2)) == 1


def test_a_bad_item_does_not_taint_its_siblings() -> None:
    """In a batch each event is judged alone, and its errors name the place in the body."""
    items = ['{"a": NaN}', '{"a": 1}', '{"a": "\\ud800"}', '{"a": "fine"}', '{"a": 1, "a": 2}', '{"a": [1e999]}']
    parsed = strict_json.parse(f'{{"events": [{",".join(items)}]}}')
    found = [
        [error.path for error in parsed.refusals(event, f"events.{index}", 2)]
        for index, event in enumerate(parsed.tree["events"])
    ]
    assert found == [["events.0.a"], [], ["events.2.a"], [], ["events.4.a"], ["events.5.a.0"]]
    assert parsed.tree["events"][1] == {"a": 1}
    assert parsed.tree["events"][3] == {"a": "fine"}


def test_every_refusal_is_named() -> None:
    """One answer tells all that is wrong."""
    text = '{"a": NaN, "b": [1, {"c": 1e999, "c": 2}], "\\ud800": {"d": Infinity}}'
    assert [error.path for error in refused(text)] == ["a", "b.1.c", "\\ud800", "\\ud800.d"]


def test_refusals_are_bounded() -> None:
    """An answer does not outgrow the request: a body of junk is not listed value by value."""
    assert len(refused(f"[{'NaN,' * 100_000}1]")) == MAX_FIELD_ERRORS
    assert len(refused("{" + ",".join(f'"\\u0000{index}": "\\ud800"' for index in range(1000)) + "}")) == (
        MAX_FIELD_ERRORS
    )


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_input_is_parsed_or_refused(raw: str | bytes) -> None:
    """No input gets another exception out than the documented one, and every refusal can be sent."""
    try:
        tree = strict_json.loads(raw)
    except Problem as problem:
        orjson.dumps(problem.body())
    else:
        orjson.dumps(tree)


@given(
    st.text('[]{}",:\\ud80 \n.eE+-0123456789truefalsnINy', max_size=40),
)
def test_any_json_like_text_is_parsed_or_refused(text: str) -> None:
    """The same for text that comes near to JSON; what is accepted is what the standard parser reads."""
    try:
        tree = strict_json.loads(text)
    except Problem as problem:
        orjson.dumps(problem.body())
    else:
        assert tree == json.loads(text)
