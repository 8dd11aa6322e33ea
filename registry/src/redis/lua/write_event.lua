-- Writes one event of a key of a view, and finds who waits for it.
--
-- KEYS[1] the latest event, a hash:
--           t  the id of its topic, or - where it is not known
--           p  its partition
--           o  its offset
--           a  its time in milliseconds since the Unix epoch, or 0
--           s  the state into which it brings its key; absent where it does not say
--           c  the event itself; absent where it has removed its key
--         Fields that are not among these are another version's, and go with the event they are of.
-- KEYS[2] who waits, a hash: request id → JSON, as begin_wait.lua describes it
-- ARGV    t, p, o, a, for how many milliseconds it lives; 1 where it has a state, or empty; s; 1 where
--         it has content, or empty; c
--
-- Answers with the ids of the requests that wait for it. They go on waiting until they are forgotten:
-- whoever has been given them may die before they are told.

local function is_of_another_topic(t, of)
  return t ~= '-' and of[1] ~= '-' and t ~= of[1]
end

local function is_newer(t, p, o, a, of)
  if is_of_another_topic(t, of) then
    return true
  end
  if p == of[2] then
    return tonumber(o) > tonumber(of[3])
  end
  return tonumber(a) > tonumber(of[4])
end

local held = redis.pcall('HMGET', KEYS[1], 't', 'p', 'o', 'a')
if held.err then
  -- Of another type: nobody could read it.
  redis.call('DEL', KEYS[1])
  held = {}
end
local is_there = held[1] and held[2] and tonumber(held[3] or nil) and tonumber(held[4] or nil)
-- Of two topics of one name, the one that is read is the one that there is.
if not is_there or is_of_another_topic(held[1], ARGV)
  or not is_newer(held[1], held[2], held[3], held[4], ARGV) then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 't', ARGV[1], 'p', ARGV[2], 'o', ARGV[3], 'a', ARGV[4])
  if ARGV[6] == '1' then
    redis.call('HSET', KEYS[1], 's', ARGV[7])
  end
  if ARGV[8] == '1' then
    redis.call('HSET', KEYS[1], 'c', ARGV[9])
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
end

local found = {}
if ARGV[6] ~= '1' or ARGV[8] ~= '1' then
  return found
end
local waits = redis.pcall('HGETALL', KEYS[2])
if waits.err then
  redis.call('DEL', KEYS[2])
  return found
end
if #waits == 0 then
  return found
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for at = 1, #waits, 2 do
  local is_read, wait = pcall(cjson.decode, waits[at + 1])
  if not is_read or type(wait) ~= 'table' or (tonumber(wait.d) or 0) <= now then
    redis.call('HDEL', KEYS[2], waits[at])
  else
    local is_wanted = false
    for _, state in ipairs(wait.u or {}) do
      is_wanted = is_wanted or state == ARGV[7]
    end
    local is_in_time = ARGV[4] == '0' or tonumber(ARGV[4]) >= (tonumber(wait.n) or 0)
    local of = {}
    for word in string.gmatch(wait.a or '', '%S+') do
      of[#of + 1] = word
    end
    if is_wanted and is_in_time
      and (#of < 4 or is_newer(ARGV[1], ARGV[2], ARGV[3], ARGV[4], of)) then
      found[#found + 1] = waits[at]
    end
  end
end
return found
