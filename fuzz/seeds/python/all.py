"""Hooks."""
import loopy
from loopy import sensor

@sensor(webhook="/hooks/" "ping", emits="Ping", verify="github")
async def ping(request):
    yield {"who": f"{request.json['a']!r:>{10}}"}

@loopy.sensor(poll="5m", emits='Pong')
def tick(t): return [x for x in (lambda: t)() if x]

class A:
    @sensor
    def no(self): ...
