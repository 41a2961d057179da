package redis

import goredis "github.com/redis/go-redis/v9"

// prelude begins scripts that need the time. Times are microseconds since 1970, which a Lua number holds exactly.
const prelude = `
local t = redis.call('TIME')
local now = tonumber(t[1]) * 1000000 + tonumber(t[2])
`

// scriptRead returns the time and a request.
var scriptRead = goredis.NewScript(prelude + `
return {now, redis.call('HGET', KEYS[1], 'r')}
`)

// scriptFind returns the time, the id of the live request of a digest, the counts that the limits are about, and the request and its
// card. An agent waits for each round trip, so one script does all of it. The request's key, which begins with ARGV[1], is not known
// before, so it cannot be among KEYS; it is on the same server, as all keys of a store are.
var scriptFind = goredis.NewScript(prelude + `
local id = redis.call('GET', KEYS[1])
local found = {false, false}
if id then found = redis.call('HMGET', ARGV[1] .. id, 'r', 'c') end
return {now, id, redis.call('ZCARD', KEYS[2]), redis.call('SCARD', KEYS[3]),
	redis.call('SCARD', KEYS[4]), tonumber(redis.call('GET', KEYS[5]) or '0'), found[1], found[2]}
`)

// scriptLive returns the id of the live request of a digest, the request and its card, or nothing.
var scriptLive = goredis.NewScript(`
local id = redis.call('GET', KEYS[1])
if not id then return {} end
local found = redis.call('HMGET', ARGV[1] .. id, 'r', 'c')
return {id, found[1], found[2]}
`)

// scriptOpen stores a new request, or says which one has its digest, or which limit is reached.
//
// KEYS: digest, live, agent, resource, rate, all, unrecorded, request
// ARGV: id, request, card, deadline, total, per agent, per resource, rate, rate window in ms, oldest id, channel, message
var scriptOpen = goredis.NewScript(prelude + `
local id = ARGV[1]
local found = redis.call('GET', KEYS[1])
if found then
	if found == id then return {'opened', id} end
	return {'joined', found}
end
local function over(have, limit) return tonumber(limit) > 0 and have >= tonumber(limit) end
if over(redis.call('SCARD', KEYS[3]), ARGV[6]) then return {'agent', ''} end
if over(redis.call('SCARD', KEYS[4]), ARGV[7]) then return {'resource', ''} end
if over(redis.call('ZCARD', KEYS[2]), ARGV[5]) then return {'total', ''} end
if over(tonumber(redis.call('GET', KEYS[5]) or '0'), ARGV[8]) then return {'rate', ''} end
redis.call('SET', KEYS[1], id)
redis.call('HSET', KEYS[8], 'r', ARGV[2], 'c', ARGV[3], 'v', 1, 's', 'pending', 'd', ARGV[4])
redis.call('ZADD', KEYS[2], ARGV[4], id)
redis.call('SADD', KEYS[3], id)
redis.call('SADD', KEYS[4], id)
redis.call('ZADD', KEYS[6], 0, id)
redis.call('ZREMRANGEBYLEX', KEYS[6], '-', '(' .. ARGV[10])
redis.call('ZADD', KEYS[7], now, id)
if redis.call('INCR', KEYS[5]) == 1 then redis.call('PEXPIRE', KEYS[5], ARGV[9]) end
redis.call('PUBLISH', ARGV[11], ARGV[12])
return {'opened', id}
`)

// scriptUpdate changes a request from one revision to the next.
//
// KEYS: request, digest, live, agent, resource, unrecorded
// ARGV: id, revision before, request, state, deadline, something in the outbox (0 or 1), channel, message (may be empty), retain in ms
var scriptUpdate = goredis.NewScript(prelude + `
local id, state = ARGV[1], ARGV[4]
local h = redis.call('HMGET', KEYS[1], 'v', 's', 'd', 'f')
if not h[1] then return 'gone' end
if h[1] ~= ARGV[2] then return 'conflict' end
local was = h[2]
local wasLive = was == 'pending' or was == 'approved'
local live = state == 'pending' or state == 'approved'
if not wasLive and state ~= was then return 'final' end
if wasLive and now >= tonumber(h[3]) and ((live and state ~= was) or state == 'spent') then return 'late' end
local fence = h[4] or ''
if state == 'spent' and was ~= 'spent' or state == 'approved' and was ~= 'approved' then
	local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
	if not run then return 'fenced' end
	if state == 'approved' then
		fence = run
	elseif was ~= 'approved' or fence ~= run then
		return 'fenced'
	end
end
redis.call('HSET', KEYS[1], 'r', ARGV[3], 'v', tonumber(ARGV[2]) + 1, 's', state, 'd', ARGV[5], 'f', fence)
if live then
	redis.call('ZADD', KEYS[3], ARGV[5], id)
elseif wasLive then
	redis.call('DEL', KEYS[2])
	redis.call('ZREM', KEYS[3], id)
	redis.call('SREM', KEYS[4], id)
	redis.call('SREM', KEYS[5], id)
	redis.call('PEXPIRE', KEYS[1], ARGV[9])
end
if ARGV[6] == '1' then
	redis.call('ZADD', KEYS[6], now, id)
else
	redis.call('ZREM', KEYS[6], id)
end
if ARGV[8] ~= '' then redis.call('PUBLISH', ARGV[7], ARGV[8]) end
return 'ok'
`)

// scriptDue returns live requests past their deadline, oldest deadline first.
var scriptDue = goredis.NewScript(prelude + `
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
`)

// scriptUnrecorded returns requests with something in the outbox that have not changed for ARGV[1] microseconds.
var scriptUnrecorded = goredis.NewScript(prelude + `
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[1]))
`)
