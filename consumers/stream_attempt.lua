-- Count one more delivery of an entry that was taken over, before it is attempted: an entry that ends its consumer each
-- time is known by its count. KEYS: lease, stream. ARGV: lease value, group, consumer, id.
-- Returns 1, or -1 when the lease is lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return -1
end
redis.pcall('XCLAIM', KEYS[2], ARGV[2], ARGV[3], 0, ARGV[4])
return 1
