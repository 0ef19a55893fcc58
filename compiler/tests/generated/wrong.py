"""Each line that ends in `# error` has one, and no other line has."""

from __future__ import annotations

from loopy import Request, Tick, sensor
from loopy.events import Issue, PullRequest, Mail


@sensor(webhook="/a", emits="Issue")
def fields(request: Request) -> Issue:
    Issue(titel="x")  # error
    Issue(title=5)  # error
    Issue()  # error
    Issue("x")  # error
    Issue(title="x").titel  # error
    request.heders  # error
    Mail(title="x", str="y", **{"class": "z"})  # error
    Mail(title="x", str=1).class_  # error
    return Issue(title="x")


def pull() -> PullRequest:
    return PullRequest(
        repo="a/b",
        number="1",  # error
        draft=False,
        opened_at="2026-01-01T00:00:00Z",
        kind="bugs",  # error
        labels="x",  # error
        files=[{"path": 5}],  # error
        extra=None,
        score=None,  # error
    )


@sensor(webhook="/b", emits="Issue")  # error
def other_event(request: Request) -> Mail | None:
    return None


@sensor(poll="5m", emits="Issue")  # error
def wrong_input(request: Request) -> None:
    return None


@sensor(webhook="/c", emits="Nothing")  # error
def no_event(request: Request) -> None:
    return None


@sensor(poll="5m", webhook="/d", emits="Issue")  # error
def both(tick: Tick) -> None:
    return None


@sensor(webhook="/e", emits="Issue", verify="gihub")  # error
def scheme(request: Request) -> None:
    return None
