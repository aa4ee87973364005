-- Acknowledge entries as the holder of the lease. KEYS: lease, stream. ARGV: lease value, group, '1' to delete them too
-- (the redrive stream), ids separated by spaces. Returns how many were pending, or -1 when the lease is lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return -1
end
local acked = 0
local ids = {}
local function flush()
  if #ids > 0 then
    acked = acked + redis.call('XACK', KEYS[2], ARGV[2], unpack(ids))
    if ARGV[3] == '1' then
      redis.call('XDEL', KEYS[2], unpack(ids))
    end
    ids = {}
  end
end
for id in string.gmatch(ARGV[4], '%S+') do
  ids[#ids + 1] = id
  if #ids == 1000 then
    flush()
  end
end
flush()
return acked
