-- What the transitions share. Above this stand the numbers that the rules in family.rs fix.
-- ARGV[1] is the time in milliseconds, or empty: the server's own, one clock for all gateways.

local clock = redis.call('TIME')
local server_now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local now = tonumber(ARGV[1]) or server_now

-- Lua would write a large number in scientific notation.
local function int(number)
  return string.format('%.0f', number)
end

-- A session is one string: a state of fixed length, and behind it, while the session lives, its details as
-- JSON. The state: version, x (why ended, 0: alive), f (confirmed), b(udget used), n (generation), e(poch),
-- c(reated), r(otated), t (handed), p(eriod of the budget), s(een), i(dle expiry), a(bsolute expiry),
-- h(ash of the secret). decode.rs reads the same.
local LAYOUT, LENGTH, VERSION = '>I1I1I1I1I4I4I8I8I8I8I8I8I8c32', 100, 1

-- The state under a key; nil if there is none, and a second value if there is one we cannot read.
local function load(key)
  local record = redis.call('GET', key)
  if not record then
    return nil
  end
  if #record < LENGTH or string.byte(record) ~= VERSION then
    return nil, redis.error_reply('CORRUPT a session is not of the form this version writes')
  end
  local state, _ = {}, nil
  _, state.x, state.f, state.b, state.n, state.e, state.c, state.r, state.t, state.p, state.s, state.i, state.a,
    state.h = struct.unpack(LAYOUT, record)
  state.details = string.sub(record, LENGTH + 1)
  return state
end

local function packed(state)
  return struct.pack(LAYOUT, VERSION, state.x, state.f, state.b, state.n, state.e, state.c, state.r, state.t,
    state.p, state.s, state.i, state.a, state.h) .. state.details
end

local function save(key, state)
  redis.call('SET', key, packed(state), 'PXAT', int(state.i + LINGER))
end

local function epoch_of(user)
  return tonumber(redis.call('GET', user) or 0) or 0
end

local function is_revoked(id, state, user, evicted)
  return state.x ~= 0 or state.e < epoch_of(user) or redis.call('ZSCORE', evicted, id)
end

local function is_expired(state)
  return now >= state.i or now >= state.a
end

-- The index lists a user's sessions as "id:absolute expiry", by when they idle out if nothing happens.
local function member(id, state)
  return id .. ':' .. int(state.a)
end

local function enlist(index, id, state, idle)
  redis.call('ZADD', index, int(now + idle), member(id, state))
  redis.call('PEXPIREAT', index, int(now + idle + LINGER))
end

-- When the session behind an entry of the index expires; 0 if the entry cannot be read.
local function expiry_of(entry, idles_out)
  local absolute = tonumber(string.match(entry, ':(%d+)$'))
  return absolute and math.min(absolute, tonumber(idles_out)) or 0
end

-- The feed goes by the server's clock alone, since its entries' ids do.
local function revoke(stream, lifetime, ...)
  local oldest = math.max(0, server_now - lifetime)
  redis.call('XADD', stream, 'MINID', '~', int(oldest), '*', 't', int(now + lifetime), ...)
  redis.call('PEXPIRE', stream, int(lifetime + LINGER))
end

-- The user's key stands in the names of the keys of a session.
local function revoke_session(stream, lifetime, id, state_key)
  revoke(stream, lifetime, 's', id, 'u', string.match(state_key, '^rs:{%d+}:([^:]+):'))
end

-- A full Redis refuses a script's first write if that may need memory, and none after it. So what frees
-- memory comes first here: a logout must go through. What was ended keeps its state, and no details.
local function finish(state_key, index, stream, id, state, why, lifetime)
  redis.call('ZREM', index, member(id, state))
  state.x, state.details = why, ''
  redis.call('SET', state_key, packed(state), 'KEEPTTL')
  revoke_session(stream, lifetime, id, state_key)
end

-- The epoch after the present one.
local function next_epoch(user)
  return math.min(LAST, math.max(epoch_of(user) + 1, math.floor(now / 1000)))
end

-- Ends every session of a user below an epoch: the epoch does it, the index is merely emptied.
local function raise(user, index, stream, name, lifetime, absolute, epoch)
  local until_then = now + absolute
  for _, entry in ipairs(redis.call('ZRANGE', index, 0, -1)) do
    until_then = math.max(until_then, tonumber(string.match(entry, ':(%d+)$')) or 0)
  end
  redis.call('DEL', index)
  redis.call('SET', user, int(epoch), 'PXAT', int(until_then + lifetime))
  revoke(stream, lifetime, 'u', name, 'e', int(epoch))
  return epoch
end
