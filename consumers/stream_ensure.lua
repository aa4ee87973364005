-- Make a consumer group that is missing: after the entry `from` when the stream still holds it, so that nothing handled
-- comes again, else from the beginning. Never at `$`, which would lose what came meanwhile.
-- KEYS: stream. ARGV: group, from ('' for the beginning).
-- Returns {1 when it was made, the id last delivered to the group}.
local function delivered()
  if redis.call('EXISTS', KEYS[1]) == 0 then
    return nil
  end
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local named = {}
    for at = 1, #group, 2 do
      named[group[at]] = group[at + 1]
    end
    if named['name'] == ARGV[1] then
      return named['last-delivered-id']
    end
  end
  return nil
end

local known = delivered()
if known then
  return {0, known}
end
local from = '0-0'
if ARGV[2] ~= '' and #redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2]) == 1 then
  from = ARGV[2]
end
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], from, 'MKSTREAM')
return {1, from}
