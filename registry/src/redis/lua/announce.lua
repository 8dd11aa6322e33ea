-- Writes or refreshes one node's entry in the node table.
--
-- KEYS[1] the table, a hash: node id -> "<incarnation> <end> <call> <entry>", where
--         incarnation has 20 digits, so that text order is number order (a Lua number would
--         round it), end is in milliseconds of this server's clock, and
--         call names the announcement that made the entry.
-- ARGV    node id, incarnation, life in milliseconds, call, entry
--
-- Answers 'superseded' (a later run is there: nothing is written), 'refreshed' or 'fresh'.
-- A call that is repeated because its answer got lost is answered as it was the first time.

local id, incarnation, life_ms, call, entry = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local answer = 'fresh'
local held = redis.pcall('HGET', KEYS[1], id)
if type(held) == 'table' then
  -- A key of another type is no table of nodes, and nobody else would ever remove it.
  redis.call('DEL', KEYS[1])
  held = false
end
if held then
  local held_incarnation, end_ms, held_call = string.match(held, '^(%d+) (%d+) (%S+) ')
  if held_incarnation and tonumber(end_ms) > now_ms then
    if held_incarnation > incarnation then
      return 'superseded'
    end
    if held_incarnation == incarnation then
      if held_call ~= call then
        answer = 'refreshed'
      end
      call = held_call
    end
  end
end

local end_ms = string.format('%.0f', now_ms + life_ms)
redis.call('HSET', KEYS[1], id, table.concat({incarnation, end_ms, call, entry}, ' '))
if redis.call('PTTL', KEYS[1]) < life_ms then
  redis.call('PEXPIRE', KEYS[1], life_ms)
end
return answer
