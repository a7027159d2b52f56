-- Raises a user's epoch to what it was before a failover.
-- KEYS: user, index, stream
-- ARGV: time, user key, revocation lifetime, absolute, epoch

local epoch = tonumber(ARGV[5])
if epoch_of(KEYS[1]) < epoch then
  raise(KEYS[1], KEYS[2], KEYS[3], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), epoch)
end
return redis.status_reply('OK')
