-- A job from its submission to the end of its record.

-- submit id spec now_ms owner most secret sent -> {'new'} | {state} | {'ending'} | {'foreign'}: another
-- owner's | {'full'}: the owner has `most` live jobs (0: as many as they like). `secret` signs the
-- job's webhook; '': the one that signed it in its former run. `sent` tells its source's bytes from
-- others; '': as in its former run.
operation.submit = function(id, spec, now, owner, most, secret, sent)
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
  secret = secret ~= '' and secret or get('webhook_secret')
  sent = sent ~= '' and sent or get('sent')
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
  if secret then
    redis.call('HSET', job, 'webhook_secret', secret)
  end
  if sent then
    redis.call('HSET', job, 'sent', sent)
  end
  redis.call('ZADD', live, now, id)
  ring()
  return {'new'}
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

-- hooks claim_ms count most look [owner calls ...] -> {job, try, owner, end...}: at most `count` ended
-- jobs whose webhook is to be called now, the longest waiting first, less those by which an owner,
-- with the calls under way, would have more than `most`. Each comes again after `claim_ms`, unless
-- `hook_later` or `unhook` comes before. Where `look` or more wait, those looked at in vain go
-- behind the others: however many are one owner's, everybody's turn comes.
operation.hooks = function(claim, count, most, look, ...)
  local calls, given = {}, {...}
  for at = 1, #given, 2 do
    calls[given[at]] = tonumber(given[at + 1])
  end
  count, most, look = tonumber(count), tonumber(most), tonumber(look)
  local hooks, now = across .. 'hooks', now_ms()
  local due = redis.call('ZRANGEBYSCORE', hooks, '-inf', now, 'LIMIT', 0, look)
  local answer, passed = {}, {}
  for _, each in ipairs(due) do
    if #answer == 4 * count then
      return answer
    end
    local owner = redis.call('HGET', base .. each, 'owner') or ''
    if (calls[owner] or 0) < most then
      calls[owner] = (calls[owner] or 0) + 1
      redis.call('ZADD', hooks, now + claim, each)
      answer[#answer + 1] = each
      answer[#answer + 1] = tostring(redis.call('HINCRBY', across .. 'hook_tries', each, 1))
      answer[#answer + 1] = owner
      answer[#answer + 1] = redis.call('HGET', base .. each, 'ended_ms') or ''
    else
      passed[#passed + 1] = each
    end
  end
  if #due == look then
    for _, each in ipairs(passed) do
      redis.call('ZADD', hooks, now, each)
    end
  end
  return answer
end

-- A job that was made again meanwhile may have ended once more, and that is to be told, too.
local function ended_at(moment)
  return (get('ended_ms') or '') == moment
end

-- hook_later end delay_ms -> {'1'}: the webhook of that end of the job (see `hooks`) is called again
-- then.
operation.hook_later = function(moment, delay)
  if ended_at(moment) then
    redis.call('ZADD', across .. 'hooks', 'XX', now_ms() + delay, me)
  end
  return {'1'}
end

-- unhook end -> {'1'}: the webhook of that end of the job was called, or is given up.
operation.unhook = function(moment)
  if ended_at(moment) then
    unhook()
  end
  return {'1'}
end

-- cleaned ttl_s -> {'1'} | {'0'} (it was submitted again) | {'known'} (it was cleaned up after before):
-- of an ended job only the record is left, which expires by itself if nobody buries it.
operation.cleaned = function(ttl)
  if get('state') and not ended() then
    return {'0'}
  end
  local known = get('state') and redis.call('HSETNX', job, 'cleaned', 1) == 0
  for _, part in ipairs(PARTS) do
    redis.call('DEL', prefix .. part)
  end
  redis.call('SREM', ended_jobs, me)
  redis.call('EXPIRE', job, ttl)
  redis.call('EXPIRE', prefix .. 'events', ttl)
  return {known and 'known' or '1'}
end

-- outlived retention_ms look -> {job} | {}: one of the oldest `look` that ended so long ago and were
-- cleaned up after. It is one of the ended from here on, so that nobody submits it again while its
-- objects go; `bury` takes it out, or `cleaned` if whoever asked comes to nothing. One whose record
-- is gone was dropped with its objects, and is passed over for good.
operation.outlived = function(retention, look)
  for _, each in ipairs(redis.call('ZRANGEBYSCORE', across .. 'kept', '-inf', now_ms() - retention,
    'LIMIT', 0, look)) do
    if redis.call('EXISTS', base .. each) == 0 then
      redis.call('ZREM', across .. 'kept', each)
    elseif redis.call('SADD', ended_jobs, each) == 1 then
      return {each}
    end
  end
  return {}
end

-- bury retention_ms -> {'1'} | {'0'} (somebody submitted or dropped it): drops the record, the last of
-- it.
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
