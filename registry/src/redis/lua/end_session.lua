-- Removes one session and its checkpoint, unless it is at another epoch.
--
-- KEYS    the record, the requests and the mailbox, as record.lua describes them
-- ARGV    epoch, 20 digits

if redis.call('HGET', KEYS[1], 'e') == ARGV[1] then
  redis.call('UNLINK', KEYS[1], KEYS[2], KEYS[3])
end
return 'ended'
