"""The digests of a tenant's states as one system sees them: the tree of `schemas.sync`, changed a state at a time.

A tree of 50,000 states takes about 10 MB.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from schemas.sync import BUCKETS, StateDigest, bucket_hash, root_hash

_NUMBER: Final = 8


class DigestTree:
    """States by bucket. What was asked for is remembered until a state of it changes."""

    __slots__ = ("_buckets", "_hashes", "_root", "count")

    def __init__(self) -> None:
        self._buckets: list[dict[bytes, bytes]] = [{} for _ in range(BUCKETS)]
        self._hashes: list[str | None] = [""] * BUCKETS
        self._root: str | None = None
        self.count = 0

    def put(self, type: str, entity: str, revision: int, hash: str) -> None:
        """A state as it is now. The hash is empty of one that has none."""
        key = f"{type} {entity}".encode()
        number = sha256(key).digest()[0]
        bucket = self._buckets[number]
        self.count += key not in bucket
        bucket[key] = revision.to_bytes(_NUMBER) + bytes.fromhex(hash)
        self._hashes[number] = self._root = None

    def remove(self, type: str, entity: str) -> None:
        """A state that is not there, or may not be seen."""
        key = f"{type} {entity}".encode()
        number = sha256(key).digest()[0]
        if self._buckets[number].pop(key, None) is not None:
            self.count -= 1
            self._hashes[number] = self._root = None

    def states(self, number: int) -> list[StateDigest]:
        """The states in a bucket, by type and entity."""
        found = []
        for key, value in self._buckets[number].items():
            type, _, entity = key.decode().partition(" ")
            found.append(StateDigest(type, entity, int.from_bytes(value[:_NUMBER]), value[_NUMBER:].hex()))
        found.sort()
        return found

    def hash(self, number: int) -> str:
        """The digest of a bucket; empty of an empty one."""
        found = self._hashes[number]
        if found is None:
            found = self._hashes[number] = bucket_hash(self.states(number))
        return found

    @property
    def buckets(self) -> dict[str, str]:
        """Two hex digits → digest, of the buckets that are not empty."""
        return {f"{number:02x}": hash for number in range(BUCKETS) if (hash := self.hash(number))}

    @property
    def root(self) -> str:
        """The digest of all."""
        if self._root is None:
            self._root = root_hash({number: self.hash(number) for number in range(BUCKETS)})
        return self._root
