-- A mix of polls, and the summary of report.lua.
local queries = {
  "?limit=10", "?limit=10", "?limit=10", "?limit=10", "?limit=10",
  "?limit=20", "?limit=10&premium_only=true", "?limit=10&symbol=SYM03",
  "?limit=50", "?limit=10&strategy=momentum",
}
local requests = {}
local at = 0

init = function()
  for i, query in ipairs(queries) do
    requests[i] = wrk.format("GET", "/api/signals/latest" .. query)
  end
end

request = function()
  at = at % #requests + 1
  return requests[at]
end

done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'JSON {"requests":%d,"bytes":%d,"durationUs":%d,"failures":%d,"p50Us":%d,"p99Us":%d}\n',
    summary.requests, summary.bytes, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
