-- Hand events to a consumer group again, by its own stream. What says which of them went before moves in the same
-- script, so that asking twice, or two who ask at once, hand over once.
-- KEYS: the group's stream, the source (dead letters: their stream; a replay: how far it is, a hash).
--
-- Dead letters. ARGV: 'dead', ids... The letter moves or, if it is gone, nothing happens. Returns the ids of those that
-- went, each followed by its new one.
--
-- A replay. ARGV: 'replay', expected place ('' before the first), new place, limit, seconds to keep the place, number
-- of entries, number of fields of each, the fields... Nothing is handed over while `limit` entries or more wait.
-- Returns {the place, events handed over so far, 1 when this call moved it, entries that wait}.
if ARGV[1] == 'dead' then
  local moved = {}
  for at = 2, #ARGV do
    local found = redis.call('XRANGE', KEYS[2], ARGV[at], ARGV[at])
    if #found > 0 then
      local fields, letter = found[1][2], {}
      for i = 1, #fields, 2 do
        local name = fields[i]
        if name ~= 'reason' and name ~= 'failed_at' and name ~= 'attempts' then
          letter[#letter + 1] = name
          letter[#letter + 1] = fields[i + 1]
        end
      end
      letter[#letter + 1] = 'attempts'
      letter[#letter + 1] = '0'
      moved[#moved + 1] = ARGV[at]
      moved[#moved + 1] = redis.call('XADD', KEYS[1], '*', unpack(letter))
      redis.call('XDEL', KEYS[2], ARGV[at])
    end
  end
  return moved
end

local held = redis.call('HMGET', KEYS[2], 'at', 'events')
local place, events = held[1] or '', tonumber(held[2] or '0')
local waiting = redis.call('XLEN', KEYS[1])
local count, width = tonumber(ARGV[6]), tonumber(ARGV[7])
if place ~= ARGV[2] or (count > 0 and waiting >= tonumber(ARGV[4])) then
  return {place, events, 0, waiting}
end
for at = 8, 7 + count * width, width do
  redis.call('XADD', KEYS[1], '*', unpack(ARGV, at, at + width - 1))
end
redis.call('HSET', KEYS[2], 'at', ARGV[3], 'events', events + count)
redis.call('EXPIRE', KEYS[2], ARGV[5])
return {ARGV[3], events + count, 1, waiting + count}
