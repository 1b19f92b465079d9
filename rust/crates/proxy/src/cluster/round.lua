-- One round of one gateway: it tells what it wants, and hears what the others have told, at one moment of the store's.
--
-- The hash has a field for each gateway, by its id: the number of its last round, until when it counts (milliseconds of the
-- store's clock), and what it has told, with spaces between. The field `#` is the number of the last round of all.
-- Whatever else is in there is removed: others may write to the store.
local key, id, told = KEYS[1], ARGV[1], ARGV[2]
local lease, most, longest = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

if redis.call('HLEN', key) > most + 1 then
  return redis.error_reply('EGRESS more gateways than there can be; remove the key ' .. key)
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local round = tonumber(redis.call('HGET', key, '#') or '0')
-- Exact as a number with 53 bits.
if not (round and round >= 0 and round < 9007199254740000) then
  round = 0
end
round = string.format('%.0f', math.floor(round) + 1)

local known = '0'
local answer = { round, known }
local all = redis.call('HGETALL', key)
for at = 1, #all, 2 do
  local field, value = all[at], all[at + 1]
  if field ~= '#' then
    local last, till, what
    if #field <= 64 and #value <= longest + 64 then
      last, till, what = string.match(value, '^(%d+) (%d+) (.*)$')
      till = tonumber(till)
    end
    if not till or till <= now or till > now + lease or #last > 16 then
      redis.call('HDEL', key, field)
    elseif field == id then
      answer[2] = '1'
    else
      answer[#answer + 1] = last
      answer[#answer + 1] = what
    end
  end
end
redis.call('HSET', key, '#', round, id, round .. ' ' .. string.format('%.0f', now + lease) .. ' ' .. told)
-- Nothing is left behind for long.
redis.call('PEXPIRE', key, 40 * lease)
return answer
