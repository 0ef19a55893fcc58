"""Turns GitHub's pull_request deliveries into PullRequest events."""

from __future__ import annotations

from loopy import Request, sensor
from loopy.events import PullRequest

WORTH_A_REVIEW = {"opened", "reopened", "synchronize", "ready_for_review"}


@sensor(webhook="/hooks/github", emits="PullRequest", verify="github")
def pull_request(request: Request) -> PullRequest | None:
    if request.headers.get("X-GitHub-Event") != "pull_request":
        return None
    delivery = request.json
    pull = delivery["pull_request"]
    if delivery["action"] not in WORTH_A_REVIEW or pull.get("draft"):
        return None
    return PullRequest(
        repo=delivery["repository"]["full_name"],
        number=pull["number"],
        title=pull["title"],
        description=pull["body"] or "",
        author=pull["user"]["login"],
        url=pull["html_url"],
    )
