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
--           replaced  hash  "s:b" -> message to `encode.replace`: batches that could not be made
--           tries     hash  piece of work -> how often it was taken up since the last progress
--           why       hash  item -> "code sentence" of its last failure
--           attempts  hash  index -> attempts                losses   hash  index -> "lost repaired dropped concealed"
--           redo      set   segments to be dispatched again when their decoder is through
--           tracker   string, state of the tracker after the batch before `turn`
--           events    stream  type, data: what happened to the job, for who watches it
--       6 across   what is asked of all jobs at once is kept under across .. name (see `reindex`):
--           queued    zset  jobs not admitted yet, by priority, then age
--           open      zset  jobs admitted and not ended       splitting  zset  admitted, split not done
--           ahead     zset  job -> priority: splitting, or with segments that wait
--           ready     zset  job with segments that wait -> its tag (see `charge`)
--           busy      hash  job -> segments that are with decoders
--           muxing    zset  jobs in that state                mux_due    zset  mux not sent yet
--           changed   zset  jobs whose progress is to be told, by the time of the change, ms
--           kept      zset  ended jobs whose record and objects are there -> time of the end, ms
--           clock     hash  virtual times: segments, splits, class:0 .. class:9
--           hooks     zset  ended jobs whose webhook is to be called -> when, ms
--           hook_tries  hash  job -> how often it was called
--           list:SCOPE:STATE  zset  job -> time of submission, ms; SCOPE is `all` or `of:OWNER`,
--                     STATE a state, `any` or `live`
--       7 base     the key of a job without its id
-- ARGV  1 operation, then its arguments.
--
-- States: queued -> splitting -> running -> muxing -> succeeded | failed | cancelled.
-- A batch is named "s:b" (segment, batch in the segment), both counted from 0.

local live, wake, job, prefix, ended_jobs = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local across, base = KEYS[6], KEYS[7]
local me = string.sub(job, #base + 1)

local RANK = {decode = 0, infer = 1, compose = 2, encode = 3}

local BELL = 'df:bell'

local PARTS = {'segments', 'ready', 'running', 'attempts', 'batches', 'losses', 'redo', 'flight',
  'faces', 'plans', 'parked', 'chunks', 'tracker', 'hands', 'tries', 'why',
  'replaced'}

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

-- Time of Redis's host, ms.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Turns to another job.
local function focus(other)
  me, job, prefix = other, base .. other, base .. other .. ':'
end

local function priority()
  local known = get('priority')
  if not known then
    local spec = get('spec')
    known = spec and cjson.decode(spec).priority or 5
    if spec then
      redis.call('HSET', job, 'priority', known)
    end
  end
  return tonumber(known)
end

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

local EVENTS_KEPT = 500

-- Tells those who watch the job: an entry of its stream, and a bell for whoever waits for any.
local function tell(kind, data)
  redis.call('XADD', prefix .. 'events', 'MAXLEN', '~', EVENTS_KEPT, '*', 'type', kind, 'data', data)
  redis.call('PUBLISH', BELL, me)
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

-- Moves the turn over segments that are exhausted and batches that are replaced; returns the message parked for the new turn.
local function advance()
  local segment, batch = string.match(get('turn'), '^(%d+):(%d+)$')
  local turn, count
  while true do
    turn = segment .. ':' .. batch
    count = redis.call('HGET', prefix .. 'batches', segment)
    if count and tonumber(batch) >= tonumber(count) then
      segment, batch = tostring(tonumber(segment) + 1), '0'
    elseif redis.call('HEXISTS', prefix .. 'replaced', turn) == 1 then
      batch = tostring(tonumber(batch) + 1)
    else
      break
    end
  end
  redis.call('HSET', job, 'turn', turn)
  local message = redis.call('HGET', prefix .. 'parked', turn)
  if message then
    redis.call('HDEL', prefix .. 'parked', turn)
    return {message}
  end
  return {}
end

local operation = {}

-- submit id spec now_ms owner most -> {'new'} | {state} | {'ending'} | {'foreign'}: another owner's
-- | {'full'}: the owner has `most` live jobs (0: as many as they like)
operation.submit = function(id, spec, now, owner, most)
  local state = get('state')
  if state and (get('owner') or '') ~= owner then
    return {'foreign'}
  end
  if state and state ~= 'failed' and state ~= 'cancelled' then
    return {state}
  end
  if redis.call('SISMEMBER', ended_jobs, id) == 1 then
    return {'ending'}  -- its slots and objects are about to be taken away
  end
  if tonumber(most) > 0
    and redis.call('ZCARD', across .. 'list:of:' .. owner .. ':live') >= tonumber(most) then
    return {'full'}
  end
  enlist(nil)
  unhook()
  redis.call('DEL', job)
  redis.call('PERSIST', prefix .. 'events')
  for _, part in ipairs(PARTS) do
    -- What a failed predecessor left, if nobody came to clean up after it.
    redis.call('DEL', prefix .. part)
  end
  redis.call('SREM', ended_jobs, id)
  redis.call('ZREM', across .. 'kept', id)
  redis.call('HSET', job, 'state', 'queued', 'spec', spec, 'submitted_ms', now, 'turn', '0:0',
    'owner', owner)
  redis.call('ZADD', live, now, id)
  ring()
  return {'new'}
end

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
  charge()
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
    or redis.call('HEXISTS', prefix .. 'replaced', name) == 1
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
  if redis.call('HEXISTS', prefix .. 'replaced', name) == 1 then
    return {'stale'}
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

-- enter name stage worker most -> {'go', tries} | {'stale'} | {'spent', why}: a worker takes up the
-- batch's message; a twin finds the batch further on, or in the hands of a worker that lives.
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
  local tries = next_try(stage .. ' ' .. name, most)
  if not tries then
    return poison(name)
  end
  redis.call('HSET', prefix .. 'flight', name,
    stage .. ' ' .. worker .. ' ' .. frames .. ' ' .. message)
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

-- agree field value -> {value of whoever came first} | {} (ended)
operation.agree = function(field, value)
  if ended() then
    return {}
  end
  redis.call('HSETNX', job, field, value)
  return {get(field)}
end

-- mark name item -> {count}: how many items were marked so, this one among them; {} when ended.
operation.mark = function(name, item)
  if ended() then
    return {}
  end
  if redis.call('HSETNX', job, 'mark:' .. name .. ':' .. item, '1') == 1 then
    redis.call('HINCRBY', job, 'marks:' .. name, 1)
  end
  return {get('marks:' .. name)}
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
  redis.call('EXPIRE', prefix .. 'events', ttl)
  redis.call('ZREM', live, id)
  redis.call('SADD', ended_jobs, id)
  redis.call('ZADD', across .. 'kept', now_ms(), id)
  local hook = cjson.decode(get('spec')).webhook
  if hook and hook ~= cjson.null then
    redis.call('HDEL', across .. 'hook_tries', id)
    redis.call('ZADD', across .. 'hooks', now_ms(), id)
  end
  ring()
  return {'1'}
end

-- hooks claim_ms count -> {job, try...}: ended jobs whose webhook is to be called now, the longest
-- waiting first. Each comes again after `claim_ms`, unless it is `hooked` or `unhooked` before.
operation.hooks = function(claim, count)
  local answer = {}
  local now = now_ms()
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', across .. 'hooks', '-inf', now, 'LIMIT', 0,
    count)) do
    redis.call('ZADD', across .. 'hooks', now + claim, each)
    answer[#answer + 1] = each
    answer[#answer + 1] = tostring(redis.call('HINCRBY', across .. 'hook_tries', each, 1))
  end
  return answer
end

-- hook_later delay_ms -> {'1'}: the job's webhook is called again then.
operation.hook_later = function(delay)
  redis.call('ZADD', across .. 'hooks', 'XX', now_ms() + delay, me)
  return {'1'}
end

-- unhook -> {'1'}: the job's webhook was called, or is given up.
operation.unhook = function()
  unhook()
  return {'1'}
end

-- --- of all jobs: what is due, what changed, what goes (the job in KEYS has no id) ---------------

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

-- cleaned ttl_s -> {'1'} | {'0'} (it was submitted again): of an ended job only the record is left,
-- which expires by itself if nobody buries it.
operation.cleaned = function(ttl)
  if get('state') and not ended() then
    return {'0'}
  end
  for _, part in ipairs(PARTS) do
    redis.call('DEL', prefix .. part)
  end
  redis.call('SREM', ended_jobs, me)
  redis.call('EXPIRE', job, ttl)
  redis.call('EXPIRE', prefix .. 'events', ttl)
  return {'1'}
end

-- outlived retention_ms count -> {job...}: ended so long ago and cleaned up after, oldest first. One
-- whose record is gone was dropped with its objects, and is passed over for good.
operation.outlived = function(retention, count)
  local answer = {}
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', across .. 'kept', '-inf', now_ms() - retention,
    'LIMIT', 0, count)) do
    if redis.call('EXISTS', base .. each) == 0 then
      redis.call('ZREM', across .. 'kept', each)
    elseif redis.call('SISMEMBER', ended_jobs, each) == 0 then
      answer[#answer + 1] = each
    end
  end
  return answer
end

-- bury retention_ms -> {'1'} | {'0'} (it was submitted again): drops the record, the last of it.
operation.bury = function(retention)
  local at = redis.call('ZSCORE', across .. 'kept', me)
  if not at or not ended() or tonumber(at) > now_ms() - retention then
    return {'0'}
  end
  drop()
  return {'1'}
end

-- drop -> {'1'}: as `bury`, at once.
operation.drop = function()
  drop()
  return {'1'}
end

-- unlist scope state job... -> {'1'}: takes jobs whose record has expired out of a list.
operation.unlist = function(scope, state, ...)
  for _, each in ipairs({...}) do
    if redis.call('EXISTS', base .. each) == 0 then
      redis.call('ZREM', across .. 'list:' .. scope .. ':' .. state, each)
    end
  end
  return {'1'}
end

-- ring -> {'1'}: wakes the coordinator.
operation.ring = function()
  ring()
  return {'1'}
end

-- These change no job, or bring the indexes in step themselves.
local LOOKS = {wanted = true, in_turn = true, segment_state = true, due = true, unclaimed = true,
  mend = true, changed = true, outlived = true, ring = true, unlist = true,
  hooks = true, hook_later = true, unhook = true}

local answer = operation[ARGV[1]](unpack(ARGV, 2))
if not LOOKS[ARGV[1]] then
  reindex(false)
end
return answer
