"""What a user's sites take part in, as a piece of SQL that the other queries build on."""

from __future__ import annotations

from db.connection import Dialect

MINE = """WITH mine AS (
    SELECT p.project_id, MAX(CASE WHEN p.role = 'CO' THEN 1 ELSE 0 END) AS leads
    FROM participants p JOIN sites s ON s.id = p.site_id WHERE s.owner_id = :user_id GROUP BY p.project_id)"""
"""`mine`: the projects that sites of `:user_id` take part in; `leads` is 1 where one of them is the coordinator."""


def among(dialect: Dialect, name: str, cast: str = "BIGINT") -> str:
    """`IN (…)` over the JSON array in the parameter `name`: one statement whatever the array's length."""
    if dialect == "sqlite":
        return f"IN (SELECT value FROM json_each(:{name}))"
    return f"IN (SELECT CAST(value AS {cast}) FROM json_array_elements_text(CAST(:{name} AS json)))"
