-- Removes one run's entry from the node table; that of another run stays.
--
-- KEYS[1] the table, as announce.lua writes it
-- ARGV    node id, incarnation

local held = redis.call('HGET', KEYS[1], ARGV[1])
if held and string.match(held, '^%d+') == ARGV[2] then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 'left'
