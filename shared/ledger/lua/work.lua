-- Pieces of work, in whose hands they are, and how often they were taken up.

local function alive(worker)
  return redis.call('EXISTS', 'df:worker:' .. worker) == 1
end

-- How often a piece of work was taken up; nil beyond `most`: it is poison. `again`: by a worker that
-- has it in hands already: the answer to it was lost, and to ask once more is no other try.
local function next_try(what, most, again)
  local tries = math.max(1, redis.call('HINCRBY', prefix .. 'tries', what, again and 0 or 1))
  return tries <= tonumber(most) and tostring(tries) or nil
end

local function untry(what, really)
  if really == '1' and redis.call('HINCRBY', prefix .. 'tries', what, -1) < 0 then
    -- They were forgotten since it was taken up: there was progress.
    redis.call('HDEL', prefix .. 'tries', what)
  end
end

local function poison(item)
  return {'spent', redis.call('HGET', prefix .. 'why', item) or ''}
end

-- take item worker most -> {'go', tries} | {'stale'} | {'spent', why}: a worker takes up `split`, `mux` or
-- `segment:N`. A twin finds the job further on, or the item in the hands of a worker that lives.
operation.take = function(item, worker, most)
  local state = get('state')
  local fits = (item == 'split' and (state == 'queued' or state == 'splitting'))
    or (item == 'mux' and state == 'muxing')
    or (string.match(item, '^segment:') and not ended())
    or (string.match(item, '^replace:') and not ended()
      and redis.call('HEXISTS', prefix .. 'replaced', string.sub(item, 9)) == 1)
  local by = redis.call('HGET', prefix .. 'hands', item)
  if not fits or (by and by ~= worker and alive(by)) then
    return {'stale'}
  end
  local tries = next_try(item, most, by == worker)
  if not tries then
    return poison(item)
  end
  redis.call('HSET', prefix .. 'hands', item, worker)
  if item == 'split' then
    redis.call('HSET', job, 'state', 'splitting')
    redis.call('HSETNX', job, 'started_ms', now_ms())
  elseif string.match(item, '^segment:') then
    redis.call('HSETNX', job, 'decoding_ms', now_ms())
  end
  return {'go', tries}
end

-- let_go item worker why untried -> {'1'}: the worker no longer has `split`, `mux`, `segment:N` or
-- batch "s:b"; `why` not empty: since it failed; `untried` '1': what it needs was in use, so taking
-- it up was no try. Once only: a repeated call finds the item in nobody's hands.
operation.let_go = function(item, worker, why, untried)
  if ended() then
    return {'1'}
  end
  if why ~= '' then
    redis.call('HSET', prefix .. 'why', item, why)
  end
  if redis.call('HGET', prefix .. 'hands', item) == worker then
    redis.call('HDEL', prefix .. 'hands', item)
    untry(item, untried)
  end
  local entry = redis.call('HGET', prefix .. 'flight', item)
  local stage, by, rest = string.match(entry or '', '^(%a+) (%S+) (.*)$')
  if by == worker then
    redis.call('HSET', prefix .. 'flight', item, stage .. ' - ' .. rest)
    untry(stage .. ' ' .. item, untried)
  end
  return {'1'}
end

-- put_down item worker [field amount ...] -> {'1'}: the task is over, whatever became of it: what the
-- worker still has of the item is in nobody's hands, also when the job has ended (see `unheld`).
-- Counters as in `add`.
operation.put_down = function(item, worker, ...)
  if redis.call('HGET', prefix .. 'hands', item) == worker then
    redis.call('HDEL', prefix .. 'hands', item)
  end
  local entry = redis.call('HGET', prefix .. 'flight', item)
  local stage, by, rest = string.match(entry or '', '^(%a+) (%S+) (.*)$')
  if by == worker then
    redis.call('HSET', prefix .. 'flight', item, stage .. ' - ' .. rest)
  end
  return operation.add(...)
end

-- unheld job... -> {job...}: those of which no worker that lives has anything in hands. What an ended
-- job had may be taken away then, and the job may be made again: nobody writes for it any more.
operation.unheld = function(...)
  local answer = {}
  for _, each in ipairs({...}) do
    focus(each)
    local held = false
    for _, worker in ipairs(redis.call('HVALS', prefix .. 'hands')) do
      held = held or alive(worker)
    end
    for _, entry in ipairs(redis.call('HVALS', prefix .. 'flight')) do
      local by = string.match(entry, '^%a+ (%S+)')
      held = held or (by ~= '-' and alive(by))
    end
    if not held then
      answer[#answer + 1] = each
    end
  end
  return answer
end
