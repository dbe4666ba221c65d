-- ARGV: lease in ms
-- Answer: how far the job is
return state_of(tonumber(ARGV[1]))
