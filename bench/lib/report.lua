-- wrk calls done once, at the end: exact sums as one line of JSON, at no cost per answer.
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format(
    'JSON {"requests":%d,"bytes":%d,"durationUs":%d,"failures":%d,"p50Us":%d,"p99Us":%d}\n',
    summary.requests, summary.bytes, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
