-- ARGV: host, blocks wanted, lease in ms, attempts at most, what the host says of itself,
--       id of a lease that is done ('' for none), blocks of the archive
-- Answer: {'none'} no round was ever begun, or the engine has forgotten it
--         {'drained', round, parked ranges} nothing is left to do
--         {'wait'} others are at what is left
--         {'range', id, first, end, attempts before, 1 if it was sent before, 1 near the end} or,
--         from the far end, {'help', …}
-- A lease of so many blocks is worth dividing. A host has about so many under way.
local SPLIT_BLOCKS = 8
local name, want, lease_ms, most = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local blocks = tonumber(ARGV[7])
local round, again = unpack(redis.call('HMGET', job, 'round', 'again'))
round, again = tonumber(round), tonumber(again) or 0
if not round then return {'none'} end
greet(name, ARGV[5])
extend()

local done = ARGV[6] ~= '' and lease_of(ARGV[6])
if done and (done.host == name or done.helper == name) then
    count_left(done.first - done.last)
    drop(ARGV[6])
end

-- Leases of hosts that are silent. A few at a time: a script stops everybody else.
for _, id in ipairs(redis.call('ZRANGEBYSCORE', lease, '-inf', now, 'LIMIT', 0, 64)) do
    local held = lease_of(id)
    if held then give_back(held.first, held.last, held.attempts + 1, most, '') end
    drop(id)
end

-- Whatever may fail because another program has written here is done before a range is taken: what
-- a script has changed by then stays.
local id = string.format('%.0f', redis.call('HINCRBY', job, 'next_id', 1))
local left = tonumber(redis.call('HGET', job, 'left')) or 1
count_free(0)
redis.call('ZCARD', lease)

-- A lease for this host, as the answer.
local function grant(first, last, attempts, is_near)
    put('ZADD', lease, now + lease_ms, id)
    store(id, {first = first, last = last, attempts = attempts, host = name, since = now, moved = now})
    return {'range', id, first, last, attempts, again, is_near}
end

local live = live_hosts(lease_ms)
for _, text in ipairs(redis.call('ZRANGE', free, 0, 63)) do
    local first, last, attempts, avoid = text:match('^(%d+):(%d+):(%d+):(.*)$')
    first, last, attempts = tonumber(first), tonumber(last), tonumber(attempts)
    last = last and math.min(last, blocks)
    if not last or first >= last then
        -- No host of this job has put that here.
        redis.call('ZREM', free, text)
    elseif avoid == name and live <= 1 then
        -- No other host is there that could have these bytes.
        redis.call('ZREM', free, text)
        count_free(first - last)
        park(first, last, attempts, name)
    elseif avoid ~= name then
        redis.call('ZREM', free, text)
        -- Near the end the pieces get smaller, so that all hosts end at about the same time.
        local fair = math.max(1, math.ceil(left / (2 * live)))
        local cut = math.min(last, first + math.min(want, fair))
        if cut < last then
            set_free(cut, last, attempts, avoid)
        end
        count_free(first - cut)
        return grant(first, cut, attempts, is_near_end(live, want))
    end
end

-- Nothing is free: take the far half of the largest lease, so that a slow host holds up no other.
-- Of a small one, all blocks may be under way: help with the one that was taken first, from its far
-- end.
local oldest, chosen, largest, large
for _, id in ipairs(redis.call('ZRANGE', lease, 0, 63)) do
    local held = lease_of(id)
    local is_helped = held.helper and held.helped_until > now
    if held.host ~= name and not is_helped then
        if not oldest or held.since < oldest.since then oldest, chosen = held, id end
        if not largest or held.last - held.first > largest.last - largest.first then
            largest, large = held, id
        end
    end
end
if largest and largest.last - largest.first >= SPLIT_BLOCKS then
    local middle, last = math.ceil((largest.first + largest.last) / 2), largest.last
    largest.last = middle
    store(large, largest)
    return grant(middle, last, largest.attempts, 1)
end
if chosen then
    oldest.helper, oldest.helped_until = name, now + lease_ms
    store(chosen, oldest)
    return {'help', chosen, oldest.first, oldest.last, oldest.attempts, again, 1}
end
if redis.call('ZCARD', lease) > 0 or redis.call('ZCARD', free) > 0 then return {'wait'} end
return {'drained', round, redis.call('HLEN', parked)}
