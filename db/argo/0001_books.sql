-- What this server keeps beside the engine's table. Readable by SQLite 3.31 and later.

-- One row: how many rows of signals were ever inserted, updated and deleted, by anybody.
CREATE TABLE argo_head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    inserts INTEGER NOT NULL DEFAULT 0,
    updates INTEGER NOT NULL DEFAULT 0,
    deletes INTEGER NOT NULL DEFAULT 0
);
INSERT INTO argo_head (one) VALUES (1);

-- When a row arrived here. Rows that were there at adoption have none.
CREATE TABLE argo_received (id INTEGER PRIMARY KEY, received_at TEXT NOT NULL);

-- The row that a correction corrects.
CREATE TABLE argo_supersedes (id INTEGER PRIMARY KEY, supersedes INTEGER NOT NULL);

-- Our hash of a row, where the adopted table has no column for it.
CREATE TABLE argo_hashes (id INTEGER PRIMARY KEY, sha256 TEXT NOT NULL);
CREATE INDEX idx_argo_hashes_sha256 ON argo_hashes (sha256);

-- Answers to posts with an Idempotency-Key; `key` is a hash of producer and key.
CREATE TABLE argo_idempotency (
    key TEXT PRIMARY KEY,
    body_sha256 TEXT NOT NULL,
    answer TEXT NOT NULL,
    created_at TEXT NOT NULL
);
CREATE INDEX idx_argo_idempotency_created ON argo_idempotency (created_at);

-- A random secret of this file; it signs the cursors of lists.
CREATE TABLE argo_secret (one INTEGER PRIMARY KEY CHECK (one = 1), secret BLOB NOT NULL);
INSERT INTO argo_secret VALUES (1, randomblob(32));
