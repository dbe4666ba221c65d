-- What every script of a job begins with. KEYS, all of one hash slot:
--   job    hash: round, blocks (of the round), left (of them), free (of these), again (they were sent before), next_id,
--          free_at (when the bytes are through that all hosts were granted, in ms)
--   free   sorted set by first block: "first:end:attempts:avoid", ranges that no host has; `avoid` is
--          a host that could not send it
--   lease  sorted set by the time at which they end, in ms: the ids of leases
--   owner  hash by id: the lease as JSON. What fences is the id: a lease that was taken over has
--          another one. A host's name is that of one process, and never used again
--   host   sorted set by the time at which they were last heard of, in ms: the names of senders
--   about  hash by name: what a sender says of itself, as JSON
--   parked hash by range: how often it was tried, and by whom last
local job, free, lease, owner, host, about, parked = unpack(KEYS)
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
-- A job that no host touches any more expires, in seconds.
local TTL_S = 7 * 24 * 3600

-- How many blocks are free.
local function count_free(by) redis.call('HINCRBY', job, 'free', by) end

local function count_left(by) redis.call('HINCRBY', job, 'left', by) end

local function extend()
    for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, TTL_S) end
end

-- A key that was emptied is gone, and so is its end: whatever puts something into one gives it an end.
local function put(command, key, ...)
    redis.call(command, key, ...)
    redis.call('EXPIRE', key, TTL_S)
end

-- nil also where another program has written something else there.
local function lease_of(id)
    local text = redis.call('HGET', owner, id)
    local is_json, held = pcall(cjson.decode, text or '')
    return is_json and type(held) == 'table' and held.first and held.last and held.host and held or nil
end

local function store(id, held) put('HSET', owner, id, cjson.encode(held)) end

-- A range that any host may have but `avoid`.
local function set_free(first, last, attempts, avoid)
    put('ZADD', free, first, string.format('%d:%d:%d:%s', first, last, attempts, avoid))
end

local function drop(id)
    redis.call('ZREM', lease, id)
    redis.call('HDEL', owner, id)
end

local function park(first, last, attempts, name)
    put('HSET', parked, string.format('%d:%d', first, last), attempts .. ':' .. name)
    count_left(first - last)
end

-- Gives a range back, or parks it when it was tried too often.
local function give_back(first, last, attempts, most, avoid)
    if first >= last then return end
    if attempts >= most then
        park(first, last, attempts, avoid)
    else
        set_free(first, last, attempts, avoid)
        count_free(last - first)
    end
end

-- Whether what is free is gone with the next claims: hosts should say often how far they are then.
local function is_near_end(live, want)
    return tonumber(redis.call('HGET', job, 'free') or '0') <= live * want and 1 or 0
end

-- What the owner has confirmed from the front, or its helper from the far end.
local function advance(held, name, at)
    if held.host == name and at > held.first then
        at = math.min(at, held.last)
        count_left(held.first - at)
        held.first, held.moved = at, now
    elseif held.helper == name and at < held.last then
        at = math.max(at, held.first)
        count_left(at - held.last)
        held.last = at
    end
end

local function greet(name, text)
    put('ZADD', host, now, name)
    put('HSET', about, name, text)
end

-- How many hosts have been heard of within two leases.
local function live_hosts(lease_ms)
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', host, '-inf', now - 2 * lease_ms, 'LIMIT', 0, 64)) do
        redis.call('ZREM', host, name)
        redis.call('HDEL', about, name)
    end
    return redis.call('ZCARD', host)
end

-- How far the job is: {round, blocks, left, leases, parked, live hosts}, or {} if no round was ever
-- begun.
local function state_of(lease_ms)
    local known = redis.call('HMGET', job, 'round', 'blocks', 'left')
    if not known[1] then return {} end
    return {tonumber(known[1]), tonumber(known[2]), tonumber(known[3]), redis.call('ZCARD', lease),
        redis.call('HLEN', parked), live_hosts(lease_ms)}
end
