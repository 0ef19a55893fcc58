"""Takes orders: a delivery may hold several, and each becomes an event of its own."""

from collections.abc import Iterator

from loopy import Request, sensor
from loopy.events import Ordered


# Open to anyone who can reach it: fine for an example on one's own machine.
@sensor(webhook="/hooks/orders", emits="Ordered", verify="none")
def orders(request: Request) -> Iterator[Ordered]:
    for line in request.json["lines"]:
        if line["count"] > 0:
            yield Ordered(item=line["item"], count=line["count"])
