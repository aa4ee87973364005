"""`hub bench`: load on a hub, from processes of its own, and what it did under it."""
