-- ARGV: host, id ('' for none), how far it is
-- The host stops: what is left of its lease is free again.
local name, id, at = ARGV[1], ARGV[2], tonumber(ARGV[3])
redis.call('ZREM', host, name)
redis.call('HDEL', about, name)
local held = id ~= '' and lease_of(id)
if not held then return 0 end
advance(held, name, at)
if held.host == name then
    drop(id)
    give_back(held.first, held.last, held.attempts, math.huge, '')
elseif held.helper == name then
    held.helper, held.helped_until = nil, nil
    store(id, held)
end
return 1
