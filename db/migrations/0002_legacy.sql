-- What polling controllers need: the files of runs, groups of users, and when a run last entered Preparing.

ALTER TABLE runs ADD COLUMN preparing_us BIGINT;

-- A file of a run. The bytes lie in the file store under their SHA-256; several rows may share them. `blob` names one
-- upload, and all copies of it. `task` and `round` are as the controller said them: numbers, as a rule.
CREATE TABLE files (
    id $ID,
    project_id BIGINT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    run_id BIGINT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    type TEXT NOT NULL,
    task TEXT NOT NULL,
    round TEXT NOT NULL,
    name TEXT NOT NULL,
    blob TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    size BIGINT NOT NULL,
    created_us BIGINT NOT NULL,
    UNIQUE (run_id, name)
);
CREATE INDEX files_by_project ON files (project_id);
CREATE INDEX files_by_blob ON files (blob);
CREATE INDEX files_by_content ON files (sha256);

CREATE TABLE groups (
    id $ID,
    name TEXT NOT NULL UNIQUE
);

CREATE TABLE user_groups (
    user_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    group_id BIGINT NOT NULL REFERENCES groups (id) ON DELETE CASCADE,
    PRIMARY KEY (user_id, group_id)
);
CREATE INDEX user_groups_by_group ON user_groups (group_id);
