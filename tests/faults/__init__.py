"""Kills the hub's processes at random and counts what became of every event."""
