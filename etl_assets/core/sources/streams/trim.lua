-- Drops the first entries of the stream KEYS[1], never the newest. ARGV: the first sequence to keep, "source" or "any",
-- the source. Answers how many entries went.
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
if not newest then return 0 end
if ARGV[2] == 'source' then
  for i = 1, #newest[2], 2 do
    if newest[2][i] == 'source' and newest[2][i + 1] ~= ARGV[3] then return 0 end
  end
end
local keep = ARGV[1] .. '-0'
if tonumber(string.match(newest[1], '^%d+')) < tonumber(ARGV[1]) then keep = newest[1] end
return redis.call('XTRIM', KEYS[1], 'MINID', keep)
