"""Sensors that are right: no checker finds anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timezone

from loopy import Request, Tick, sensor
from loopy.events import Issue, Mail, PullRequest


@sensor(webhook="/hooks/github", emits="PullRequest", verify="github")
def one(request: Request) -> PullRequest | None:
    if request.headers.get("X-GitHub-Event") != "pull_request":
        return None
    pull = request.json["pull_request"]
    event = PullRequest(
        repo="a/b",
        number=pull["number"],
        draft=False,
        opened_at=datetime.now(timezone.utc),
        kind="bug",
        labels=[label["name"] for label in pull["labels"]],
        files=[{"path": "a"}, {"path": "b", "line": 3}],
        extra={"any": ["thing"]},
    )
    event.score = 1
    return event


@sensor(poll="5m", emits="Issue")
def several(tick: Tick) -> Iterator[Issue]:
    yield Issue(title=tick.last_run.isoformat())


@sensor(poll="5m", emits="Issue")
async def coroutine(tick: Tick) -> list[Issue]:
    return [Issue(title="x")]


@sensor(poll="5m", emits="Issue")
async def stream(tick: Tick) -> AsyncIterator[Issue]:
    yield Issue(title="x")


@sensor(poll="5m", emits="Issue")
def plain(tick: Tick) -> dict[str, str]:
    return {"title": "x"}


@sensor(webhook="/odd", emits="Odd Name", verify="none")
def odd(request: Request) -> dict[str, object]:
    return {"class": request.query.getlist("a")[0], "from": len(request.body)}


@sensor(webhook="/mail", emits="Mail", verify="none")
def mail(request: Request) -> list[Mail]:
    return [Mail(title="x", str=1, other="y", **{"class": "z", "from": 3})]


@sensor(webhook="/bare", emits="Issue", verify="none")
def unannotated(request):  # type: ignore[no-untyped-def]
    return Issue(title=request.json["title"])
