-- Take over pending entries, whoever they were delivered to, as the holder of the lease. JUSTID: taking over is not yet
-- an attempt. KEYS: lease, stream. ARGV: lease value, group, consumer, start, count.
-- Returns nil when the lease is lost, else {next start ('0-0' at the end), {{id, fields, deliveries}, ...}, deleted ids}.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return false
end
local claimed = redis.call('XAUTOCLAIM', KEYS[2], ARGV[2], ARGV[3], 0, ARGV[4], 'COUNT', ARGV[5], 'JUSTID')
local taken = {}
for _, id in ipairs(claimed[2]) do
  local entry = redis.call('XRANGE', KEYS[2], id, id)[1]
  local pending = redis.call('XPENDING', KEYS[2], ARGV[2], id, id, 1)[1]
  if entry and pending then
    taken[#taken + 1] = {id, entry[2], pending[4]}
  end
end
return {claimed[1], taken, claimed[3]}
