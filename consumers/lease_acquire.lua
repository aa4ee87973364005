-- Take a free lease. KEYS: lease, fence counter. ARGV: owner, time to live (ms).
-- Returns the fence; 0 when another owner holds the lease.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
local fence = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. fence, 'PX', ARGV[2])
return fence
