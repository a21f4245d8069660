-- The ledger: the durable state of all jobs. One call = one transition, atomic and idempotent.
--
-- KEYS  5 ended    set    jobs that ended and are not cleaned up after yet
--       1 live     zset   job -> time of submission, ms (jobs that have not ended)
--       2 wake     list   the coordinator blocks on it
--       3 job      hash   state, spec, facts and counters of the job
--       4 prefix   everything else of the job is kept under prefix .. name:
--           segments  hash  index -> segment (JSON)       ready    zset  index -> index
--           running   hash  index -> attempt               batches  hash  index -> batches in it
--           flight    hash  "s:b" -> stage, worker, frames, message (see `enter`)
--           faces     hash  "s:b" -> faces (JSON)          plans    hash  "s:b" -> plan (JSON)
--           parked    hash  "s:b" -> message               chunks   hash  "s:b" -> chunk (JSON)
--           hands     hash  split | mux | segment:N -> worker
--           tries     hash  piece of work -> how often it was taken up since the last progress
--           why       hash  item -> "code sentence" of its last failure
--           attempts  hash  index -> attempts                losses   hash  index -> "lost repaired dropped concealed"
--           redo      set   segments to be dispatched again when their decoder is through
--           tracker   string, state of the tracker after the batch before `turn`
-- ARGV  1 operation, then its arguments.
--
-- States: queued -> splitting -> running -> muxing -> succeeded | failed | cancelled.
-- A batch is named "s:b" (segment, batch in the segment), both counted from 0.

local live, wake, job, prefix, ended_jobs = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

local RANK = {decode = 0, infer = 1, compose = 2, encode = 3}

local PARTS = {'segments', 'ready', 'running', 'attempts', 'batches', 'losses', 'redo', 'flight',
  'faces', 'plans', 'parked', 'chunks', 'tracker', 'hands', 'tries', 'why'}

local function get(field)
  return redis.call('HGET', job, field)
end

local function number(field)
  return tonumber(get(field) or '0')
end

local function ring()
  redis.call('LPUSH', wake, '1')
  redis.call('LTRIM', wake, 0, 0)
end

local function ended()
  local state = get('state')
  return (not state) or state == 'succeeded' or state == 'failed' or state == 'cancelled'
end

-- running -> muxing once every batch of every segment has its chunk.
local function check_complete()
  local segments = get('segments_total')
  if get('state') ~= 'running' or not segments then
    return
  end
  if number('segments_done') == tonumber(segments)
    and number('chunks_done') == number('batches_total') then
    redis.call('HSET', job, 'state', 'muxing')
    ring()
  end
end

-- Moves the turn over segments that are exhausted; returns the message parked for the new turn.
local function advance()
  local segment, batch = string.match(get('turn'), '^(%d+):(%d+)$')
  local count = redis.call('HGET', prefix .. 'batches', segment)
  while count and tonumber(batch) >= tonumber(count) do
    segment, batch = tostring(tonumber(segment) + 1), '0'
    count = redis.call('HGET', prefix .. 'batches', segment)
  end
  local turn = segment .. ':' .. batch
  redis.call('HSET', job, 'turn', turn)
  local message = redis.call('HGET', prefix .. 'parked', turn)
  if message then
    redis.call('HDEL', prefix .. 'parked', turn)
    return {message}
  end
  return {}
end

local operation = {}

-- submit id spec now_ms -> {'new'} | {state}
operation.submit = function(id, spec, now)
  local state = get('state')
  if state and state ~= 'failed' and state ~= 'cancelled' then
    return {state}
  end
  redis.call('DEL', job)
  for _, part in ipairs(PARTS) do
    -- What a failed predecessor left, if nobody came to clean up after it.
    redis.call('DEL', prefix .. part)
  end
  redis.call('SREM', ended_jobs, id)
  redis.call('HSET', job, 'state', 'queued', 'spec', spec, 'submitted_ms', now, 'turn', '0:0')
  redis.call('ZADD', live, now, id)
  ring()
  return {'new'}
end

local function alive(worker)
  return redis.call('EXISTS', 'df:worker:' .. worker) == 1
end

-- How often a piece of work was taken up; beyond `most` it is poison.
local function spent(what, most)
  return redis.call('HINCRBY', prefix .. 'tries', what, 1) > tonumber(most)
end

local function poison(item)
  return {'spent', redis.call('HGET', prefix .. 'why', item) or ''}
end

-- take item worker most -> {'go'} | {'stale'} | {'spent', why}: a worker takes up `split`, `mux` or
-- `segment:N`. A twin finds the job further on, or the item in the hands of a worker that lives.
operation.take = function(item, worker, most)
  local state = get('state')
  local fits = (item == 'split' and (state == 'queued' or state == 'splitting'))
    or (item == 'mux' and state == 'muxing')
    or (string.match(item, '^segment:') and not ended())
  local by = redis.call('HGET', prefix .. 'hands', item)
  if not fits or (by and by ~= worker and alive(by)) then
    return {'stale'}
  end
  if spent(item, most) then
    return poison(item)
  end
  redis.call('HSET', prefix .. 'hands', item, worker)
  if item == 'split' then
    redis.call('HSET', job, 'state', 'splitting')
  end
  return {'go'}
end

-- let_go item worker why -> {'1'}: the worker no longer has `split`, `mux`, `segment:N` or batch
-- "s:b"; `why` not empty: since it failed.
operation.let_go = function(item, worker, why)
  if ended() then
    return {'1'}
  end
  if why ~= '' then
    redis.call('HSET', prefix .. 'why', item, why)
  end
  if redis.call('HGET', prefix .. 'hands', item) == worker then
    redis.call('HDEL', prefix .. 'hands', item)
  end
  local entry = redis.call('HGET', prefix .. 'flight', item)
  local stage, by, rest = string.match(entry or '', '^(%a+) (%S+) (.*)$')
  if by == worker then
    redis.call('HSET', prefix .. 'flight', item, stage .. ' - ' .. rest)
  end
  return {'1'}
end

-- facts source output batch_frames expected -> {'go'} | {'stale'}
operation.facts = function(source, output, batch_frames, expected)
  if ended() then
    return {'stale'}
  end
  redis.call('HSET', job, 'source', source, 'output', output)
  redis.call('HSETNX', job, 'batch_frames', batch_frames)
  redis.call('HSET', job, 'frames_expected', expected)
  return {'go'}
end

-- add_segment index segment -> {'new'} | {'known'} | {'stale'}
operation.add_segment = function(index, segment)
  if ended() then
    return {'stale'}
  end
  if redis.call('HSETNX', prefix .. 'segments', index, segment) == 0 then
    return {'known'}
  end
  redis.call('ZADD', prefix .. 'ready', index, index)
  ring()
  return {'new'}
end

-- split_done segments frames -> {'go'} | {'stale'}
operation.split_done = function(segments, frames)
  if get('state') ~= 'splitting' then
    return {'stale'}
  end
  redis.call('HSET', job, 'segments_total', segments, 'frames_expected', frames, 'state', 'running')
  check_complete()
  ring()
  return {'go'}
end

-- take_segment most -> {segment, attempt} | {}; the lowest one, unless `most` are running already.
operation.take_segment = function(most)
  if ended() or redis.call('HLEN', prefix .. 'running') >= tonumber(most) then
    return {}
  end
  local index = redis.call('ZPOPMIN', prefix .. 'ready')[1]
  if not index then
    return {}
  end
  local attempt = redis.call('HINCRBY', prefix .. 'attempts', index, 1)
  redis.call('HSET', prefix .. 'running', index, attempt)
  return {redis.call('HGET', prefix .. 'segments', index), tostring(attempt)}
end

-- return_segment index attempt refund -> {'1'}; to be dispatched again: its decoder died (refund 0)
-- or gave it back for want of slots (refund 1: that was no failed try).
operation.return_segment = function(index, attempt, refund)
  if redis.call('HGET', prefix .. 'running', index) == attempt then
    redis.call('HDEL', prefix .. 'running', index)
    redis.call('HDEL', prefix .. 'hands', 'segment:' .. index)
    redis.call('HINCRBY', prefix .. 'tries', 'segment:' .. index, -tonumber(refund))
    redis.call('ZADD', prefix .. 'ready', index, index)
    ring()
  end
  return {'1'}
end

-- segment_state index attempt -> {'go'} | {'stale'}
operation.segment_state = function(index, attempt)
  if ended() or redis.call('HGET', prefix .. 'running', index) ~= attempt then
    return {'stale'}
  end
  return {'go'}
end

-- segment_done index attempt batches lost repaired dropped concealed -> {message?}; a message parked for the turn.
operation.segment_done = function(index, attempt, batches, ...)
  if ended() or redis.call('HGET', prefix .. 'running', index) ~= attempt then
    return {}
  end
  redis.call('HDEL', prefix .. 'running', index)
  redis.call('HDEL', prefix .. 'hands', 'segment:' .. index)
  if redis.call('SREM', prefix .. 'redo', index) == 1 then
    -- A batch of it was forgotten while it was being decoded: once more, for that batch.
    redis.call('ZADD', prefix .. 'ready', index, index)
    ring()
    return {}
  end
  if redis.call('HSETNX', prefix .. 'batches', index, batches) == 1 then
    redis.call('HINCRBY', job, 'segments_done', 1)
    redis.call('HINCRBY', job, 'batches_total', batches)
    redis.call('HSET', prefix .. 'losses', index, table.concat({...}, ' '))
  end
  local parked = advance()
  check_complete()
  ring()
  return parked
end

-- wanted name -> {'1'} | {'0'}: '0' when the batch is on its way or done, so that a decoder that
-- repeats a segment passes over it.
operation.wanted = function(name)
  local known = redis.call('HEXISTS', prefix .. 'chunks', name) == 1
    or redis.call('HEXISTS', prefix .. 'flight', name) == 1
  return {known and '0' or '1'}
end

-- in_turn segment -> {'1'} | {'0'}: every batch before this segment has been tracked.
operation.in_turn = function(segment)
  return {string.match(get('turn') or '', '^(%d+):') == segment and '1' or '0'}
end

-- send name stage frames message -> {'go'} | {'done'} | {'stale'}; writes down where the batch is
-- bound for before the message leaves, so that whatever dies in between it can be sent again.
operation.send = function(name, stage, frames, message)
  if ended() then
    return {'stale'}
  end
  if redis.call('HEXISTS', prefix .. 'chunks', name) == 1 then
    return {'done'}
  end
  local before = redis.call('HGET', prefix .. 'flight', name)
  local rank = before and RANK[string.match(before, '^(%a+) ')] or 0
  if RANK[stage] < rank then
    return {'stale'}
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

-- enter name stage worker most -> {'go'} | {'stale'} | {'spent', why}: a worker takes up the batch's message; a twin of
-- the message finds the batch further on, or in the hands of a worker that lives.
operation.enter = function(name, stage, worker, most)
  local entry = redis.call('HGET', prefix .. 'flight', name)
  if ended() or not entry then
    return {'stale'}
  end
  local where, by, frames, message = string.match(entry, '^(%a+) (%S+) (%d+) (.*)$')
  if where ~= stage then
    return {'stale'}
  end
  if by ~= '-' and by ~= worker and alive(by) then
    return {'stale'}
  end
  if spent(stage .. ' ' .. name, most) then
    return poison(name)
  end
  redis.call('HSET', prefix .. 'flight', name,
    stage .. ' ' .. worker .. ' ' .. frames .. ' ' .. message)
  return {'go'}
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

-- engine stage name -> {'1'}; which engine serves a stage for this job.
operation.engine = function(stage, name)
  if not ended() then
    redis.call('HSET', job, 'engine_' .. stage, name)
  end
  return {'1'}
end

-- add field amount [field amount ...] -> {'1'}; counters of the report.
operation.add = function(...)
  local pairs_ = {...}
  if redis.call('EXISTS', job) == 1 then
    for at = 1, #pairs_, 2 do
      redis.call('HINCRBYFLOAT', job, pairs_[at], pairs_[at + 1])
    end
  end
  return {'1'}
end

-- finish id state code message result ttl_s now_ms -> {'1'} | {'0'} (it had ended before)
operation.finish = function(id, state, code, message, result, ttl, now)
  if ended() then
    return {'0'}
  end
  redis.call('HSET', job, 'state', state, 'code', code, 'message', message, 'result', result,
    'ended_ms', now)
  redis.call('EXPIRE', job, ttl)
  redis.call('ZREM', live, id)
  redis.call('SADD', ended_jobs, id)
  ring()
  return {'1'}
end

return operation[ARGV[1]](unpack(ARGV, 2))
