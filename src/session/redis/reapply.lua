-- Ends a session that a failover brought back.
-- KEYS: session, user, index, stream, evicted
-- ARGV: time, session id, revocation lifetime

local state, unreadable = load(KEYS[1])
local lifetime = tonumber(ARGV[3])
if not state or unreadable then
  revoke_session(KEYS[4], lifetime, ARGV[2], KEYS[1])
elseif not is_revoked(ARGV[2], state, KEYS[2], KEYS[5]) then
  finish(KEYS[1], KEYS[3], KEYS[4], ARGV[2], state, LOGOUT, lifetime)
end
return redis.status_reply('OK')
