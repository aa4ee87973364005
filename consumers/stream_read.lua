-- Read new entries as the holder of the lease: a reader that lost it takes nothing from the new one's order.
-- KEYS: lease, events, redrive. ARGV: lease value, group, consumer, count.
-- Returns nil when the lease is lost, else {redriven entries, entries, {last ids of both streams when there were none}}.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return false
end

local function read(stream, count)
  if count < 1 then
    return {}
  end
  local reply = redis.call('XREADGROUP', 'GROUP', ARGV[2], ARGV[3], 'COUNT', count, 'STREAMS', stream, '>')
  return reply and reply[1] and reply[1][2] or {}
end

local function last(stream)
  local info = redis.call('XINFO', 'STREAM', stream)
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' then
      return info[at + 1]
    end
  end
end

local count = tonumber(ARGV[4])
local redriven = read(KEYS[3], count)
local entries = read(KEYS[2], count - #redriven)
if #redriven + #entries > 0 then
  return {redriven, entries, {}}
end
return {redriven, entries, {last(KEYS[2]), last(KEYS[3])}}
