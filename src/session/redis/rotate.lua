-- Presents a refresh token: decides in the order of family::rotate.
-- KEYS: session, user, index, stream, evicted
-- ARGV: time, secret hash, generation, session id, user key, idle, grace, coalesce,
--       lost response (-1: until used), on reuse (user: end all), revocation lifetime, absolute

local id, user_name = ARGV[4], ARGV[5]
local idle, grace, coalesce = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local lost, lifetime, absolute = tonumber(ARGV[9]), tonumber(ARGV[11]), tonumber(ARGV[12])
local presented = tonumber(ARGV[3])

local state, unreadable = load(KEYS[1])
if unreadable then
  return unreadable
end
if not state then
  return { 'unknown', false, false }
end
if state.h ~= ARGV[2] then
  return { 'mismatch', false, false }
end
if is_revoked(id, state, KEYS[2], KEYS[5]) then
  return { 'revoked', false, false }
end
if is_expired(state) then
  return { 'expired', false, false }
end

local function seen()
  state.s = now
  state.i = math.min(state.a, now + idle)
  state.r = math.min(state.r, now)
  state.t = math.min(state.t, now)
end

local function advance(generation)
  seen()
  state.n, state.r, state.t, state.f = generation, now, now, 0
end

local age = math.max(0, now - state.t)
local behind = state.n - presented
local period_is_over = now < state.p or now - state.p >= PERIOD
local in_time = lost < 0 or (lost > 0 and math.max(0, now - state.r) <= lost)
local recoverable = in_time and state.f == 0 and (state.b < RECOVERIES or period_is_over)

local outcome
if behind < 0 then
  if -behind > HEAL then
    return { 'ahead', false, false }
  end
  outcome = 'healed'
  advance(presented)
  state.f = 1
elseif behind == 0 then
  if (state.n > 0 and age < coalesce) or state.n == LAST then
    outcome = 'same'
    seen()
  else
    outcome = 'rotated'
    advance(state.n + 1)
  end
elseif behind == 1 and grace > 0 and age <= grace then
  outcome = 'retry'
  seen()
elseif behind == 1 and recoverable then
  outcome = 'recovered'
  if period_is_over then
    state.b, state.p = 1, now
  else
    state.b = state.b + 1
  end
  seen()
  state.t = now
else
  local record, epoch = packed(state), false
  finish(KEYS[1], KEYS[3], KEYS[4], id, state, REUSED, lifetime)
  if ARGV[10] == 'user' then
    epoch = int(raise(KEYS[2], KEYS[3], KEYS[4], user_name, lifetime, absolute, next_epoch(KEYS[2])))
  end
  return { 'reused', record, epoch }
end

-- First what needs no memory: a rotation takes no more room than it found, so a full Redis lets it pass.
redis.call('PEXPIREAT', KEYS[1], int(state.i + LINGER))
save(KEYS[1], state)
enlist(KEYS[3], id, state, idle)
return { outcome, packed(state), false }
