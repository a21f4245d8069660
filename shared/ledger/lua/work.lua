-- Pieces of work, in whose hands they are, and how often they were taken up.

local function alive(worker)
  return redis.call('EXISTS', 'df:worker:' .. worker) == 1
end

-- How often a piece of work was taken up; nil beyond `most`: it is poison.
local function next_try(what, most)
  local tries = redis.call('HINCRBY', prefix .. 'tries', what, 1)
  return tries <= tonumber(most) and tostring(tries) or nil
end

local function untry(what, really)
  if really == '1' then
    redis.call('HINCRBY', prefix .. 'tries', what, -1)
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
    or (string.match(item, '^replace:') and not ended())
  local by = redis.call('HGET', prefix .. 'hands', item)
  if not fits or (by and by ~= worker and alive(by)) then
    return {'stale'}
  end
  local tries = next_try(item, most)
  if not tries then
    return poison(item)
  end
  redis.call('HSET', prefix .. 'hands', item, worker)
  if item == 'split' then
    redis.call('HSET', job, 'state', 'splitting')
    redis.call('HSETNX', job, 'started_ms', now_ms())
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
