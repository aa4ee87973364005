-- Appends events to one partition, each of them at most once.
--
-- KEYS  1 stream, 2 sequences (hash tenant -> "sequence id"), 3 revisions (hash "tenant entity" -> "revision id"),
--       4 epoch, 5 to 7 receipts of this generation, the one before and the next, where a hub whose clock is ahead
--       writes (hash "tenant event_id" -> "sequence revision id nonce")
-- ARGV  1 seconds after which a generation of receipts goes, 2 the epoch the caller knows, then nine an event:
--       tenant, event_id, entity, expected revision or '', type, action, timestamp ms, envelope up to its revision, nonce
-- reply one a event: {outcome, sequence, revision, id}; outcome 0 appended, 1 duplicate, 2 conflict, 3 not appended
--
-- The first write is an XADD: out of memory or read-only refuses it before anything has changed, and once one write is
-- done the server lets the script finish. What a batch changes in the hashes is gathered and written once a hash: each
-- write of a script is a record of its own in the append-only file, and they cost more than anything else here.
-- The nonce tells a caller's own retry from somebody else's duplicate.
local stream, sequences, revisions = KEYS[1], KEYS[2], KEYS[3]
local epoch = redis.call('GET', KEYS[4])
if epoch ~= ARGV[2] then
  return redis.error_reply('EPOCH the log holds epoch ' .. (epoch or 'none'))
end

local replies, failed = {}, nil
local last, current, receipts = {}, {}, {}
for i = 1, (#ARGV - 2) / 9 do
  local a = 3 + (i - 1) * 9
  local tenant, nonce = ARGV[a], ARGV[a + 8]
  local field = tenant .. ' ' .. ARGV[a + 1]
  local known = receipts[field] or redis.call('HGET', KEYS[5], field) or redis.call('HGET', KEYS[6], field)
    or redis.call('HGET', KEYS[7], field)
  if known then
    local sequence, revision, id, first = string.match(known, '^(%d+) (%d+) (%S+) (%S+)$')
    replies[i] = {first == nonce and 0 or 1, tonumber(sequence), tonumber(revision), id}
  else
    local entity = tenant .. ' ' .. ARGV[a + 2]
    local revision, at = 0, ''
    local held = current[entity] or redis.call('HGET', revisions, entity)
    if held then
      local number, id = string.match(held, '^(%d+) (%S+)$')
      revision, at = tonumber(number), id
    end
    if ARGV[a + 3] ~= '' and tonumber(ARGV[a + 3]) ~= revision then
      replies[i] = {2, 0, revision, at}
    elseif failed then
      replies[i] = {3, 0, 0, ''}
    else
      local place = last[tenant] or redis.call('HGET', sequences, tenant)
      local s = string.format('%.0f', (place and tonumber(string.match(place, '^%d+')) or 0) + 1)
      local r = string.format('%.0f', revision + 1)
      local id = redis.pcall('XADD', stream, '*',
        'event_type', ARGV[a + 4], 'event_data', ARGV[a + 7] .. r .. '}', 'timestamp', ARGV[a + 6],
        'event_id', ARGV[a + 1], 'tenant_id', tenant, 'action', ARGV[a + 5], 'entity', ARGV[a + 2],
        'revision', r, 'sequence', s)
      if type(id) == 'table' then
        if next(receipts) == nil then
          return id
        end
        failed = id
        replies[i] = {3, 0, 0, ''}
      else
        last[tenant] = s .. ' ' .. id
        current[entity] = r .. ' ' .. id
        receipts[field] = s .. ' ' .. r .. ' ' .. id .. ' ' .. nonce
        replies[i] = {0, tonumber(s), revision + 1, id}
      end
    end
  end
end

local function write(key, values)
  local fields = {}
  for field, value in pairs(values) do
    fields[#fields + 1] = field
    fields[#fields + 1] = value
  end
  if #fields > 0 then
    redis.call('HSET', key, unpack(fields))
  end
end
write(sequences, last)
write(revisions, current)
local fresh = redis.call('EXISTS', KEYS[5]) == 0
write(KEYS[5], receipts)
if fresh and next(receipts) ~= nil then
  redis.call('EXPIRE', KEYS[5], ARGV[1])
end
return replies
