-- Of all jobs: what is due, and what changed. The job in KEYS has no id.

-- Admits the job to be split next; its id, or nil. Classes of priority share the splits by weight
-- (start-time fair queueing over ten classes, each of which remembers its clock), so that a queue of
-- any length holds up neither a class above nor one below it; the oldest of a class goes first.
-- A class with `ahead` jobs that were split and have segments waiting has enough of them.
local function admit(ahead)
  local chosen, start, class
  for at = 9, 0, -1 do
    local low = (9 - at) * CLASS
    local head = redis.call('ZRANGEBYSCORE', across .. 'queued', low, low + CLASS - 1,
      'LIMIT', 0, 1)[1]
    local mine = head and math.max(clock('splits'), clock('class:' .. at))
    if head and (not start or mine < start)
      and redis.call('ZCOUNT', across .. 'ahead', at, at) < ahead then
      chosen, start, class = head, mine, at
    end
  end
  if not chosen then
    return nil
  end
  focus(chosen)
  local there = get('state') == 'queued'
  if there then
    redis.call('HSET', across .. 'clock', 'splits', start, 'class:' .. class, start + cost())
    redis.call('HSET', job, 'admitted', 1)
  end
  reindex(not there)
  return there and chosen or admit(ahead)
end

-- A segment of the job in focus, whose id is `each`, as `due` answers it; nil when none may go.
local function taken_of(each, most)
  local taken = operation.take_segment(most)
  reindex(#taken == 0)
  return taken[1] and {'segment', each, taken[1], taken[2], get('batch_frames')} or nil
end

-- The next segment by fair share, of a job with less than `most` of them at decoders.
local function next_segment(most)
  -- Of the jobs in front as many may be passed over as have segments at decoders.
  local busy = redis.call('HLEN', across .. 'busy')
  for _, each in ipairs(redis.call('ZRANGE', across .. 'ready', 0, busy)) do
    if tonumber(redis.call('HGET', across .. 'busy', each) or '0') < tonumber(most) then
      focus(each)
      local segment = taken_of(each, most)
      if segment then
        return segment
      end
    end
  end
  return nil
end

-- A segment that its job's turn waits for while later ones of the job are with decoders: they may
-- hold every slot but the last and wait for it. It goes even if every decoder is taken by them.
local function overtaken()
  for _, each in ipairs(redis.call('HKEYS', across .. 'busy')) do
    focus(each)
    local turn = string.match(get('turn') or '', '^(%d+):')
    if turn and redis.call('ZSCORE', prefix .. 'ready', turn) then
      local segment = taken_of(each, redis.call('HLEN', prefix .. 'running') + 1)
      if segment then
        return segment
      end
    end
  end
  return nil
end

-- due decoders most splits ahead slice -> {kind, job, segment, attempt, batch_frames, ...}: what may
-- be sent now, in fives (empty where a kind has no such thing), at most `slice` of them. `decoders`
-- and `splits` may be out at a time in all, `most` segments of one job; `ahead`: see `admit`. Beyond
-- that a segment goes that others at decoders wait for.
operation.due = function(decoders, most, splits, ahead, slice)
  local answer, left = {}, tonumber(slice)
  local function give(five)
    left = left - 1
    for at = 1, 5 do
      answer[#answer + 1] = five[at] or ''
    end
  end
  local out = redis.call('ZCARD', across .. 'splitting')
  while left > 0 and out < tonumber(splits) and redis.call('ZCARD', across .. 'queued') > 0 do
    local admitted = admit(tonumber(ahead))
    if not admitted then
      break
    end
    give({'split', admitted})
    out = out + 1
  end
  for at, each in ipairs(redis.call('ZPOPMIN', across .. 'mux_due', left)) do
    if at % 2 == 1 then
      give({'mux', each})
    end
  end
  while left > 0 and tonumber(decoders) > 0 do
    local taken = overtaken()
    if not taken then
      break
    end
    give(taken)
  end
  local room = tonumber(decoders)
  for _, running in ipairs(redis.call('HVALS', across .. 'busy')) do
    room = room - running
  end
  while left > 0 and room > 0 do
    local taken = next_segment(most)
    if not taken then
      break
    end
    give(taken)
    room = room - 1
  end
  return answer
end

-- unclaimed -> {kind, job, ...}: splits that were admitted and muxes, due or sent, that are in
-- nobody's hands; a mux that was due is not any more.
operation.unclaimed = function()
  local answer = {}
  for name, kind in pairs({splitting = 'split', muxing = 'mux'}) do
    for _, each in ipairs(redis.call('ZRANGE', across .. name, 0, -1)) do
      if redis.call('HEXISTS', base .. each .. ':hands', kind) == 0 then
        answer[#answer + 1] = kind
        answer[#answer + 1] = each
        redis.call('ZREM', across .. 'mux_due', each)
      end
    end
  end
  return answer
end

-- mend start count -> {looked}: writes the index entries of some live jobs anew, counted by age: of
-- those that an older release wrote, and of those whose record somebody removed.
operation.mend = function(start, count)
  local jobs = redis.call('ZRANGE', live, start, start + count - 1)
  for _, each in ipairs(jobs) do
    focus(each)
    if not get('state') then
      redis.call('ZREM', live, each)
    end
    reindex(true)
  end
  return {tostring(#jobs)}
end

-- changed count -> {job...}: whose progress is to be told, the longest waiting first; forgotten here.
operation.changed = function(count)
  local answer = {}
  for at, each in ipairs(redis.call('ZPOPMIN', across .. 'changed', count)) do
    if at % 2 == 1 then
      answer[#answer + 1] = each
    end
  end
  return answer
end
