"""A store that comes, goes and comes back, as `/readyz` tells it."""

from __future__ import annotations

from pathlib import Path

import pytest
from feed_rig import until

from hub.services.store_watch import StoreWatch
from hub.store.database import Database, StoreUnavailable, store_url
from hub.store.store import Store


async def test_a_store_that_was_away_is_opened_and_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away at start it is opened when it comes; when it stops answering that is noticed, and when it answers again."""
    store = Store(Database(store_url(f"sqlite:///{tmp_path}/later/store.db", tmp_path)))
    watch = StoreWatch(store, every_s=0.005)
    try:
        with pytest.raises(StoreUnavailable):
            await store.open()
        watch.start()
        (tmp_path / "later").mkdir()
        await until(lambda: store.ok)

        async def silent() -> None:
            raise StoreUnavailable("too slow")

        with monkeypatch.context() as patch:
            patch.setattr(store.database, "answers", silent)
            await until(lambda: not store.ok)
            assert store.detail == "too slow"
        await until(lambda: store.ok)
    finally:
        await watch.stop()
        await store.aclose()
