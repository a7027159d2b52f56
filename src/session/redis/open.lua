-- Opens a session; ends the longest idle ones beyond the limit.
-- KEYS: session, user, index, stream, evicted
-- ARGV: time, secret hash, session id, details, absolute expiry, idle, limit, revocation lifetime,
--       user key, absolute, the epoch that the gateway knows
--
-- Every key a script touches is declared, and which sessions must make room is known only here: so theirs
-- are left alone, and they are noted as evicted under a key of the user.

local id = ARGV[3]
local idle, limit, lifetime = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

local state, unreadable = load(KEYS[1])
if unreadable then
  return unreadable
end
if state then
  if state.h ~= ARGV[2] then
    return redis.error_reply('CORRUPT the identifier of a new session is taken')
  end
  return { packed(state), {} }
end

local known = tonumber(ARGV[11])
if epoch_of(KEYS[2]) < known then
  raise(KEYS[2], KEYS[3], KEYS[4], ARGV[9], lifetime, tonumber(ARGV[10]), known)
end

local alive = {}
local entries = redis.call('ZRANGE', KEYS[3], 0, -1, 'WITHSCORES')
for at = 1, #entries, 2 do
  local expiry = expiry_of(entries[at], entries[at + 1])
  if now < expiry then
    alive[#alive + 1] = { entry = entries[at], expiry = expiry }
  end
end
local evicted, kept_until = {}, 0
for at = 1, #alive + 1 - limit do
  local leaving = alive[at]
  evicted[at] = string.match(leaving.entry, '^[^:]+')
  kept_until = math.max(kept_until, leaving.expiry + LINGER)
  redis.call('ZREM', KEYS[3], leaving.entry)
  redis.call('ZADD', KEYS[5], int(leaving.expiry), evicted[at])
  revoke_session(KEYS[4], lifetime, evicted[at], KEYS[1])
end
if kept_until > 0 then
  local latest = redis.call('ZRANGE', KEYS[5], -1, -1, 'WITHSCORES')[2]
  redis.call('PEXPIREAT', KEYS[5], int(math.max(kept_until, tonumber(latest) + LINGER)))
  redis.call('ZREMRANGEBYSCORE', KEYS[5], '-inf', int(now - LINGER))
end

local expires = tonumber(ARGV[5])
state = {
  x = 0, h = ARGV[2], c = now, n = 0, r = now, t = now, f = 0, b = 0, p = now, e = epoch_of(KEYS[2]),
  s = now, i = math.min(expires, now + idle), a = expires, details = ARGV[4],
}
save(KEYS[1], state)
enlist(KEYS[3], id, state, idle)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', int(now - LINGER))
return { packed(state), evicted }
