-- Writes or refreshes one session's record, and lets its checkpoint live as long.
--
-- KEYS[1] the record, a hash:
--           e  epoch, 20 digits, so that text order is number order (a Lua number would round it)
--           n  owner, "<incarnation> <node id>", or "-" for none
--           u  user, "=<name>", or empty for none
--           f  two digits, 1 for yes: reliable, attached
--           t  the token's hash, p  that of the token before, or empty
--           c  the last call that must not be carried out twice: it created, claimed or parked
--           d  "<e> <f> <n>" from before the last claim; absent before the first
--           b  bytes of all frames in the mailbox, i  its last frame's index; absent before the
--              first frame
--           o  1 once the mailbox has outgrown its limits; absent until then
--           g  the generation in which the checkpoint was written, or empty
--           w  "<e> <n>" as an owner wrote them last, or whoever took the owner away; no claim
--              changes it. Absent where a version without it has written
--           q  "<e> <number of requests>". For another epoch than e it says nothing: then a version
--              without it holds the session
--         Fields that are not among these are another version's, and stay as they are. What it
--         writes behind the digits of f (no spaces) and the words of n is passed over.
-- KEYS[2] its requests, a hash: request id -> letter of its progress (s, r, e), when it was written in
--         milliseconds of this server's clock (16 digits), detail
-- KEYS[3] its mailbox, a sorted set whose scores are all 0: "<number, 20 digits> <index, 16 digits>
--         <request id or -> <frame>", so that the members are ordered by their numbers; the order
--         of parking is that of the indexes
-- A server that is full may drop any key by itself, whatever life it has left. So b and q tell whether
-- there should be something in a key that is not there.
-- ARGV    life in milliseconds, call, then e, n, u, f, t, p, g
--
-- Answers 'superseded' (a later epoch is there: nothing is written), 'refreshed' or 'created'. What
-- is there of an earlier epoch, or of another type than a record, goes with its checkpoint: only a
-- server that went back to what it held some time ago has that.
-- A call that is repeated because its answer got lost is answered as it was the first time.

local life_ms, call, epoch = ARGV[1], ARGV[2], ARGV[3]
local held = redis.pcall('HMGET', KEYS[1], 'e', 'c')
local answer = 'refreshed'
local is_known = not held.err and held[1] and string.match(held[1], '^%d+$') and #held[1] == 20
if is_known and held[1] > epoch then
  return 'superseded'
end
if is_known and held[1] == epoch then
  if held[2] == call then
    answer = 'created'
  end
else
  answer = 'created'
  -- Only where something is left: a server that is full takes writes once it has dropped a key.
  if redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[3]) > 0 then
    redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
  end
  redis.call('HSET', KEYS[1], 'c', call, 'q', epoch .. ' 0')
end

redis.call('HSET', KEYS[1], 'e', epoch, 'n', ARGV[4], 'u', ARGV[5], 'f', ARGV[6], 't', ARGV[7],
  'p', ARGV[8], 'g', ARGV[9], 'w', epoch .. ' ' .. ARGV[4])
-- The record first: where time goes on between the calls, it is the first to end.
for _, key in ipairs(KEYS) do
  redis.call('PEXPIRE', key, life_ms)
end
return answer
