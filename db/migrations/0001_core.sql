-- Users, sites, projects, runs, and the journal that all delivery is made from.
-- $ID, $BYTES: the database's own words for a key that is never used again, and for bytes.
-- Times (*_us) are microseconds since 1970, UTC. JSON is kept as text, as it came.

CREATE TABLE users (
    id $ID,
    username TEXT NOT NULL UNIQUE,
    email TEXT NOT NULL DEFAULT '',
    password_hash TEXT NOT NULL,
    is_operator BOOLEAN NOT NULL,
    is_active BOOLEAN NOT NULL,
    created_us BIGINT NOT NULL
);

CREATE TABLE sites (
    id $ID,
    uid TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    owner_id BIGINT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    connected BOOLEAN NOT NULL,
    seen_us BIGINT NOT NULL,
    created_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL
);
CREATE INDEX sites_by_owner ON sites (owner_id);

CREATE TABLE tokens (
    id TEXT PRIMARY KEY,
    site_id BIGINT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    label TEXT NOT NULL,
    digest $BYTES NOT NULL UNIQUE,
    created_us BIGINT NOT NULL,
    expires_us BIGINT,
    revoked_us BIGINT
);
CREATE INDEX tokens_by_site ON tokens (site_id);

CREATE TABLE site_keys (
    site_id BIGINT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (site_id, name)
);

CREATE TABLE projects (
    id $ID,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    site_id BIGINT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    batch BIGINT NOT NULL,
    tasks TEXT NOT NULL,
    agent_config TEXT NOT NULL,
    agent_log TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL
);
CREATE INDEX projects_by_site ON projects (site_id);

CREATE TABLE participants (
    id $ID,
    project_id BIGINT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    site_id BIGINT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    role TEXT NOT NULL CHECK (role IN ('CO', 'PA')),
    notes TEXT NOT NULL,
    joined BIGINT NOT NULL,
    created_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL,
    UNIQUE (project_id, site_id)
);
CREATE INDEX participants_by_site ON participants (site_id);

CREATE TABLE runs (
    id $ID,
    project_id BIGINT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    batch BIGINT NOT NULL,
    participant_id BIGINT NOT NULL REFERENCES participants (id) ON DELETE CASCADE,
    site_id BIGINT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    site_uid TEXT NOT NULL,
    role TEXT NOT NULL,
    cur_seq BIGINT NOT NULL,
    status SMALLINT NOT NULL CHECK (status BETWEEN 0 AND 8),
    tasks TEXT NOT NULL,
    logs TEXT NOT NULL,
    artifacts TEXT NOT NULL,
    middle_artifacts TEXT NOT NULL,
    agent_advice TEXT NOT NULL,
    agent_diagnosis TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL,
    UNIQUE (project_id, batch, participant_id)
);
CREATE INDEX runs_by_participant ON runs (participant_id);
CREATE INDEX runs_by_site ON runs (site_id);
CREATE INDEX runs_active ON runs (project_id, site_id) WHERE status NOT IN (0, 8);

CREATE TABLE deadlines (
    project_id BIGINT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    batch BIGINT NOT NULL,
    due_us BIGINT NOT NULL,
    PRIMARY KEY (project_id, batch)
);

-- One row a project: the journal's incarnation (epoch), its last offset and the oldest that is kept.
-- Whoever appends holds this row until the commit, so that offset order is commit order.
CREATE TABLE journals (
    project_id BIGINT PRIMARY KEY REFERENCES projects (id) ON DELETE CASCADE,
    epoch TEXT NOT NULL,
    head BIGINT NOT NULL,
    oldest BIGINT NOT NULL
);

-- audience: ids of sites, as a JSON array; NULL is every member. subject_id: the site that one of the relay's own
-- events is about. size: of body, in bytes.
CREATE TABLE events (
    project_id BIGINT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    "offset" BIGINT NOT NULL,
    id TEXT NOT NULL,
    kind TEXT NOT NULL,
    sender_id BIGINT,
    sender_uid TEXT,
    subject_id BIGINT,
    run BIGINT,
    batch BIGINT,
    at_us BIGINT NOT NULL,
    audience TEXT,
    receipts BOOLEAN NOT NULL,
    is_binary BOOLEAN NOT NULL,
    size BIGINT NOT NULL,
    body $BYTES NOT NULL,
    PRIMARY KEY (project_id, "offset")
);
CREATE UNIQUE INDEX events_idempotency ON events (project_id, sender_id, id) WHERE sender_id IS NOT NULL;
CREATE INDEX events_with_receipts ON events (project_id, "offset") WHERE receipts;

CREATE TABLE cursors (
    site_id BIGINT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    project_id BIGINT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    "offset" BIGINT NOT NULL,
    updated_us BIGINT NOT NULL,
    PRIMARY KEY (site_id, project_id)
);
CREATE INDEX cursors_by_project ON cursors (project_id);

-- The newest progress of each run's site, for those who look late.
CREATE TABLE progress (
    project_id BIGINT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    run BIGINT NOT NULL,
    batch BIGINT NOT NULL,
    sender_id BIGINT NOT NULL,
    sender_uid TEXT NOT NULL,
    id TEXT NOT NULL,
    at_us BIGINT NOT NULL,
    audience TEXT,
    is_binary BOOLEAN NOT NULL,
    body $BYTES NOT NULL,
    PRIMARY KEY (run, sender_id)
);
CREATE INDEX progress_by_batch ON progress (project_id, batch);
