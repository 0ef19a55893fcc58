import os

from loopy import sensor

MENDED = os.environ["MENDED"]


@sensor(webhook="/python/broken", emits="Seen", verify="none")
def broken(request):
    return {"case": "broken", "by": "python", "value": MENDED}
