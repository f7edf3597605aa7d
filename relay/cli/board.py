"""What `status` draws: the relay's own account of itself, fitted to a terminal of any size.

Drawing is a function of what was seen and of the terminal's size. The head and the last line stay; what lies between is
cut to what fits, and can be scrolled. A state is told by a sign and a word, never by a colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from rich.console import Console, Group, RenderableType
from rich.segment import Segment, Segments
from rich.table import Table
from rich.text import Text

from relay.cli.printed import printable

JsonObject = dict[str, Any]
NARROW, WIDE = 72, 100
"""Columns below which there is room for the most needful alone, and from which on there is room for all."""
_BARS = "▁▂▃▄▅▆▇█"
_STYLES = {"Running": "green", "Success": "green", "Failed": "red", "Pending Failed": "red", "Queued": "yellow"}


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What is looked at: the newest account and how old it is, for how long nothing has come, the first line shown."""

    seen: JsonObject
    age_s: float = 0.0
    silent_s: float = 0.0
    top: int = 0


def draw(console: Console, view: View, *, width: int, height: int) -> tuple[Segments, int]:
    """Exactly `height` lines; and which is the first one shown, where there are not so many."""
    options = console.options.update(width=width, height=None)
    head = console.render_lines(_head(view, width), options)
    body = console.render_lines(_body(view, width), options)
    room = max(0, height - len(head) - 1)
    top = max(0, min(view.top, len(body) - room))
    shown = body[top : top + room]
    blank = [Segment(" " * width)]
    foot = console.render_lines(_foot(len(body) - room, top), options)[:1]
    lines = [*head, *shown, *([blank] * (room - len(shown))), *foot][:height]
    return Segments(_joined(lines)), top


def whole(view: View, width: int) -> RenderableType:
    """All of it, for a terminal that scrolls by itself."""
    return Group(_head(view, width), _body(view, width))


def _joined(lines: Sequence[Sequence[Segment]]) -> Iterator[Segment]:
    for number, line in enumerate(lines):
        if number:
            yield Segment.line()
        yield from line


# --- head and foot


def _head(view: View, width: int) -> RenderableType:
    seen, database = view.seen, view.seen["database"]
    title = Text("Starfish Relay", "bold")
    title.append(
        f" {printable(seen['version'])}  {printable(seen['node'])}  up {_lasting(seen['uptime_s'] + view.age_s)}", "dim"
    )
    state = f"{database['kind']} {database['latency_ms']:.1f} ms" if database["ok"] else "the database does not answer"
    right = Text(state, "dim" if database["ok"] else "bold red")
    top = Table.grid(expand=True)
    top.add_column(no_wrap=True, overflow="ellipsis")
    top.add_column(no_wrap=True, justify="right")
    top.add_row(title, right)
    return Group(top, _counts(seen, width), _staleness(view.silent_s))


def _counts(seen: JsonObject, width: int) -> Text:
    sites = len(seen["sites"]) + seen["left_off"]["sites"]
    text = Text(no_wrap=True, overflow="ellipsis")
    for number, what in (
        (f"{seen['sites_online']}/{sites}", "sites online"),
        (str(seen["sessions"]), "sessions"),
        (f"{seen['events_per_s']:g}", "events/s"),
    ):
        text.append(number, "bold")
        text.append(f" {what}   ")
    room = width - len(text)
    return text.append(sparkline(seen["events"][-room:]), "cyan") if room >= len(_BARS) else text


def _staleness(silent_s: float) -> Text:
    if silent_s < STALE_S:
        return Text("")
    return Text(f"nothing has come for {_lasting(silent_s)}: this is how it was then", "bold yellow", no_wrap=True)


STALE_S = 10.0


def _foot(more: int, top: int) -> Text:
    keys = "q quit" if more <= 0 else f"q quit   ↑ ↓ scroll: {max(0, more - top)} lines below"
    return Text(keys, "dim", no_wrap=True, overflow="ellipsis")


def sparkline(counts: Sequence[int]) -> str:
    """`▁▃█`: each count in proportion to the highest. Blank where there was nothing."""
    highest = max(counts, default=0)
    return "".join(_BARS[(count * len(_BARS) - 1) // highest] if count else " " for count in counts)


# --- body


def _body(view: View, width: int) -> RenderableType:
    seen = view.seen
    left_off = seen["left_off"]
    return Group(
        _projects(seen, width),
        _left_off(left_off["projects"], "projects"),
        _left_off(left_off["runs"], "runs"),
        Text(""),
        _sites(view, width),
        _left_off(left_off["sites"], "sites"),
    )


def _left_off(count: int, what: str) -> RenderableType:
    return Text(f"  and {count} more {what}", "dim") if count else Group()


_RIGHT = frozenset({"BATCH", "ROUND", "ONLINE", "LAG", "EVENTS/S", "HEAD"})


def _columns(width: int, *names: str) -> Table:
    """The first takes what room the others leave."""
    table = Table(
        box=None, pad_edge=False, expand=True, header_style="dim", padding=(0, 2 if width >= NARROW else 1, 0, 0)
    )
    for number, name in enumerate(names):
        justify: Literal["left", "right"] = "right" if name in _RIGHT else "left"
        table.add_column(name, no_wrap=True, overflow="ellipsis", justify=justify, ratio=None if number else 1)
    return table


def _shown(width: int, needful: Sequence[str], more: Sequence[str], wide: Sequence[str]) -> list[str]:
    return [*needful, *(more if width >= NARROW else ()), *(wide if width >= WIDE else ())]


def _projects(seen: JsonObject, width: int) -> RenderableType:
    if not seen["projects"]:
        return Text("no projects yet", "dim")
    names = {site["uid"]: site["name"] for site in seen["sites"]}
    shown = _shown(width, ("PROJECT", "STATUS", "ROUND", "LAG"), ("ONLINE", "BATCH", "EVENTS/S"), ("HEAD",))
    table = _columns(width, *shown)
    for project in seen["projects"]:
        cells = _project(project)
        table.add_row(*(cells[name] for name in shown))
        for run in project["runs"]:
            cells = _run(run, names)
            table.add_row(*(cells.get(name, "") for name in shown))
    return table


def _project(project: JsonObject) -> dict[str, Text | str]:
    batch = project["batch"]
    number, status, round_ = ("–", Text("–", "dim"), "") if batch is None else _batch(batch)
    return {
        "PROJECT": Text(printable(project["name"]), "bold"),
        "BATCH": number,
        "STATUS": status,
        "ROUND": round_,
        "ONLINE": f"{project['online']}/{project['members']}",
        "LAG": _lag(project["lag_max"]),
        "EVENTS/S": f"{project['events_per_s']:g}",
        "HEAD": str(project["head"]),
    }


def _batch(batch: JsonObject) -> tuple[str, Text, str]:
    status = "Queued" if batch["queued"] else batch["status"]
    round_ = "" if batch["round"] is None else f"{batch['round']}/{batch['rounds'] or '?'}"
    return str(batch["id"]), Text(status, _STYLES.get(status, "")), round_


def _run(run: JsonObject, names: dict[str, str]) -> dict[str, Text | str]:
    name = f"  {'◆' if run['role'] == 'coordinator' else '·'} {printable(names.get(run['site'], run['site'][:8]))}"
    progress = run["progress"]
    fraction = progress["fraction"] if progress else None
    status = Text(run["status"], _STYLES.get(run["status"], ""))
    if fraction is not None:
        status.append(f" {fraction:4.0%}", "cyan")
    return {"PROJECT": Text(name), "STATUS": status, "ROUND": "" if run["round"] is None else str(run["round"])}


def _sites(view: View, width: int) -> RenderableType:
    seen = view.seen
    if not seen["sites"]:
        return Text("no sites yet", "dim")
    now = datetime.fromisoformat(seen["at"]) + timedelta(seconds=view.age_s)
    shown = _shown(width, ("SITE", "STATE", "LAG"), ("SINCE", "VIA"), ("UID",))
    table = _columns(width, *shown)
    for site in sorted(seen["sites"], key=lambda site: (not site["online"], site["name"])):
        cells = _site(site, now)
        table.add_row(*(cells[name] for name in shown))
    return table


def _site(site: JsonObject, now: datetime) -> dict[str, Text | str]:
    via = site["transport"] or "–"
    return {
        "SITE": Text(printable(site["name"])),
        "STATE": Text("● online", "green") if site["online"] else Text("○ offline", "dim"),
        "LAG": _lag(site["lag"] if site["online"] else None),
        "SINCE": Text("never" if site["since"] is None else _lasting(_seconds_since(site["since"], now)), "dim"),
        "VIA": via if site["sessions"] < 2 else f"{via} ×{site['sessions']}",
        "UID": Text(site["uid"], "dim"),
    }


def _lag(events: int | None) -> Text:
    """Who is away, or takes part in nothing, does not lag."""
    if events is None:
        return Text("–", "dim")
    return Text(str(events), "yellow" if events >= LAGGING else "")


LAGGING = 100
"""Events that a site is behind from which on it is worth a colour."""


def _seconds_since(at: str, now: datetime) -> float:
    return (now - datetime.fromisoformat(at)).total_seconds()


def _lasting(seconds: float) -> str:
    """`3 h 12 min`: the two largest units."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count or (unit == "s" and not parts):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])
