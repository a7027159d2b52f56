-- Notes that access tokens of these generations were seen in use.
-- KEYS: states
-- ARGV: the generation seen of each

for at, key in ipairs(KEYS) do
  local values = redis.call('HMGET', key, 'n', 'f', 'x')
  if values[1] == ARGV[at] and values[2] == '0' and not values[3] then
    redis.call('HSET', key, 'f', 1)
  end
end
return redis.status_reply('OK')
