-- ARGV: the round before this one, JSON of [first, end, first, end, ...], 1 if it was all sent before
-- Begins the next round, unless another host has begun it. Answer: the round that is on.
local before, ranges = tonumber(ARGV[1]), cjson.decode(ARGV[2])
local round = tonumber(redis.call('HGET', job, 'round') or '0') or 0
if round ~= before then return round end
redis.call('DEL', free, lease, owner, parked)
local blocks = 0
for i = 1, #ranges, 2 do
    redis.call('ZADD', free, ranges[i], string.format('%d:%d:0:', ranges[i], ranges[i + 1]))
    blocks = blocks + ranges[i + 1] - ranges[i]
end
-- Also after the engine has forgotten everything, a lease has a number that none had before.
redis.call('HSETNX', job, 'next_id', string.format('%.0f', clock[1] * 1000000 + clock[2]))
redis.call('HSET', job, 'round', round + 1, 'blocks', blocks, 'left', blocks, 'free', blocks, 'again', ARGV[3])
extend()
return round + 1
