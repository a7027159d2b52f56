-- Ends all sessions of a user.
-- KEYS: user, index, stream
-- ARGV: time, user key, revocation lifetime, absolute

local alive = 0
local entries = redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES')
for at = 1, #entries, 2 do
  if now < expiry_of(entries[at], entries[at + 1]) then
    alive = alive + 1
  end
end
return { alive, raise(KEYS[1], KEYS[2], KEYS[3], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]),
  next_epoch(KEYS[1])) }
