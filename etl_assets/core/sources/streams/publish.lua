-- Appends batches to the stream KEYS[1], if it ends as expected.
-- ARGV: the ID that the stream must end with ("any", "" for an empty stream) and its source, "anew" to drop what is
-- there, the number of batches, then for each: last, first, count, source, codec, size, lines. Answers nothing, or
-- `moved <end>` or `refused <end>`.
if redis.replicate_commands then redis.replicate_commands() end  -- Redis < 7 refuses a write after TIME without it
local function field(entry, name)
  for i = 1, #entry[2], 2 do if entry[2][i] == name then return entry[2][i + 1] end end
end
local expected, source = ARGV[1], ARGV[2]
if expected ~= 'any' then
  local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
  local found = newest and newest[1] or ''
  if found ~= expected then return 'moved ' .. found end
  if newest and field(newest, 'source') ~= source then
    return 'moved ' .. found .. ' of ' .. (field(newest, 'source') or 'no source')
  end
end
if ARGV[3] == 'anew' then redis.call('DEL', KEYS[1]) end
local now = redis.call('TIME')
local at = now[1] .. string.format('%06d', now[2])
for batch = 0, ARGV[4] - 1 do
  local i = 5 + batch * 7
  local answer = redis.pcall('XADD', KEYS[1], ARGV[i] .. '-0', 'first', ARGV[i + 1], 'count', ARGV[i + 2],
    'source', ARGV[i + 3], 'at', at, 'codec', ARGV[i + 4], 'size', ARGV[i + 5], 'lines', ARGV[i + 6])
  if type(answer) == 'table' and answer['err'] then
    if not string.find(answer['err'], 'equal or smaller', 1, true) then return answer end
    local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
    return 'refused ' .. (newest and newest[1] or 'none')
  end
end
return false
