-- ARGV: host, block, attempts with this one, attempts at most
-- This host cannot send the block: another one should. The range that it was in counts it as done.
local name, block, attempts = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
if not redis.call('HGET', job, 'round') then return 0 end
count_left(1)
give_back(block, block + 1, attempts, tonumber(ARGV[4]), name)
return 1
