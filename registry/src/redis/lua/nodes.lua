-- Lists the entries of the node table that have not ended, and drops the others.
--
-- KEYS[1] the table, as announce.lua writes it
--
-- Answers node id, incarnation, entry, node id, …, in no order. What announce.lua cannot have
-- written is dropped too: it has no end, so it would stay for ever. A key of another type is none.

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local held = redis.pcall('HGETALL', KEYS[1])
if held.err then
  return {}
end
local live = {}
for i = 1, #held, 2 do
  local incarnation, end_ms, entry = string.match(held[i + 1], '^(%d+) (%d+) %S+ (.*)$')
  if end_ms and tonumber(end_ms) > now_ms then
    live[#live + 1] = held[i]
    live[#live + 1] = incarnation
    live[#live + 1] = entry
  else
    redis.call('HDEL', KEYS[1], held[i])
  end
end
return live
