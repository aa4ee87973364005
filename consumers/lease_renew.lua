-- Prolong a lease, and show the group that its entries are being handled: JUSTID resets the idle time and leaves the
-- delivery count alone. KEYS: lease, then the streams. ARGV: lease value, time to live (ms), group, consumer, then for
-- each stream the number of ids and the ids.
-- Returns 1, or 0 when the lease is another's or gone.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local at = 5
for stream = 2, #KEYS do
  local count = tonumber(ARGV[at])
  -- In slices, since unpack is bound by the Lua stack. A group that is gone is noticed, and mended, by the next read.
  for first = at + 1, at + count, 1000 do
    local claim = {'XCLAIM', KEYS[stream], ARGV[3], ARGV[4], 0}
    for index = first, math.min(first + 999, at + count) do
      claim[#claim + 1] = ARGV[index]
    end
    claim[#claim + 1] = 'JUSTID'
    redis.pcall(unpack(claim))
  end
  at = at + count + 1
end
return 1
