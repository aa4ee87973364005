-- Move an entry to the dead letters and acknowledge it, as the holder of the lease. Asked twice (the first answer was
-- lost), it is moved once. KEYS: lease, stream, dead letters. ARGV: lease value, group, '1' to delete it too, id, the
-- letter's fields. Returns 1, 0 when the entry was not pending, or -1 when the lease is lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return -1
end
-- When the group is gone there is nothing to bury; the entry comes again once the group is made anew.
local pending = redis.pcall('XPENDING', KEYS[2], ARGV[2], ARGV[4], ARGV[4], 1)
if pending.err or #pending == 0 then
  return 0
end
-- First the letter: when the server refuses to write it, the entry stays pending.
redis.call('XADD', KEYS[3], '*', unpack(ARGV, 5))
redis.call('XACK', KEYS[2], ARGV[2], ARGV[4])
if ARGV[3] == '1' then
  redis.call('XDEL', KEYS[2], ARGV[4])
end
return 1
