-- Ends one session.
-- KEYS: session, user, index, stream, evicted
-- ARGV: time, session id, why, revocation lifetime

local state, unreadable = load(KEYS[1])
if unreadable then
  return unreadable
end
if not state or is_revoked(ARGV[2], state, KEYS[2], KEYS[5]) or is_expired(state) then
  return 0
end
finish(KEYS[1], KEYS[3], KEYS[4], ARGV[2], state, tonumber(ARGV[3]), tonumber(ARGV[4]))
return 1
