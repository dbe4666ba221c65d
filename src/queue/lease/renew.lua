-- ARGV: host, id, how far it is, lease in ms, for how long a lease may stand still in ms,
--       what the host says of itself, blocks that it claims at once
-- Answer: {'gone', how far the job is} it is done, or another host's
--         {'held', how far the job is, first, end, 1 near the end}
local name, id, at = ARGV[1], ARGV[2], tonumber(ARGV[3])
local lease_ms, standstill = tonumber(ARGV[4]), tonumber(ARGV[5])
-- Nothing is written for a job that is over: its keys would have no end.
local held = redis.call('EXISTS', job) == 1 and lease_of(id)
if not held then return {'gone', state_of(lease_ms)} end
greet(name, ARGV[6])
extend()
if held.host ~= name and held.helper ~= name then return {'gone', state_of(lease_ms)} end
advance(held, name, at)
if held.first >= held.last then
    drop(id)
    return {'gone', state_of(lease_ms)}
end
if held.helper == name then
    held.helped_until = now + lease_ms
elseif now - held.moved < standstill then
    -- A host that is alive and gets nowhere must not hold its blocks for ever.
    put('ZADD', lease, now + lease_ms, id)
end
store(id, held)
local state = state_of(lease_ms)
return {'held', state, held.first, held.last, is_near_end(state[6], tonumber(ARGV[7]))}
