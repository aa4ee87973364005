"""The steps from each version of the store to the next; run at start, under a lock. Never changed once released."""
