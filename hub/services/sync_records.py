"""The present states of entities with their versions, as fresh as the log: what a pushed item is held against."""
