-- Who gets into a project: its join policy, one-time invitations, requests that wait for the coordinator, and sites that
-- were removed and may not come back by themselves.

ALTER TABLE projects ADD COLUMN join_policy TEXT NOT NULL DEFAULT 'open';

-- digest: SHA-256 of the code. used_by: the uid of the site that it let in.
CREATE TABLE invitations (
    id $ID,
    project_id BIGINT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    digest $BYTES NOT NULL UNIQUE,
    label TEXT NOT NULL,
    created_us BIGINT NOT NULL,
    expires_us BIGINT NOT NULL,
    revoked_us BIGINT,
    used_us BIGINT,
    used_by TEXT
);
CREATE INDEX invitations_by_project ON invitations (project_id);

CREATE TABLE join_requests (
    project_id BIGINT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    site_id BIGINT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    notes TEXT NOT NULL,
    asked_us BIGINT NOT NULL,
    expires_us BIGINT NOT NULL,
    rejected_us BIGINT,
    PRIMARY KEY (project_id, site_id)
);
CREATE INDEX join_requests_by_site ON join_requests (site_id);

CREATE TABLE barred_sites (
    project_id BIGINT NOT NULL REFERENCES projects (id) ON DELETE CASCADE,
    site_id BIGINT NOT NULL REFERENCES sites (id) ON DELETE CASCADE,
    since_us BIGINT NOT NULL,
    PRIMARY KEY (project_id, site_id)
);
CREATE INDEX barred_sites_by_site ON barred_sites (site_id);
