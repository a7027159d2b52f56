-- Ends one session.
-- KEYS: state, details, user, index, stream, evicted
-- ARGV: time, session id, why, revocation lifetime

local state, unreadable = load(KEYS[1])
if unreadable then
  return unreadable
end
if not state or is_revoked(ARGV[2], state, KEYS[3], KEYS[6]) or is_expired(state) then
  return 0
end
finish(KEYS[1], KEYS[2], KEYS[4], KEYS[5], ARGV[2], state, ARGV[3], tonumber(ARGV[4]))
return 1
