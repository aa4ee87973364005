-- Appends events to one partition, each of them atomically and at most once.
--
-- KEYS  1 stream, 2 sequences (hash tenant -> "sequence id"), 3 revisions (hash "tenant entity" -> "revision id"),
--       4 epoch, 5… one idempotency key an event
-- ARGV  1 idempotency seconds, 2 the epoch the caller knows, then nine an event:
--       tenant, event_id, entity, expected revision or '', type, action, timestamp ms, envelope up to its revision, nonce
-- reply one a event: {outcome, sequence, revision, id}; outcome 0 appended, 1 duplicate, 2 conflict
--
-- The first write is the XADD: out of memory or read-only refuses it before anything has changed, and once one write is
-- done the server lets the script finish. The nonce tells a caller's own retry from somebody else's duplicate.
local stream, sequences, revisions = KEYS[1], KEYS[2], KEYS[3]
local epoch = redis.call('GET', KEYS[4])
if epoch ~= ARGV[2] then
  return redis.error_reply('EPOCH the log holds epoch ' .. (epoch or 'none'))
end
local replies = {}
local last = {}
for i = 1, #KEYS - 4 do
  local a = 3 + (i - 1) * 9
  local tenant, entity = ARGV[a], ARGV[a + 2]
  local known = redis.call('GET', KEYS[4 + i])
  if known then
    local sequence, revision, id, nonce = string.match(known, '^(%d+) (%d+) (%S+) (%S+)$')
    replies[i] = {nonce == ARGV[a + 8] and 0 or 1, tonumber(sequence), tonumber(revision), id}
  else
    local field = tenant .. ' ' .. entity
    local revision, at = 0, ''
    local current = redis.call('HGET', revisions, field)
    if current then
      local number, id = string.match(current, '^(%d+) (%S+)$')
      revision, at = tonumber(number), id
    end
    if ARGV[a + 3] ~= '' and tonumber(ARGV[a + 3]) ~= revision then
      replies[i] = {2, 0, revision, at}
    else
      local sequence = last[tenant]
      if not sequence then
        local held = redis.call('HGET', sequences, tenant)
        sequence = held and tonumber(string.match(held, '^%d+')) or 0
      end
      sequence = sequence + 1
      revision = revision + 1
      local s, r = string.format('%.0f', sequence), string.format('%.0f', revision)
      local id = redis.call('XADD', stream, '*',
        'event_type', ARGV[a + 4], 'event_data', ARGV[a + 7] .. r .. '}', 'timestamp', ARGV[a + 6],
        'event_id', ARGV[a + 1], 'tenant_id', tenant, 'action', ARGV[a + 5], 'entity', entity,
        'revision', r, 'sequence', s)
      redis.call('HSET', sequences, tenant, s .. ' ' .. id)
      redis.call('HSET', revisions, field, r .. ' ' .. id)
      redis.call('SET', KEYS[4 + i], s .. ' ' .. r .. ' ' .. id .. ' ' .. ARGV[a + 8], 'EX', ARGV[1])
      last[tenant] = sequence
      replies[i] = {0, sequence, revision, id}
    end
  end
end
return replies
