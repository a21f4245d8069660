-- Leases on the units of one limited thing (slots of a pool, sessions of an engine).
--
-- One call = one operation, atomic. Time is Redis's own. A unit is held until released or until its
-- deadline; a grant is handed straight to the first eligible waiter (its mailbox wakes only it), so
-- there is no herd and no lost wake-up: whoever frees a unit also decides who gets it.
--
-- KEYS  1 meta     hash   capacity, token (last fencing token), ticket (last place in the queue)
--       2 held     zset   unit -> deadline, ms
--       3 holders  hash   unit -> "token holder"
--       4 units    hash   holder -> unit                  (the reverse of 3)
--       5 queue    zset   waiter -> rank (priority class, then ticket)
--       6 waiters  hash   waiter -> "deadline_ms ttl_ms reserve"
--       7 mailbox prefix; the mailbox of a waiter is a list, key = prefix .. waiter
-- ARGV  1 operation, then its arguments.

local meta, held, holders, units = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local queue, waiters, mailbox = KEYS[5], KEYS[6], KEYS[7]

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Tickets stay below 10^13, so ranks order first by class, then by arrival (exact in a double).
local CLASS = 10000000000000

local function forget(unit)
  local entry = redis.call('HGET', holders, unit)
  redis.call('ZREM', held, unit)
  redis.call('HDEL', holders, unit)
  if entry then
    redis.call('HDEL', units, string.match(entry, '^%d+ (.*)$'))
  end
end

local function drop_waiter(waiter)
  redis.call('ZREM', queue, waiter)
  redis.call('HDEL', waiters, waiter)
end

local function expire()
  for _, unit in ipairs(redis.call('ZRANGEBYSCORE', held, '-inf', now)) do
    forget(unit)
  end
  for waiter, entry in string.gmatch(
    table.concat(redis.call('HGETALL', waiters), '\n'), '([^\n]+)\n([^\n]+)') do
    if tonumber(string.match(entry, '^%d+')) <= now then
      drop_waiter(waiter)
    end
  end
end

local function grant(holder, ttl)
  local unit = 0
  while redis.call('HEXISTS', holders, unit) == 1 do
    unit = unit + 1
  end
  local token = redis.call('HINCRBY', meta, 'token', 1)
  redis.call('ZADD', held, now + ttl, unit)
  redis.call('HSET', holders, unit, token .. ' ' .. holder)
  redis.call('HSET', units, holder, unit)
  return unit, token
end

-- A waiter with reserve r leaves the last r units to waiters that ask for less, and does not stand
-- in their way in the queue.
local function serve()
  local capacity = tonumber(redis.call('HGET', meta, 'capacity') or '0')
  local used = redis.call('ZCARD', held)
  if used >= capacity then
    return
  end
  for _, waiter in ipairs(redis.call('ZRANGE', queue, 0, -1)) do
    local _, ttl, reserve = string.match(
      redis.call('HGET', waiters, waiter), '^(%d+) (%d+) (%d+)$')
    if used < capacity - tonumber(reserve) then
      drop_waiter(waiter)
      local unit, token = grant(waiter, tonumber(ttl))
      redis.call('RPUSH', mailbox .. waiter, unit .. ' ' .. token)
      redis.call('PEXPIRE', mailbox .. waiter, tonumber(ttl))
      used = used + 1
      if used >= capacity then
        return
      end
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

local operation = {}

-- acquire holder ttl_ms wait_ms class reserve -> {unit, token} | {} (queued) | {'closed'}
-- wait_ms 0: take it or leave it. Asking again keeps the place in the queue and renews it.
operation.acquire = function(holder, ttl, wait, class, reserve)
  if redis.call('HEXISTS', meta, 'capacity') == 0 then
    return {'closed'}
  end
  expire()
  local unit, token = current(holder)
  if unit then
    redis.call('ZADD', held, now + tonumber(ttl), unit)
    redis.call('DEL', mailbox .. holder)
    return {unit, token}
  end
  if redis.call('HEXISTS', waiters, holder) == 0 then
    local ticket = redis.call('HINCRBY', meta, 'ticket', 1)
    redis.call('ZADD', queue, tonumber(class) * CLASS + ticket, holder)
  end
  -- A waiter that is not heard of for its wait plus two seconds is gone.
  redis.call('HSET', waiters, holder,
    string.format('%d %d %d', now + tonumber(wait) + 2000, ttl, reserve))
  serve()
  unit, token = current(holder)
  if unit then
    redis.call('DEL', mailbox .. holder)
    return {unit, token}
  end
  if tonumber(wait) == 0 then
    drop_waiter(holder)
  end
  return {}
end

-- renew holder token ttl_ms -> {'1'} | {'0'} (no longer the holder's)
operation.renew = function(holder, token, ttl)
  expire()
  local unit, mine = current(holder)
  if not unit or mine ~= token then
    serve()
    return {'0'}
  end
  redis.call('ZADD', held, now + tonumber(ttl), unit)
  return {'1'}
end

-- release holder token -> {'1'} | {'0'}
operation.release = function(holder, token)
  expire()
  local unit, mine = current(holder)
  local ok = unit and mine == token
  if ok then
    forget(unit)
  end
  serve()
  return {ok and '1' or '0'}
end

-- cancel holder -> {'1'}; leaves the queue and gives back what was granted meanwhile.
operation.cancel = function(holder)
  drop_waiter(holder)
  redis.call('DEL', mailbox .. holder)
  local unit = redis.call('HGET', units, holder)
  if unit then
    forget(unit)
  end
  expire()
  serve()
  return {'1'}
end

-- resize capacity -> {'1'}; up: waiters wake, down: nobody is robbed.
operation.resize = function(capacity)
  redis.call('HSET', meta, 'capacity', capacity)
  expire()
  serve()
  return {'1'}
end

-- close -> {'1'}; the thing is gone (an arena whose memory went away): nothing is held any more,
-- tokens go on counting, so that what was held before stays recognisably old.
operation.close = function()
  redis.call('HDEL', meta, 'capacity')
  redis.call('DEL', held, holders, units, queue, waiters)
  return {'1'}
end

-- look -> {capacity, used, waiting, unit, token, holder, deadline_ms, ...}
operation.look = function()
  expire()
  serve()
  local answer = {
    redis.call('HGET', meta, 'capacity') or '0',
    tostring(redis.call('ZCARD', held)),
    tostring(redis.call('ZCARD', queue)),
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

return operation[ARGV[1]](unpack(ARGV, 2))
