"""A consumer group that is moved by position: for a reader that keeps its own place, and shows here how far it is.

Entries are never pending in such a group, so none is stranded by a reader that dies; trimming waits for its place.
"""

from __future__ import annotations

from typing import Final

from hub.log.stream_log import StreamLog
from schemas.cursor import StreamId

# Only forward: of two readers the slower one may come late. The number of entries read is what the server counts the
# lag by; it is certain at the end of the stream, and where it was certain a known number of entries before.
_MOVE: Final = """
local function named(reply, name)
  for i = 1, #reply, 2 do
    if reply[i] == name then return reply[i + 1] end
  end
end
local function split(id)
  local ms, n = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(n)
end
local known = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if known.err then return 0 end
for _, group in ipairs(known) do
  if named(group, 'name') == ARGV[1] then
    local ms, n = split(ARGV[2])
    local at_ms, at_n = split(named(group, 'last-delivered-id'))
    if ms < at_ms or (ms == at_ms and n <= at_n) then return 1 end
    local stream = redis.call('XINFO', 'STREAM', KEYS[1])
    local read = named(group, 'entries-read')
    if named(stream, 'last-generated-id') == ARGV[2] then
      read = named(stream, 'entries-added')
    elseif read then
      read = tonumber(read) + tonumber(ARGV[3])
    end
    if read then
      redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2], 'ENTRIESREAD', read)
    else
      redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2])
    end
    return 1
  end
end
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], ARGV[2], 'MKSTREAM')
return 2
"""


async def move_group(log: StreamLog, group: str, partition: int, id: StreamId, entries: int) -> None:
    """Say that everything up to `id` is done, `entries` of them since the last time; makes the group if it is gone."""
    key = log.keys.events(partition)
    await log.source.client.eval(_MOVE, 1, key, group, str(id), str(entries))
