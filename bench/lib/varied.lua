-- Polls of which hardly two are the same, half of them compressed, and the summary of report.lua.
math.randomseed(os.time())
local dice = math.random
local strategies = { "weighted_consensus", "momentum", "mean_reversion" }
local gzip = {}
for name, value in pairs(wrk.headers) do gzip[name] = value end
gzip["Accept-Encoding"] = "gzip"

request = function()
  local query = "?limit=" .. dice(100)
  if dice(2) == 1 then query = query .. "&offset=" .. dice(100) end
  local filter = dice(6)
  if filter <= 2 then query = query .. string.format("&symbol=SYM%02d", dice(20) - 1) end
  if filter == 3 then query = query .. "&strategy=" .. strategies[dice(3)] end
  if filter >= 5 then query = query .. string.format("&min_confidence=%.1f", 60 + dice(300) / 10) end
  return wrk.format("GET", "/api/signals/latest" .. query, dice(2) == 1 and gzip or wrk.headers)
end

done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'JSON {"requests":%d,"bytes":%d,"durationUs":%d,"failures":%d,"p50Us":%d,"p99Us":%d}\n',
    summary.requests, summary.bytes, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
