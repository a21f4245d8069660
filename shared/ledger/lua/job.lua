-- The ledger: the durable state of all jobs. One call = one transition, atomic, and safe to repeat
-- after a lost answer (`Script.call` of shared/redisdb.py says what that may cost).
-- One script in parts, joined in this order: job (what all of it uses), indexes, work, segments,
-- batches, lifecycle, dispatch, call.
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
--           losses    hash  index -> "lost repaired dropped concealed"
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
--           attempt   string  the number of the last attempt at a segment, of all there are: a late
--                     message of an earlier run of a job has none that is current
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

local BELL = 'df:bell'

local PARTS = {'segments', 'ready', 'running', 'batches', 'losses', 'redo', 'flight',
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

local EVENTS_KEPT = 500

-- Tells those who watch the job: an entry of its stream, and a bell for whoever waits for any.
local function tell(kind, data)
  redis.call('XADD', prefix .. 'events', 'MAXLEN', '~', EVENTS_KEPT, '*', 'type', kind, 'data', data)
  redis.call('PUBLISH', BELL, me)
end

-- Operations by name, added by the parts: the arguments after the name in, a list of strings out.
local operation = {}
