-- Batches: from decode to their chunk.

local RANK = {decode = 0, infer = 1, compose = 2, encode = 3}

-- wanted name -> {'1'} | {'0'}: '0' when the batch is on its way or done, so that a decoder that
-- repeats a segment passes over it.
operation.wanted = function(name)
  local known = redis.call('HEXISTS', prefix .. 'chunks', name) == 1
    or redis.call('HEXISTS', prefix .. 'flight', name) == 1
    or redis.call('HEXISTS', prefix .. 'replaced', name) == 1
  return {known and '0' or '1'}
end

-- in_turn segment -> {'1'} | {'0'}: every batch before this segment has been tracked.
operation.in_turn = function(segment)
  return {string.match(get('turn') or '', '^(%d+):') == segment and '1' or '0'}
end

-- A slot of an arena, in words that are equal for the same lease of the same slot.
local function lease_of(message)
  local slot = cjson.decode(message).slot
  return slot.arena .. ' ' .. slot.generation .. ' ' .. slot.pool .. ' ' .. slot.slot .. ' ' .. slot.token
end

-- send name stage worker frames message -> {'go'} | {'done'} | {'stale'} | {'theirs'}; writes down
-- where the batch is bound for before the message leaves, so that whatever dies in between it can be
-- sent again. 'theirs': another worker took it up, since this one seemed dead, or has it further on;
-- its slots are that one's, who has them by the same leases.
operation.send = function(name, stage, worker, frames, message)
  if ended() then
    return {'stale'}
  end
  if redis.call('HEXISTS', prefix .. 'chunks', name) == 1 then
    return {'done'}
  end
  if redis.call('HEXISTS', prefix .. 'replaced', name) == 1 then
    return {'stale'}
  end
  local before = redis.call('HGET', prefix .. 'flight', name)
  local rank = 0
  if before then
    local where, by, known = string.match(before, '^(%a+) (%S+) %d+ (.*)$')
    rank = RANK[where]
    if RANK[stage] < rank or (by ~= '-' and by ~= worker) then
      -- Of two decoders each may have filled a slot of its own.
      local own = stage == 'infer' and lease_of(known) ~= lease_of(message)
      return {own and 'stale' or 'theirs'}
    end
  end
  if RANK[stage] > rank then
    local done = {[1] = 'decode', [2] = 'infer', [3] = 'compose'}
    for at = rank + 1, RANK[stage] do
      redis.call('HINCRBY', job, 'frames_' .. done[at], frames)
    end
  end
  redis.call('HSET', prefix .. 'flight', name, stage .. ' - ' .. frames .. ' ' .. message)
  return {'go'}
end

-- enter name stage worker message most -> {'go', tries} | {'stale'} | {'spent', why}: a worker takes
-- up the batch's message; a twin finds the batch further on, in another slot, or in the hands of a
-- worker that lives.
operation.enter = function(name, stage, worker, message, most)
  local entry = redis.call('HGET', prefix .. 'flight', name)
  if ended() or not entry then
    return {'stale'}
  end
  local where, by, frames, known = string.match(entry, '^(%a+) (%S+) (%d+) (.*)$')
  if where ~= stage or lease_of(known) ~= lease_of(message) then
    return {'stale'}
  end
  if by ~= '-' and by ~= worker and alive(by) then
    return {'stale'}
  end
  local tries = next_try(stage .. ' ' .. name, most, by == worker)
  if not tries then
    return poison(name)
  end
  redis.call('HSET', prefix .. 'flight', name,
    stage .. ' ' .. worker .. ' ' .. frames .. ' ' .. known)
  return {'go', tries}
end

-- put_faces name faces -> {'1'}
operation.put_faces = function(name, faces)
  if not ended() then
    redis.call('HSET', prefix .. 'faces', name, faces)
  end
  return {'1'}
end

-- turn name message worker -> {'planned', plan} | {'go', faces, tracker} | {'parked'} | {'stale'}
operation.turn = function(name, message, worker)
  if ended() then
    return {'stale'}
  end
  local plan = redis.call('HGET', prefix .. 'plans', name)
  if plan then
    return {'planned', plan}
  end
  if get('turn') ~= name then
    redis.call('HSET', prefix .. 'parked', name, message)
    operation.let_go(name, worker, '')
    redis.call('HDEL', prefix .. 'tries', 'compose ' .. name)
    return {'parked'}
  end
  return {'go', redis.call('HGET', prefix .. 'faces', name) or '',
    redis.call('GET', prefix .. 'tracker') or ''}
end

-- planned name plan tracker people -> {message?}; keeps the plan, passes the turn on.
operation.planned = function(name, plan, tracker, people)
  if ended() or get('turn') ~= name then
    return {}
  end
  redis.call('HSET', prefix .. 'plans', name, plan)
  redis.call('SET', prefix .. 'tracker', tracker)
  redis.call('HDEL', prefix .. 'faces', name)
  redis.call('HSET', job, 'people', people)
  local segment, batch = string.match(name, '^(%d+):(%d+)$')
  redis.call('HSET', job, 'turn', segment .. ':' .. (tonumber(batch) + 1))
  return advance()
end

-- chunk_done name chunk frames -> {'new'} | {'known'} | {'stale'}
operation.chunk_done = function(name, chunk, frames)
  if ended() then
    return {'stale'}
  end
  local new = redis.call('HSETNX', prefix .. 'chunks', name, chunk)
  redis.call('HDEL', prefix .. 'flight', name)
  redis.call('HDEL', prefix .. 'plans', name)
  if new == 0 then
    return {'known'}
  end
  -- Progress: what went wrong on the way here was no poison.
  redis.call('HDEL', prefix .. 'tries', 'infer ' .. name, 'compose ' .. name, 'encode ' .. name,
    'segment:' .. string.match(name, '^%d+'))
  redis.call('HINCRBY', job, 'chunks_done', 1)
  redis.call('HINCRBY', job, 'frames_encode', frames)
  check_complete()
  return {'new'}
end

-- Takes a batch back to where it was not decoded.
local function forget(name)
  local segment = string.match(name, '^(%d+):')
  local stage, frames = string.match(redis.call('HGET', prefix .. 'flight', name) or '',
    '^(%a+) %S+ (%d+) ')
  for done, rank in pairs(RANK) do
    -- What `send` counted as done is to be done again.
    if stage and rank < RANK[stage] then
      redis.call('HINCRBY', job, 'frames_' .. done, -tonumber(frames))
    end
  end
  redis.call('HDEL', prefix .. 'flight', name)
  redis.call('HDEL', prefix .. 'parked', name)
  if redis.call('HEXISTS', prefix .. 'running', segment) == 1 then
    redis.call('SADD', prefix .. 'redo', segment)
    return
  end
  local batches = redis.call('HGET', prefix .. 'batches', segment)
  if batches then
    -- The segment counted as decoded: take that back, and have it dispatched once more.
    redis.call('HDEL', prefix .. 'batches', segment)
    redis.call('HINCRBY', job, 'segments_done', -1)
    redis.call('HINCRBY', job, 'batches_total', -tonumber(batches))
    redis.call('ZADD', prefix .. 'ready', segment, segment)
  end
end

-- forget_batch name pool token -> {message...}: its frames, in the slot leased with `token`, are
-- gone; decode makes it anew. Nothing when they live on in another slot, or became a chunk.
-- The batches parked behind it go with it, they hold slots that it may need for as long as it is
-- missing; answered are all that were forgotten, so that their slots can be given back.
operation.forget_batch = function(name, pool, token)
  local entry = redis.call('HGET', prefix .. 'flight', name)
  if ended() or not entry then
    return {}
  end
  local message = string.match(entry, '^%a+ %S+ %d+ (.*)$')
  local slot = cjson.decode(message).slot
  if slot.pool ~= pool or slot.token ~= tonumber(token) then
    return {}
  end
  local forgotten = redis.call('HVALS', prefix .. 'parked')
  forget(name)
  for _, parked in ipairs(redis.call('HKEYS', prefix .. 'parked')) do
    forget(parked)
  end
  ring()
  forgotten[#forgotten + 1] = message
  return forgotten
end

local function place_of(name)
  local segment, batch = string.match(name or '', '^(%d+):(%d+)$')
  return tonumber(segment), tonumber(batch)
end

-- lost_behind name -> {'1'} | {'0'}: the batch whose turn it is was forgotten after the decoder that
-- is at batch `name` had made it, so it is made only when the segment is begun again.
operation.lost_behind = function(name)
  local turn = get('turn')
  local segment, batch = place_of(turn)
  local here, at = place_of(name)
  local lost = not ended() and segment == here and batch < at
    and operation.wanted(turn)[1] == '1'
  return {lost and '1' or '0'}
end

-- forget_parked name arena -> {message?}: decode finds no slot in `arena` for batch `name`. If it is
-- that one's turn and all that is on its way of the job waits for it, the last of those that lie in
-- that arena is forgotten, and answered, so that its slot can be given back. Anything that still
-- moves may free a slot by itself, or comes to wait here.
operation.forget_parked = function(name, arena)
  if ended() or get('turn') ~= name or operation.wanted(name)[1] == '0'
    or redis.call('HLEN', prefix .. 'flight') > redis.call('HLEN', prefix .. 'parked') then
    return {}
  end
  local last, segment, batch, message
  local rows = redis.call('HGETALL', prefix .. 'parked')
  for at = 1, #rows, 2 do
    local here, index = place_of(rows[at])
    if cjson.decode(rows[at + 1]).slot.arena == arena
      and (not last or here > segment or (here == segment and index > batch)) then
      last, segment, batch, message = rows[at], here, index, rows[at + 1]
    end
  end
  if not last then
    return {}
  end
  forget(last)
  ring()
  return {message}
end

-- replace name message -> {message?}: the batch can't be made; its frames will show the last good
-- one. Who is parked for the turn that is due by that goes on.
operation.replace = function(name, message)
  if ended() or redis.call('HEXISTS', prefix .. 'chunks', name) == 1
    or redis.call('HSETNX', prefix .. 'replaced', name, message) == 0 then
    return {}
  end
  for _, part in ipairs({'flight', 'parked', 'faces', 'plans'}) do
    redis.call('HDEL', prefix .. part, name)
  end
  tell('warning', 'replaced ' .. name)
  ring()
  return get('turn') == name and advance() or {}
end
