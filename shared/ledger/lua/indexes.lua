-- Indexes over all jobs: whose turn it is by fair share, lists by owner and state.

-- What one segment, or one split, costs; priority p weighs p + 1. 2520 can be divided by 1 .. 10, so
-- virtual times are whole numbers, and exact for 10^12 segments.
local function cost()
  return 2520 / (priority() + 1)
end

local function clock(name)
  return tonumber(redis.call('HGET', across .. 'clock', name) or '0')
end

-- Self-clocked fair queueing (Golestani, 1994) over jobs: the lowest tag goes next; a tag is where
-- the job's last one stood, or the clock if that is further on, plus the cost; the clock is the tag
-- of who was served last. So a newcomer waits for one round at most and does not make up for the
-- time it was not there; and an endless row of newcomers moves the clock on, past the tag of
-- whoever waits. At the same tag a newcomer is first, by one tick of 2520.
local function charge()
  local tag = redis.call('ZSCORE', across .. 'ready', me)
  local served = math.max(clock('segments'), tonumber(tag or '0'))
  redis.call('HSET', across .. 'clock', 'segments', served)
  redis.call('HSET', job, 'clock', served)
  if tag then
    redis.call('ZADD', across .. 'ready', 'XX', served + cost(), me)
  end
end

local function first_tag()
  local before = get('clock')
  return math.max(clock('segments'), tonumber(before or '0')) + cost() - (before and 0 or 1)
end

local CLASS = 10000000000000  -- a time in ms is less; ten classes stay exact in a double

-- Has `me` in index `name` with this score, or not in it (nil). True when it is new there.
local function place(name, score)
  if score then
    return redis.call('ZADD', across .. name, 'NX', score, me) == 1
  end
  redis.call('ZREM', across .. name, me)
  return false
end

local function each_list(state, call)
  local owner = get('owner')
  for _, scope in ipairs(owner and owner ~= '' and {'all', 'of:' .. owner} or {'all'}) do
    call(across .. 'list:' .. scope .. ':' .. state)
  end
end

local function is_live(state)
  return state ~= 'succeeded' and state ~= 'failed' and state ~= 'cancelled'
end

-- Has the job in the lists of its `state` and of no other; nil: in none.
local function enlist(state)
  local before = get('listed')
  if before == state then
    return
  end
  if before then
    each_list(before, function(key) redis.call('ZREM', key, me) end)
  end
  if not state then
    each_list('any', function(key) redis.call('ZREM', key, me) end)
    each_list('live', function(key) redis.call('ZREM', key, me) end)
    return
  end
  local since = get('submitted_ms')
  local function add(key) redis.call('ZADD', key, since, me) end
  each_list(state, add)
  each_list('any', add)
  each_list('live', is_live(state) and add or function(key) redis.call('ZREM', key, me) end)
  redis.call('HSET', job, 'listed', state)
end

local function unhook()
  redis.call('ZREM', across .. 'hooks', me)
  redis.call('HDEL', across .. 'hook_tries', me)
end

-- Drops the record of a job, the last of it.
local function drop()
  enlist(nil)
  unhook()
  for _, part in ipairs(PARTS) do
    redis.call('DEL', prefix .. part)
  end
  redis.call('DEL', job, prefix .. 'events')
  redis.call('ZREM', across .. 'kept', me)
  redis.call('SREM', ended_jobs, me)
end

-- Brings the indexes in step with the job. Called after every operation that may change anything
-- rather than where something changes: no operation can forget it. Writes only what differs from
-- the last time, unless `thoroughly`.
local function reindex(thoroughly)
  local row = redis.call('HMGET', job, 'state', 'admitted', 'submitted_ms', 'frames_encode',
    'frames_expected', 'placed', 'shown')
  local state, admitted, since = row[1], row[2], row[3]
  local going = not ended()
  local waiting = going and redis.call('ZCARD', prefix .. 'ready') > 0
  local running = going and redis.call('HLEN', prefix .. 'running') or 0
  local shown = table.concat({state or '', row[4] or '0', row[5] or '0'}, ' ')
  if state and shown ~= row[7] then
    redis.call('HSET', job, 'shown', shown)
    tell(string.match(row[7] or '', '^%a*') == state and 'progress' or 'state', shown)
    enlist(state)
    if going then
      redis.call('ZADD', across .. 'changed', 'NX', now_ms(), me)
    end
  end
  local placed = table.concat({state or '', admitted or '0', tostring(waiting), running}, ' ')
  if going and placed == row[6] and not thoroughly then
    return
  end
  local queued = state == 'queued' and not admitted
  local splitting = state == 'splitting' or (state == 'queued' and admitted)
  place('queued', queued and (9 - priority()) * CLASS + since)
  place('open', going and not queued and since)
  place('splitting', splitting and since)
  place('ahead', (splitting or waiting) and priority())
  if not (waiting and redis.call('ZSCORE', across .. 'ready', me)) then
    place('ready', waiting and first_tag())
  end
  if place('muxing', state == 'muxing' and since) then
    place('mux_due', since)
  elseif state ~= 'muxing' then
    place('mux_due', nil)
  end
  if running > 0 then
    redis.call('HSET', across .. 'busy', me, running)
  else
    redis.call('HDEL', across .. 'busy', me)
  end
  if going then
    redis.call('HSET', job, 'placed', placed)
  else
    place('changed', nil)
  end
end
