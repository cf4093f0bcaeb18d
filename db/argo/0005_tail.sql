-- Which libSQL server's rows this file is a copy of, and how far; no row for a file of its own.
CREATE TABLE argo_tail (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    -- The server's own name, made at random with its tables.
    origin TEXT NOT NULL,
    -- All rows up to this id are here; `row_sha256` is that row's mark, to know it again by.
    id INTEGER NOT NULL,
    row_sha256 TEXT NOT NULL,
    -- 1 once nothing was missing.
    whole INTEGER NOT NULL DEFAULT 0
);
