-- Segments: from the split to the last batch of each.

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

-- facts source output batch_frames slot_bytes expected -> {'go'} | {'stale'}; how the job is cut into
-- batches, and so what slots it takes, is decided once.
operation.facts = function(source, output, batch_frames, slot_bytes, expected)
  if ended() then
    return {'stale'}
  end
  redis.call('HSET', job, 'source', source, 'output', output)
  if redis.call('HSETNX', job, 'batch_frames', batch_frames) == 1 then
    redis.call('HSET', job, 'slot_bytes', slot_bytes)
  end
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
  local attempt = redis.call('INCR', across .. 'attempt')
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
    untry('segment:' .. index, refund)
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
