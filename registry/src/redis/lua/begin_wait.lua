-- Has one request wait for a state of a key of a view.
--
-- KEYS[1] the latest event, as write_event.lua describes it
-- KEYS[2] who waits, a hash: request id → JSON:
--           d  when its time is over, in milliseconds of this server's clock
--           n  events whose time is before this, in milliseconds since the Unix epoch, do not count
--           a  newer events than this one count: its t, p, o and a, with a space between each;
--              absent where all do
--           u  the states, a list
--         All but u are texts. Names that are not among these are another version's.
-- ARGV    the request's id; for how many milliseconds it may wait; * where the latest event counts and
--         newer ones, = where only those do that are newer than the latest, else a; n; then the states
--
-- Answers {'begun'} where all events count from now on, {'begun', a}, or {'over', t, p, o, a, s, c}
-- where the latest event is one for which it would wait: then nothing is changed.

local held = redis.pcall('HMGET', KEYS[1], 't', 'p', 'o', 'a', 's', 'c')
if held.err then
  redis.call('DEL', KEYS[1])
  held = {}
end
local is_there = held[1] and held[2] and tonumber(held[3] or nil) and tonumber(held[4] or nil)
local latest = is_there and table.concat({held[1], held[2], held[3], held[4]}, ' ') or '*'
local after = ARGV[3] == '=' and latest or ARGV[3]
local of = {}
for word in string.gmatch(after, '%S+') do
  of[#of + 1] = word
end

local function is_newer()
  if #of < 4 then
    return true
  end
  if held[1] ~= '-' and of[1] ~= '-' and held[1] ~= of[1] then
    return true
  end
  if held[2] == of[2] then
    return tonumber(held[3]) > tonumber(of[3])
  end
  return tonumber(held[4]) > tonumber(of[4])
end

local states, is_reached = {}, false
for at = 5, #ARGV do
  states[#states + 1] = ARGV[at]
  is_reached = is_reached or held[5] == ARGV[at]
end
if is_there and held[6] and is_reached and is_newer()
  and (held[4] == '0' or tonumber(held[4]) >= tonumber(ARGV[4])) then
  return {'over', held[1], held[2], held[3], held[4], held[5], held[6]}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local wait = {d = string.format('%.0f', now + ARGV[2]), n = ARGV[4], u = states}
if after == '*' then
  -- What is read again later than this is not what the key is in.
  after = latest
end
if after ~= '*' then
  wait.a = after
end
local left = redis.pcall('HSET', KEYS[2], ARGV[1], cjson.encode(wait))
if type(left) == 'table' and left.err then
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[2], ARGV[1], cjson.encode(wait))
end
if redis.call('PTTL', KEYS[2]) < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end
if after ~= '*' then
  return {'begun', after}
end
return {'begun'}
