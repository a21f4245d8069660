-- Last: the call itself.

-- These change no job, or bring the indexes in step themselves.
local LOOKS = {wanted = true, in_turn = true, lost_behind = true, segment_state = true, due = true, unclaimed = true,
  mend = true, changed = true, outlived = true, unlist = true,
  unheld = true, hooks = true, hook_later = true, unhook = true}

local answer = operation[ARGV[1]](unpack(ARGV, 2))
if not LOOKS[ARGV[1]] then
  reindex(false)
end
return answer
