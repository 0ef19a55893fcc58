import asyncio
import os
import time

from brought import ONE
from loopy import sensor
from loopy.events import Seen


def values(case, *found):
    return [Seen(case=case, by="python", value=value) for value in found]


@sensor(webhook="/python/one", emits="Seen", verify="none")
def py_one(request):
    return values("one", ONE)[0]


@sensor(webhook="/python/none", emits="Seen", verify="none")
def py_none(request):
    print("this one has nothing to say")


@sensor(webhook="/python/several", emits="Seen", verify="none")
def py_several(request):
    return values("several", 1, 2)


@sensor(webhook="/python/generator", emits="Seen", verify="none")
def py_generator(request):
    yield from values("generator", 1, 2, 3)


@sensor(webhook="/python/async", emits="Seen", verify="none")
async def py_async(request):
    await asyncio.sleep(0)
    return values("async", 1, 2)


@sensor(webhook="/python/stream", emits="Seen", verify="none")
async def py_stream(request):
    for event in values("stream", 0, 1):
        await asyncio.sleep(0)
        yield event


@sensor(webhook="/python/request", emits="Seen", verify="none")
def py_request(request):
    query = "&".join("a=" + value for value in request.query.getlist("a"))
    parts = [request.method, request.path, request.headers["x-Custom"], query, list(request.body)]
    return values("request", parts)


@sensor(webhook="/python/environment", emits="Seen", verify="none")
def py_environment(request):
    return values("environment", {"names": sorted(os.environ), "token": os.environ["TOKEN"]})


@sensor(webhook="/python/crash", emits="Seen", verify="none")
def py_crash(request):
    os._exit(3)


@sensor(poll="EVERY", emits="Seen", on_change=True)
def py_poll(tick):
    return values("poll", len(tick.snapshot))


def sleeps(tick):
    time.sleep(20)
