-- Notes that the result of one request is to come.
--
-- KEYS[1] the record, a hash:
--           n  who took the request, "<incarnation> <node id>"; words behind these are passed over
--           d  when its time is over, in milliseconds of this server's clock, 16 digits
--           k  for how many milliseconds the result is kept
--           w  what a node has to know of the request to store its reply
--           e  when the result came, as d; absent until then
--         Fields that are not among these are another version's, and stay as they are.
-- KEYS[2] the result, a string, which lives as long as it is kept. The record lives for as long
--         again: then it says that the result has expired.
-- ARGV    what is left of its time in milliseconds, then k, n, w
--
-- Answers 'before' (the result is there: nothing is changed) or 'done'.

local held = redis.pcall('HMGET', KEYS[1], 'e')
if held.err then
  -- Of another type: nobody could read it.
  redis.call('DEL', KEYS[1])
elseif held[1] then
  return 'before'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'n', ARGV[3], 'd', string.format('%016.0f', now + ARGV[1]),
  'k', ARGV[2], 'w', ARGV[4])
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ARGV[1] + 2 * ARGV[2]))
return 'done'
