-- Says what is known of the result of one request.
--
-- KEYS    the record and the result, as expect.lua describes them
--
-- Answers nothing where there is no record, or a list: n, w, a word for its state, what is left of
-- its time in milliseconds, the result; the last two are empty where there is none. An entry that
-- cannot be read is a list of another length.

local held = redis.pcall('HMGET', KEYS[1], 'n', 'w', 'd', 'k', 'e')
if held.err then
  return {''}
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  return false
end
local over, keep = tonumber(held[3] or nil), tonumber(held[4] or nil)
if not held[1] or not held[2] or not over or not keep then
  return {''}
end
if held[5] then
  local result = redis.pcall('GET', KEYS[2])
  if type(result) == 'string' then
    return {held[1], held[2], 'stored', '', result}
  end
  return {held[1], held[2], 'gone', '', ''}
end
local time = redis.call('TIME')
local left = over - (time[1] * 1000 + math.floor(time[2] / 1000))
if left > 0 then
  return {held[1], held[2], 'waiting', string.format('%.0f', left), ''}
end
return {held[1], held[2], left + keep > 0 and 'overdue' or 'gone', '', ''}
