-- One row: the highest id that was deleted for its age. Whoever resumes from below it is told that
-- something may be missing.
CREATE TABLE argo_expired (one INTEGER PRIMARY KEY CHECK (one = 1), id INTEGER NOT NULL);
INSERT INTO argo_expired SELECT 1, coalesce(max(id), 0) FROM argo_forgotten;
