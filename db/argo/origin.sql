-- What this server keeps at a libSQL server beside the engine's table, which holds the rows of all
-- nodes. Each node tails it by id into its own file. Where the server began with a file that was
-- served by itself, what that file had noted stays.

-- The name by which nodes know this database again, and the secret that their cursors share. A node
-- that writes says which `writes` it has decided by: where another one came first it has no turn.
CREATE TABLE argo_origin (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL,
    name TEXT NOT NULL,
    secret TEXT NOT NULL,
    writes INTEGER NOT NULL,
    -- The highest id that was deleted for its age.
    expired INTEGER NOT NULL,
    turn INTEGER NOT NULL CONSTRAINT argo_turn CHECK (turn = 1),
    -- A node that was overtaken has the next turn, until then by this server's clock.
    claimed_by TEXT,
    claimed_until TEXT
);
INSERT INTO argo_origin (one, version, name, secret, writes, expired, turn)
VALUES (1, 1, lower(hex(randomblob(16))), lower(hex(randomblob(32))), 0, 0, 1);

-- When a row arrived here. Rows that were there before have none.
CREATE TABLE IF NOT EXISTS argo_received (id INTEGER PRIMARY KEY, received_at TEXT NOT NULL);

-- The row that a correction corrects.
CREATE TABLE IF NOT EXISTS argo_supersedes (id INTEGER PRIMARY KEY, supersedes INTEGER NOT NULL);

-- Answers to posts with an Idempotency-Key; `key` is a hash of producer and key.
CREATE TABLE IF NOT EXISTS argo_idempotency (
    key TEXT PRIMARY KEY,
    body_sha256 TEXT NOT NULL,
    answer TEXT NOT NULL,
    created_at TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS idx_argo_idempotency_created ON argo_idempotency (created_at);

-- What was deleted for its age, by our hash of its content.
CREATE TABLE IF NOT EXISTS argo_forgotten (
    content BLOB PRIMARY KEY,
    id INTEGER NOT NULL,
    sha256 TEXT
) WITHOUT ROWID;

CREATE INDEX argo_signals_content ON signals (symbol, timestamp);

DROP TRIGGER IF EXISTS argo_signals_insert;
DROP TRIGGER IF EXISTS argo_signals_update;
DROP TRIGGER IF EXISTS argo_signals_move;
DROP TRIGGER IF EXISTS argo_signals_delete;

CREATE TRIGGER argo_signals_insert AFTER INSERT ON signals BEGIN
    DELETE FROM argo_received WHERE id = NEW.id;
    DELETE FROM argo_supersedes WHERE id = NEW.id;
    INSERT INTO argo_received (id, received_at)
    VALUES (NEW.id, strftime('%Y-%m-%dT%H:%M:%fZ', 'now'));
    UPDATE argo_origin SET writes = writes + 1;
END;

CREATE TRIGGER argo_signals_update AFTER UPDATE ON signals BEGIN
    UPDATE argo_origin SET writes = writes + 1;
END;

CREATE TRIGGER argo_signals_delete AFTER DELETE ON signals BEGIN
    DELETE FROM argo_received WHERE id = OLD.id;
    DELETE FROM argo_supersedes WHERE id = OLD.id;
    UPDATE argo_origin SET writes = writes + 1;
END;
