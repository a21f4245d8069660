-- Leases on the units of one limited thing (slots of a pool, sessions of an engine).
--
-- One call = one operation, atomic: it moves the lease clock on, ends what is over, does its work,
-- and hands every free unit to the first eligible waiter. So whoever frees a unit also decides who
-- gets it, and between two calls no unit is free that a waiter may have. What has ended is gone
-- before anything is granted, so no more than `capacity` units are held at any instant.
--
-- Bells. A waiter blocks on a list of its own, so a grant wakes nobody else (no herd). The bell
-- carries nothing: who hears it, or has heard none for a second, asks again, and `acquire` tells
-- what it holds. A bell that is lost costs that second; a bell too many costs a question. (Were the
-- grant in the list, an old one could be read for a new one, and one lost would be lost for ever.)
-- A grant is taken up by asking: until then it ends when the waiter's patience ends, so a waiter
-- that was killed keeps its unit for seconds and not for a whole time to live, and who gives up
-- waiting gives back only what nobody has taken up (a twin of the same name may have).
--
-- Time. Redis's TIME is the wall clock of its host and may jump. Deadlines are in a time of their
-- own, the lease clock: with each call it advances by the wall time since the call before, at
-- least 0, at most CAP_MS. Somebody calls about every second as long as anybody waits or a job is
-- on its way (waiters ask, the coordinator renews), so it keeps pace with real time. But
--   a jump forwards takes CAP_MS off each lease and ends none that is renewed in time (time to live
--     less the pause between two renewals > CAP_MS);
--   a jump backwards adds no more than the time since the last call;
--   an hour in which the server was down, stopped or not asked counts as CAP_MS: holders had no
--     chance to renew, so their leases are not over. A dead holder's unit then comes free later:
--     after its time to live in which somebody calls.
-- No key here has an expiry of Redis's own. A blocking pop has a deadline in wall time: after a jump
-- backwards it would block that much longer, so who notices the jump rings every bell.
--
-- Order. A waiter's rank is its time of arrival, plus AGE_MS for each class it stands below the
-- highest. So it is first come, first served within a class, a higher class goes first, and nobody
-- starves: who has waited 9 * AGE_MS is overtaken by no newcomer. A waiter with reserve r leaves
-- the last r units to those that ask for less and does not stand in their way; reserve does not
-- age (it keeps later work from taking what earlier work needs), but who lowers it keeps its rank.
--
-- Keys. All go with what they tell of, except `meta`, one small hash per thing: its capacity is a
-- setting, and its tokens must go on growing for as long as an old one may turn up.
--
-- KEYS  1 meta      hash   capacity, token (the last), ticket (the last), wall, clock (both ms)
--       2 held      zset   unit -> deadline, ms of the lease clock
--       3 holders   hash   unit -> "token holder"
--       4 units     hash   holder -> unit                  (the reverse of 3)
--       5 ranks     zset   waiter -> rank, us of the lease clock
--       6 patience  zset   waiter -> deadline, ms of the lease clock
--       7 reserves  hash   waiter, or holder that has not taken up its grant -> reserve
--       8 prefix of the bells; the bell of a waiter is a list, key = prefix .. waiter
-- ARGV  1 operation, then its arguments.

-- Above the second between two calls, below the time to live of any lease that is renewed.
local CAP_MS = 2000
-- A waiter that is not heard of for its wait and this is gone. Above CAP_MS: a jump ends no wait.
local GRACE_MS = 4000
-- 9 * 5 s: the lowest class comes first within the minute that stages wait for a slot.
local AGE_MS = 5000
-- Further back than this, and blocking pops outlast their second by more than another.
local BACK_MS = 1000

local meta, held, holders, units = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ranks, patience, reserves, bell = KEYS[5], KEYS[6], KEYS[7], KEYS[8]

local known = redis.call('HMGET', meta, 'capacity', 'wall', 'clock', 'ticket')
local capacity = tonumber(known[1])
local now

-- Numbers are given to redis.call as they are (17 digits); `..` would keep 14.
local function advance()
  local time = redis.call('TIME')
  local wall = time[1] * 1000 + math.floor(time[2] / 1000)
  local last, clock = tonumber(known[2]), tonumber(known[3])
  if not last then
    last, clock = wall, wall
  end
  now = clock + math.min(math.max(wall - last, 0), CAP_MS)
  if wall ~= last or now ~= tonumber(known[3]) then
    redis.call('HSET', meta, 'wall', wall, 'clock', now)
  end
  if wall < last - BACK_MS then
    for _, waiter in ipairs(redis.call('ZRANGE', ranks, 0, -1)) do
      redis.call('RPUSH', bell .. waiter, '')
    end
  end
end

local function forget(unit)
  local holder = string.match(redis.call('HGET', holders, unit), '^%d+ (.*)$')
  redis.call('ZREM', held, unit)
  redis.call('HDEL', holders, unit)
  redis.call('HDEL', units, holder)
  redis.call('HDEL', reserves, holder)
  redis.call('DEL', bell .. holder)
end

local function leave(waiter)
  redis.call('ZREM', ranks, waiter)
  redis.call('ZREM', patience, waiter)
  redis.call('HDEL', reserves, waiter)
  redis.call('DEL', bell .. waiter)
end

local function expire()
  for _, unit in ipairs(redis.call('ZRANGEBYSCORE', held, '-inf', now)) do
    forget(unit)
  end
  for _, waiter in ipairs(redis.call('ZRANGEBYSCORE', patience, '-inf', now)) do
    leave(waiter)
  end
end

-- The reserve stays until the grant is taken up.
local function grant(waiter)
  local unit = 0
  while redis.call('HEXISTS', holders, unit) == 1 do
    unit = unit + 1
  end
  local token = redis.call('HINCRBY', meta, 'token', 1)
  redis.call('ZADD', held, redis.call('ZSCORE', patience, waiter), unit)
  redis.call('HSET', holders, unit, token .. ' ' .. waiter)
  redis.call('HSET', units, waiter, unit)
  redis.call('ZREM', ranks, waiter)
  redis.call('ZREM', patience, waiter)
end

-- Hand out what is free. Who asks just now needs no bell.
local function serve(asking)
  local used, place = redis.call('ZCARD', held), 0
  while capacity and used < capacity do
    local waiter = redis.call('ZRANGE', ranks, place, place)[1]
    if not waiter then
      return
    end
    if used < capacity - redis.call('HGET', reserves, waiter) then
      grant(waiter)
      used = used + 1
      if waiter ~= asking then
        redis.call('RPUSH', bell .. waiter, '')
      end
    else
      place = place + 1
    end
  end
end

local function current(holder)
  local unit = redis.call('HGET', units, holder)
  if not unit then
    return nil
  end
  local token = string.match(redis.call('HGET', holders, unit), '^(%d+) ')
  return unit, token
end

-- Tickets only grow, also when two arrive within a millisecond.
local function queue_up(holder, class)
  local ticket = math.max((tonumber(known[4]) or 0) + 1, now * 1000)
  redis.call('HSET', meta, 'ticket', ticket)
  redis.call('ZADD', ranks, ticket + class * AGE_MS * 1000, holder)
end

local operation = {}

-- acquire holder ttl_ms wait_ms class reserve -> {unit, token} | {} (queued) | {'closed'}
-- wait_ms 0: take it or leave it. Asking again keeps the rank, renews patience and reserve, and
-- takes up what was granted meanwhile.
operation.acquire = function(holder, ttl, wait, class, reserve)
  if not capacity then
    return {'closed'}
  end
  if not current(holder) then
    if not redis.call('ZSCORE', ranks, holder) then
      queue_up(holder, class)
    end
    redis.call('ZADD', patience, now + wait + GRACE_MS, holder)
    redis.call('HSET', reserves, holder, reserve)
  end
  serve(holder)
  local unit, token = current(holder)
  if unit then
    redis.call('ZADD', held, now + ttl, unit)
    redis.call('HDEL', reserves, holder)
    redis.call('DEL', bell .. holder)
    return {unit, token}
  end
  if tonumber(wait) == 0 then
    leave(holder)
  end
  return {}
end

-- renew holder token ttl_ms -> {'1'} | {'0'} (no longer the holder's)
operation.renew = function(holder, token, ttl)
  local unit, mine = current(holder)
  local ok = unit and mine == token
  if ok then
    redis.call('ZADD', held, now + ttl, unit)
  end
  serve()
  return {ok and '1' or '0'}
end

-- release holder token -> {'1'} | {'0'}
operation.release = function(holder, token)
  local unit, mine = current(holder)
  local ok = unit and mine == token
  if ok then
    forget(unit)
  end
  serve()
  return {ok and '1' or '0'}
end

-- cancel holder -> {'1'}; leaves the queue and gives back a grant that was not taken up.
operation.cancel = function(holder)
  local unit = redis.call('HGET', units, holder)
  if unit and redis.call('HEXISTS', reserves, holder) == 1 then
    forget(unit)
  end
  leave(holder)
  serve()
  return {'1'}
end

-- resize capacity -> {'1'}; up: waiters wake, down: nobody is robbed.
operation.resize = function(wanted)
  redis.call('HSET', meta, 'capacity', wanted)
  capacity = tonumber(wanted)
  serve()
  return {'1'}
end

-- open capacity -> {'1'}; resize, unless the thing is open: what was set at run time stays.
operation.open = function(wanted)
  if not capacity then
    operation.resize(wanted)
  end
  return {'1'}
end

-- close -> {'1'}; the thing is gone (an arena whose memory went away): nothing is held any more,
-- tokens go on counting, so that what was held before stays recognisably old.
operation.close = function()
  for _, waiter in ipairs(redis.call('HKEYS', reserves)) do
    redis.call('DEL', bell .. waiter)
  end
  redis.call('HDEL', meta, 'capacity')
  redis.call('DEL', held, holders, units, ranks, patience, reserves)
  return {'1'}
end

-- look -> {capacity, used, waiting, unit, token, holder, deadline_ms, ...}
operation.look = function()
  serve()
  local answer = {
    tostring(capacity or 0),
    tostring(redis.call('ZCARD', held)),
    tostring(redis.call('ZCARD', ranks)),
  }
  local entries = redis.call('ZRANGE', held, 0, -1, 'WITHSCORES')
  for index = 1, #entries, 2 do
    local token, holder = string.match(
      redis.call('HGET', holders, entries[index]), '^(%d+) (.*)$')
    for _, value in ipairs({entries[index], token, holder, entries[index + 1]}) do
      answer[#answer + 1] = value
    end
  end
  return answer
end

-- A thing that is not open has no holders, no waiters, and no time to keep.
if capacity or ARGV[1] == 'resize' or ARGV[1] == 'open' then
  advance()
  expire()
end
return operation[ARGV[1]](unpack(ARGV, 2))
