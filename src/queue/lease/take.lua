-- ARGV: bytes, bytes a second of all hosts together
-- Answer: after how many ms these bytes may be sent
local start = math.max(now, tonumber(redis.call('HGET', job, 'free_at') or '0'))
redis.call('HSET', job, 'free_at', string.format('%.3f', start + ARGV[1] * 1000 / ARGV[2]))
extend()
return math.floor(start - now)
