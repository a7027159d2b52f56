-- Gives a login try back to the buckets it was taken from; where the password was right, leaves a mark.
-- KEYS: buckets, then the mark if there is to be one
-- ARGV: time, how long the mark stays, then of each bucket how long one try takes

local buckets = #ARGV - 2
for at = 1, buckets do
  local full_at = tonumber(redis.call('GET', KEYS[at]))
  if full_at then
    full_at = full_at - tonumber(ARGV[at + 2])
    if full_at > now then
      redis.call('SET', KEYS[at], int(full_at), 'PXAT', int(full_at))
    else
      redis.call('DEL', KEYS[at])
    end
  end
end
local mark = KEYS[buckets + 1]
if mark then
  local until_then = int(now + tonumber(ARGV[2]))
  redis.call('SET', mark, until_then, 'PXAT', until_then)
end
return redis.status_reply('OK')
