"""Lets `curl` say hello while `loopy run` serves this project."""

from loopy import Request, sensor
from loopy.events import Hello


# Open to anyone who can reach it: fine for an example on one's own machine,
# and said by name so that it is not an accident.
@sensor(webhook="/hooks/hello", emits="Hello", verify="none")
def hello(request: Request) -> Hello:
    return Hello(name=str(request.json.get("name", "stranger")))
