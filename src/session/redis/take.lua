-- Takes a login try from each bucket, or from none.
-- KEYS: buckets, then marks: a try that has one of them is not counted by the last bucket
-- ARGV: time, number of buckets, then of each bucket: how long it takes to fill, how long one try takes

local buckets = tonumber(ARGV[2])
local counted = buckets
for at = buckets + 1, #KEYS do
  if (tonumber(redis.call('GET', KEYS[at])) or 0) > now then
    counted = buckets - 1
    break
  end
end

-- GCRA, as in throttle::Bucket: all that is kept of a bucket is when it is full again.
local wait, full_at = 0, {}
for at = 1, counted do
  local capacity, every = tonumber(ARGV[2 * at + 1]), tonumber(ARGV[2 * at + 2])
  local before = tonumber(redis.call('GET', KEYS[at])) or now
  if before > now + 2 * capacity then
    before = now
  end
  full_at[at] = math.max(now, before) + every
  wait = math.max(wait, full_at[at] - (now + capacity))
end
if wait == 0 then
  for at = 1, counted do
    redis.call('SET', KEYS[at], int(full_at[at]), 'PXAT', int(full_at[at]))
  end
end
return { int(wait), counted }
