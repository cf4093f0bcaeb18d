#!/usr/bin/env python3
"""Polls for trading signals and prints each new one as one line of JSON, oldest first.

  ARGO_URL=http://127.0.0.1:3000 ARGO_TOKEN=… python3 poll.py [--interval 1] [--limit 10] [--since-id N]

Python 3.8 or newer, standard library only. Copy it, and trade in act().
"""
import argparse, http.client, json, os, random, sys, time, urllib.parse
from signal import SIGINT, SIGTERM, signal as on_signal

options = argparse.ArgumentParser(description="Polls for trading signals.")
options.add_argument("--interval", type=float, default=1, help="seconds between polls")
options.add_argument("--limit", type=int, default=10, help="signals in one poll")
options.add_argument("--since-id", type=int, help="go on after this id; else begin with the latest")
options = options.parse_args()

url = urllib.parse.urlsplit(os.environ.get("ARGO_URL", "http://127.0.0.1:3000"))
if url.scheme not in ("http", "https"):
    sys.exit("stopped: ARGO_URL must begin with http:// or https://")
token = os.environ.get("ARGO_TOKEN")
auth = {"Authorization": f"Bearer {token}"} if token else {}

# Connects by itself whenever it is not connected, and stays so between polls.
Connection = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[url.scheme]
server = Connection(url.netloc, timeout=10)

last_id = options.since_id  # act() is done up to here
etag = None  # of the last page
can_export = True  # until the plan turns out not to have the export
behind = None  # while paging back: the head then, the next path, the signals so far


def act(signal):
    """What the bot does with a signal."""
    try:
        print(json.dumps(signal), flush=True)
    except BrokenPipeError:  # nobody reads us any more
        os._exit(0)


class TryLater(Exception):
    def __init__(self, answer):
        super().__init__(f"{answer.status} {answer.reason}")
        self.retry_after = answer.headers.get("Retry-After", "")


def get(path, headers={}, unless=None):
    """Stops the bot on an answer that no waiting mends, but for the status `unless`."""
    server.request("GET", url.path.rstrip("/") + path, headers={**auth, **headers})
    answer = server.getresponse()
    if answer.status == 429 or answer.status >= 500:
        raise TryLater(answer)
    if answer.status not in (200, 304, unless):
        sys.exit(f"stopped: {path} answered {answer.status} {answer.read(2000).decode(errors='replace')}")
    if answer.status != 200:
        answer.read()  # an answer that is not read blocks the next one
    return answer


def poll():
    """Acts on every signal with an id above last_id: ids only grow, whatever timestamps do."""
    global last_id, etag, can_export, behind
    if behind:
        return page_back()
    answer = get(f"/api/signals/latest?limit={options.limit}", {"If-None-Match": etag} if etag else {})
    page = sorted(json.load(answer) if answer.status == 200 else [], key=lambda signal: signal["id"])
    head = int(answer.headers.get("Signal-Head") or (page[-1]["id"] if page else last_id or 0))
    new = [signal for signal in page if last_id is None or signal["id"] > last_id]
    # Ids that are not on the page: the plan may not show them, or they are older than the page.
    gap = last_id is not None and len(new) < head - last_id
    if gap and can_export:
        export = get(f"/api/signals/export?since_id={last_id}", unless=403)
        if export.status == 200:
            for line in export:
                signal = json.loads(line)
                act(signal)
                last_id = signal["id"]
            return
        can_export = False
        print("no export on this plan: a signal that is dated far back may be passed by", file=sys.stderr)
    if gap and (len(new) == options.limit or not new or new[-1]["id"] < head):
        behind = head, "/api/signals", []
        return page_back()
    for signal in new:
        act(signal)
    last_id = max(head, last_id or 0)  # a lesser plan's head is behind
    etag = answer.headers.get("ETag")


def page_back():
    """Goes back, newest first, until a whole page is known; a fault on the way loses no page."""
    global last_id, behind
    head, path, found = behind
    while path:
        answer = get(path, unless=400)
        if answer.status == 400:  # the plan has changed, and the cursor is of the old one
            behind = None
            raise TryLater(answer)
        page = json.load(answer)
        # What came after the head was read is left to the next poll, which finds all of it.
        found += [signal for signal in page["signals"] if last_id < signal["id"] <= head]
        more = page["next_cursor"] and any(signal["id"] > last_id for signal in page["signals"])
        path = f"/api/signals?cursor={page['next_cursor']}" if more else None
        behind = head, path, found
    for signal in sorted(found, key=lambda signal: signal["id"]):
        act(signal)
    last_id, behind = head, None


on_signal(SIGINT, lambda *_: sys.exit(0))
on_signal(SIGTERM, lambda *_: sys.exit(0))
failures = 0
while True:
    wait = options.interval
    try:
        poll()
        failures = 0
    except (TryLater, OSError, http.client.HTTPException, ValueError) as problem:
        server.close()
        failures += 1
        # Anything up to a ceiling that doubles, so that a thousand bots do not return at once.
        wait = random.uniform(0, min(60, options.interval * 2 ** min(failures, 16)))
        if getattr(problem, "retry_after", "").isdigit():
            wait += min(int(problem.retry_after), 3600)
        print(f"{problem!r}; again in {wait:.1f} s", file=sys.stderr)
    if wait > 5:
        server.close()  # before the server drops it for being idle
    time.sleep(wait)
