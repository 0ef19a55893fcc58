"""Takes a backlog from whoever posts one, while `loopy run` serves this project."""

from loopy import Request, sensor
from loopy.events import Backlog


# Open to anyone who can reach it: fine for an example on one's own machine.
@sensor(webhook="/hooks/backlog", emits="Backlog", verify="none")
def backlog(request: Request) -> Backlog:
    return Backlog(team=request.json["team"], tasks=request.json["tasks"])
