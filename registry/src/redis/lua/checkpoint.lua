-- Changes one session's checkpoint, step by step.
--
-- KEYS    the record, the requests and the mailbox, as record.lua describes them
-- ARGV    epoch, 20 digits; most frames and most bytes of a mailbox; the call, or empty when none
--         of its steps parks and nothing is orphaned; 1 when the session loses its owner, or
--         empty; then the steps, each a letter and what belongs to it:
--           r <request id> <letter of progress, detail>
--           p <number, 20 digits> <request id or -> <frame>
--           t <number, 20 digits>
--           c (everything goes: frames and requests)
--           f <request id>
--
-- Answers 'missing' (there is none, or an earlier epoch, or the server has dropped a part of it, which
-- its owner alone can write anew) or 'superseded' (a later one): then nothing
-- is changed; else 'overflowed' or 'done'. A call that
-- parks and is repeated because its answer got lost is not carried out twice.

local record, requests, mailbox = KEYS[1], KEYS[2], KEYS[3]
local frames_max, bytes_max, call = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local held = redis.call('HMGET', record, 'e', 'c', 'b', 'i', 'o', 'n', 'q')
if not held[1] or #held[1] ~= 20 or not string.match(held[1], '^%d+$') then
  return 'missing'
end
local overflowed = held[5] == '1'
if call ~= '' and held[2] == call then
  return overflowed and 'overflowed' or 'done'
end
if held[1] ~= ARGV[1] then
  return held[1] < ARGV[1] and 'missing' or 'superseded'
end

local bytes, index = tonumber(held[3] or 0), tonumber(held[4] or 0)
local frames = false
local new_request, new_mailbox = false, false
-- How many requests there are; nothing where this epoch's owner does not count them.
local was_counted = held[7] and string.sub(held[7], 1, 21) == held[1] .. ' '
  and tonumber(string.match(held[7], '^%d+', 22))
local counted = was_counted

if held[6] ~= '-' and ARGV[5] ~= '1' and ARGV[6] ~= 'c' then
  -- It is the owner's call. Whoever parks for a session without one could not write it anew; what is
  -- missing then, the claim finds out.
  frames = bytes > 0 and redis.call('ZCARD', mailbox)
  if frames == 0 or counted and counted > 0 and redis.call('HLEN', requests) ~= counted then
    return 'missing'
  end
end

local time = false
local function now()
  if not time then
    local parts = redis.call('TIME')
    time = string.format('%016.0f', parts[1] * 1000 + math.floor(parts[2] / 1000))
  end
  return time
end

local function clear()
  redis.call('UNLINK', mailbox)
  frames, bytes = 0, 0
end

local function park(number, request, frame)
  local progress = false
  if request ~= '-' then
    progress = redis.call('HGET', requests, request)
    if not progress or string.sub(progress, 1, 1) == 'e' then
      return
    end
  end
  frames = frames or redis.call('ZCARD', mailbox)
  if not overflowed and (frames >= frames_max or bytes + #frame > bytes_max) then
    overflowed = true
    redis.call('HSET', record, 'o', '1')
    clear()
  end
  if overflowed then
    return
  end
  new_mailbox = new_mailbox or frames == 0
  frames, bytes, index = frames + 1, bytes + #frame, index + 1
  local member = table.concat({number, string.format('%016.0f', index), request, frame}, ' ')
  redis.call('ZADD', mailbox, 0, member)
  if progress then
    redis.call('HSET', requests, request, 'e' .. string.sub(progress, 2))
  end
end

local function trim(number)
  local first, last = '[00000000000000000001', '[' .. number .. '~'
  local dropped = redis.call('ZRANGEBYLEX', mailbox, first, last)
  for _, member in ipairs(dropped) do
    -- The request's word begins behind 20 and 16 digits, each with a space.
    bytes = bytes - (#member - string.find(member, ' ', 39, true))
  end
  if #dropped > 0 then
    redis.call('ZREMRANGEBYLEX', mailbox, first, last)
    frames = frames and frames - #dropped
  end
end

local at = 6
while ARGV[at] do
  local step = ARGV[at]
  if step == 'r' then
    local progress = redis.call('HGET', requests, ARGV[at + 1])
    if not progress or string.sub(progress, 1, 1) ~= 'e' then
      local value = ARGV[at + 2]
      value = string.sub(value, 1, 1) .. now() .. string.sub(value, 2)
      redis.call('HSET', requests, ARGV[at + 1], value)
      new_request = new_request or not progress
      counted = counted and not progress and counted + 1 or counted
    end
    at = at + 3
  elseif step == 'p' then
    park(ARGV[at + 1], ARGV[at + 2], ARGV[at + 3])
    at = at + 4
  elseif step == 't' then
    trim(ARGV[at + 1])
    at = at + 2
  elseif step == 'c' then
    clear()
    redis.call('UNLINK', requests)
    counted = 0
    at = at + 1
  else
    local forgotten = redis.call('HDEL', requests, ARGV[at + 1])
    counted = counted and counted - forgotten
    at = at + 2
  end
end

local epoch = held[1]
if ARGV[5] == '1' then
  -- Ten digits at a time: a Lua number would round the whole.
  local high, low = string.sub(held[1], 1, 10), tonumber(string.sub(held[1], 11)) + 1
  if low == 1e10 then
    high, low = string.format('%010.0f', tonumber(high) + 1), 0
  end
  epoch = high .. string.format('%010.0f', low)
  redis.call('HSET', record, 'e', epoch, 'n', '-', 'w', epoch .. ' -')
end
local changed = {}
if call ~= '' then
  changed = {'c', call, 'b', bytes, 'i', index}
elseif bytes ~= tonumber(held[3] or 0) then
  changed = {'b', bytes}
end
if counted and (counted ~= was_counted or epoch ~= held[1]) then
  changed[#changed + 1] = 'q'
  changed[#changed + 1] = epoch .. ' ' .. counted
end
if changed[1] then
  redis.call('HSET', record, unpack(changed))
end
if new_request or new_mailbox then
  -- Again for one that is old: its life is the record's in any case.
  local life_ms = redis.call('PTTL', record)
  if new_request then
    redis.call('PEXPIRE', requests, life_ms)
  end
  if new_mailbox then
    redis.call('PEXPIRE', mailbox, life_ms)
  end
end
return (call ~= '' and overflowed) and 'overflowed' or 'done'
