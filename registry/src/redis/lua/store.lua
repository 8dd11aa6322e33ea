-- Stores the result of one request, the first that comes.
--
-- KEYS    the record and the result, as expect.lua describes them
-- ARGV    the result; then, where the caller knows what was expected, what expect.lua is given
--
-- Answers 'before' (there was one, which stays), 'unexpected' (nothing is changed) or 'done'.

local held = redis.pcall('HMGET', KEYS[1], 'e', 'd', 'k')
if held.err then
  redis.call('DEL', KEYS[1])
  held = {}
elseif held[1] then
  return 'before'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local over, keep = tonumber(held[2] or nil), tonumber(held[3] or nil)
if not over or not keep then
  if not ARGV[2] then
    return 'unexpected'
  end
  -- This server has lost what was noted.
  over, keep = now, tonumber(ARGV[3])
  redis.call('HSET', KEYS[1], 'n', ARGV[4], 'd', string.format('%016.0f', now), 'k', ARGV[3],
    'w', ARGV[5])
end
if now >= over + keep then
  return 'unexpected'
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', string.format('%.0f', keep))
redis.call('HSET', KEYS[1], 'e', string.format('%016.0f', now))
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', 2 * keep))
return 'done'
