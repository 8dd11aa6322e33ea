-- Takes one session over.
--
-- KEYS    the record, the requests and the mailbox, as record.lua describes them
-- ARGV    life in milliseconds, call, the hash of the token shown, user as in the record, owner
--         as in the record, the hash of the next token
--
-- Answers 'refused' or 'other user' (nothing is changed), or a list: the epoch, the former owner
-- as in the record's d, the user, o or an empty text, g or an empty text, the time in milliseconds of
-- this server's clock, the requests (id, value, id, value, …), the mailbox's members, w or an empty
-- text, how many bytes all frames and how many requests there should be, each empty where that is not
-- known. A call that is repeated because its answer got lost is not carried out twice.

local record, requests, mailbox = KEYS[1], KEYS[2], KEYS[3]
local life_ms, call, token, user = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local held = redis.call('HMGET', record, 'e', 'n', 'u', 'f', 't', 'p', 'c', 'd', 'o', 'g', 'w',
  'b', 'q')
local epoch, node, its_user, flags = held[1], held[2], held[3], held[4]
-- What record.lua cannot have written is no session; a later one may have written more behind the
-- words that are known.
if not epoch or #epoch ~= 20 or not string.match(epoch, '^%d+$') or not its_user
  or not node or not (node == '-' or string.match(node .. ' ', '^%d+ [%w._-]+ '))
  or not flags or not string.match(flags, '^[01][01]') then
  return 'refused'
end

-- Counted for another epoch, it is not known: that one's owner is of a version that does not count.
local counted = held[13] and string.sub(held[13], 1, 21) == epoch .. ' '
  and string.match(held[13], '^%d+', 22)
local former = held[8]
if held[7] ~= call then
  if token ~= held[5] and token ~= held[6] or epoch == '18446744073709551615' then
    return 'refused'
  end
  if user ~= its_user then
    return 'other user'
  end
  former = table.concat({epoch, flags, node}, ' ')
  -- Ten digits at a time: a Lua number would round the whole.
  local high, low = string.sub(epoch, 1, 10), tonumber(string.sub(epoch, 11)) + 1
  if low == 1e10 then
    high, low = string.format('%010.0f', tonumber(high) + 1), 0
  end
  epoch = high .. string.format('%010.0f', low)
  redis.call('HSET', record, 'e', epoch, 'n', ARGV[5], 'f', string.sub(flags, 1, 1) .. '1',
    't', ARGV[6], 'p', token, 'c', call, 'd', former)
  if counted then
    redis.call('HSET', record, 'q', epoch .. ' ' .. counted)
  end
  for _, key in ipairs(KEYS) do
    redis.call('PEXPIRE', key, life_ms)
  end
end
-- A key of another type is an entry that cannot be read.
local in_flight, frames = redis.pcall('HGETALL', requests), redis.pcall('ZRANGE', mailbox, 0, -1)
local time = redis.call('TIME')
return {epoch, former, its_user, held[9] or '', held[10] or '',
  string.format('%016.0f', time[1] * 1000 + math.floor(time[2] / 1000)),
  in_flight.err and {'', ''} or in_flight, frames.err and {''} or frames, held[11] or '',
  held[12] or '', counted or ''}
