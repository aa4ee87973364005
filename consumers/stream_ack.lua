-- Acknowledge entries as the holder of the lease. KEYS: lease, stream. ARGV: lease value, group, '1' to delete them too
-- (the redrive stream), ids. Returns how many were pending, or -1 when the lease is lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return -1
end
local acked = 0
for first = 4, #ARGV, 1000 do
  local last = math.min(first + 999, #ARGV)
  acked = acked + redis.call('XACK', KEYS[2], ARGV[2], unpack(ARGV, first, last))
  if ARGV[3] == '1' then
    redis.call('XDEL', KEYS[2], unpack(ARGV, first, last))
  end
end
return acked
