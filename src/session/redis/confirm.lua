-- Notes that access tokens of these generations were seen in use.
-- KEYS: sessions
-- ARGV: time, the generation seen of each

for at, key in ipairs(KEYS) do
  local state = load(key)
  if state and state.x == 0 and state.f == 0 and state.n == tonumber(ARGV[at + 1]) then
    state.f = 1
    redis.call('SET', key, packed(state), 'KEEPTTL')
  end
end
return redis.status_reply('OK')
