"""Where cursors are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumers import CursorStore, CursorsUnreadable, FileCursors, MemoryCursors


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> CursorStore:
    return MemoryCursors() if request.param == "memory" else FileCursors(tmp_path / "kept" / "cursors.json")


async def test_the_last_map_saved_is_loaded(store: CursorStore) -> None:
    """Empty at first; afterwards exactly what was saved last."""
    assert await store.load() == {}
    await store.save({"default": "a", "second": "b"})
    await store.save({"default": "c"})
    assert await store.load() == {"default": "c"}


async def test_what_is_loaded_or_saved_is_a_copy(store: CursorStore) -> None:
    """Changing a map afterwards does not change what is kept."""
    cursors = {"default": "a"}
    await store.save(cursors)
    cursors["default"] = "b"
    (await store.load())["default"] = "c"
    assert await store.load() == {"default": "a"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"default": 3}'])
async def test_a_damaged_file_is_no_empty_one(tmp_path: Path, content: bytes) -> None:
    """Damage is an error with the path, not a fresh start."""
    path = tmp_path / "cursors.json"
    path.write_bytes(content)
    with pytest.raises(CursorsUnreadable) as caught:
        await FileCursors(path).load()
    assert caught.value.path == str(path)


async def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that breaks off before the rename changes nothing."""
    store = FileCursors(tmp_path / "cursors.json")
    await store.save({"default": "a"})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("consumers.cursors.os.fsync", full)
        with pytest.raises(OSError):
            await store.save({"default": "b"})
    assert await store.load() == {"default": "a"}
    await store.save({"default": "c"})
    assert await store.load() == {"default": "c"}
