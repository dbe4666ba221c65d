-- Answer: {now in ms, hosts with the times at which they were heard of, what they say of themselves,
--          leases, parked ranges, the job}
return {now, redis.call('ZRANGE', host, 0, 9999, 'WITHSCORES'), redis.call('HGETALL', about),
    redis.call('HGETALL', owner), redis.call('HGETALL', parked), redis.call('HGETALL', job)}
