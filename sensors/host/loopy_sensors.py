"""Runs a project's Python sensors: one JSON request in, one JSON response out.

It is started as `python3 loopy_sensors.py --worker PROJECT_DIR` and reads a
request a line from stdin and writes a response a line to stdout, each with the
number of the request. As a Lambda function its handler is
`loopy_sensors.handler`, which keeps such a worker: a process with nothing but
the sensors' own environment, which is made anew when that has changed. Needs
Python 3.9 and the standard library (on Lambda also boto3, if there are secrets).

It is also where sensor code gets its `loopy` package from: `from loopy import
sensor` and `from loopy.events import PullRequest` work without any file of
that name, because this module registers both, made from what the request says
about the project's events.

A sensor is called with a `Request` (webhook) or a `Tick` (poll). It may be a
function, an async function, a generator or an async generator. It gives back
None, one event, a dict of the fields of the event it declared, or an iterable
of events and dicts, all of which are delivered. Anything else is an error.
"""

import asyncio
import base64
import collections.abc
import datetime
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
import types
import urllib.parse

# The first version of Python that has all that is used here.
OLDEST = (3, 9)

# What a project's sensors import of other people, beside what Python has itself.
PACKAGES = os.path.join("sensors", "site-packages")

# The end of a trace says what went wrong; more would not fit a log line.
TRACE_CHARS = 4000


class SensorFault(Exception):
    """The sensor's code broke a rule; the text alone says which."""


class Unloadable(Exception):
    """The sensor's code is not there to be called; the text says why."""


# --- the `loopy` package ------------------------------------------------------


class Event:
    """The base of all classes in `loopy.events`: keyword fields, attributes.

    A field that is not given stays unset and is not sent.
    """

    _event = "Event"
    _known = frozenset()

    # `/`, as a field may be called `self`.
    def __init__(self, /, **fields):
        unknown = sorted(set(fields) - type(self)._known)
        if unknown:
            raise TypeError(
                "event %s has no field %s; it has: %s"
                % (
                    type(self)._event,
                    ", ".join("`%s`" % name for name in unknown),
                    ", ".join(sorted(type(self)._known)) or "none",
                )
            )
        self.__dict__.update(fields)

    def __setattr__(self, name, value):
        if name not in type(self)._known:
            raise AttributeError("event %s has no field `%s`" % (type(self)._event, name))
        self.__dict__[name] = value

    def __repr__(self):
        fields = ", ".join("%s=%r" % item for item in sorted(self.__dict__.items()))
        return "%s(%s)" % (type(self)._event, fields)

    def __eq__(self, other):
        if type(self) is not type(other):
            return NotImplemented
        return self.__dict__ == other.__dict__

    __hash__ = None


def sensor(*, emits, webhook=None, poll=None, verify=None, on_change=False):
    """Marks a function as a sensor. The compiler has read the arguments from
    the source, so here they are only kept on the function."""

    def mark(function):
        function.__loopy_sensor__ = {
            "emits": emits,
            "webhook": webhook,
            "poll": poll,
            "verify": verify,
            "on_change": on_change,
        }
        return function

    return mark


_package = types.ModuleType("loopy", "What sensor code imports.")
_package.__path__ = []
_package.sensor = sensor
_events = types.ModuleType("loopy.events", "A class for each event of the project.")
_package.events = _events
sys.modules["loopy"] = _package
sys.modules["loopy.events"] = _events

_classes = {}


def _declare(events):
    """Makes `loopy.events` hold exactly these events. A class that stays keeps
    its identity, because modules loaded earlier have imported it."""
    for name in set(_classes) - set(events):
        del _classes[name]
        delattr(_events, name)
    for name, fields in events.items():
        if name not in _classes:
            _classes[name] = type(name, (Event,), {"_event": name, "__module__": "loopy.events"})
            setattr(_events, name, _classes[name])
        _classes[name]._known = frozenset(fields)
    _events.__all__ = sorted(_classes)


# --- what a sensor is called with ---------------------------------------------


class Headers(collections.abc.Mapping):
    """Headers by name, in any case."""

    def __init__(self, headers):
        self._headers = {name.lower(): value for name, value in headers.items()}

    def __getitem__(self, name):
        return self._headers[name.lower()]

    def __iter__(self):
        return iter(self._headers)

    def __len__(self):
        return len(self._headers)

    def __repr__(self):
        return "Headers(%s)" % ", ".join(sorted(self._headers))


class Query(dict):
    """Query parameters: a dict with the first value of each name.

    `getlist(name)` gives every value, in order.
    """

    def __init__(self, raw):
        super().__init__()
        self._all = urllib.parse.parse_qs(raw, keep_blank_values=True)
        for name, values in self._all.items():
            self[name] = values[0]

    def getlist(self, name):
        """Every value of `name`; an empty list when it is absent."""
        return list(self._all.get(name, []))


class Request:
    """A verified webhook delivery.

    method, path: as posted. headers: names in any case. query: first value of
    each name. body: the raw bytes. json: the parsed body.
    """

    def __init__(self, call):
        self.method = call["method"]
        self.path = call["path"]
        self.headers = Headers(call["headers"])
        self.query = Query(call["query"])
        self.body = base64.b64decode(call["body_base64"])

    @property
    def json(self):
        """The parsed body; a ValueError if it is not JSON."""
        if "_json" not in self.__dict__:
            try:
                self._json = json.loads(self.body)
            except ValueError as error:
                raise ValueError("the body of this delivery is not JSON: %s" % error) from None
        return self._json

    def __repr__(self):
        return "Request(%s %s, %d bytes)" % (self.method, self.path, len(self.body))


class Tick:
    """A poll's turn: when it was due and when the one before it was, as
    datetimes with a zone; and what that one gave, a dict of fields an event."""

    def __init__(self, call):
        self.scheduled_at = _moment(call["scheduled_at"])
        self.last_run = _moment(call["last_run"])
        self.snapshot = call["snapshot"]

    def __repr__(self):
        return "Tick(scheduled_at=%s, last_run=%s)" % (self.scheduled_at, self.last_run)


# For annotations: `def hook(request: Request)`.
_package.Request = Request
_package.Tick = Tick


_MOMENT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))"
)


def _moment(text):
    # `fromisoformat` reads neither `Z` nor nanoseconds before Python 3.11.
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise ValueError("`%s` is not an RFC 3339 time" % text)
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    micros = int((match.group(7) or "0").ljust(6, "0")[:6])
    offset = datetime.timedelta()
    if match.group(8):
        offset = datetime.timedelta(hours=int(match.group(9)), minutes=int(match.group(10)))
        if match.group(8) == "-":
            offset = -offset
    zone = datetime.timezone(offset)
    return datetime.datetime(year, month, day, hour, minute, second, micros, zone)


# --- what a sensor gives back -------------------------------------------------


def _plain(value, place):
    """The JSON form of a field's value."""
    if value is None or isinstance(value, bool):
        return value
    # What is made of these types, such as a member of an enum, may print as
    # something else than its value.
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        value = float.__float__(value)
        if not math.isfinite(value):
            raise SensorFault("%s is %r, which JSON cannot say" % (place, value))
        return value
    if isinstance(value, str):
        value = str.__str__(value)
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise SensorFault("%s holds text that is not valid Unicode" % place) from None
        return value
    if isinstance(value, datetime.datetime):
        if value.utcoffset() is None:
            raise SensorFault(
                "%s is a datetime without a time zone; make it one with "
                "datetime.now(timezone.utc) or .replace(tzinfo=…)" % place
            )
        return value.astimezone(datetime.timezone.utc).isoformat().replace("+00:00", "Z")
    if isinstance(value, datetime.date):
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return [_plain(item, "%s[%d]" % (place, at)) for at, item in enumerate(value)]
    if isinstance(value, collections.abc.Mapping):
        plain = {}
        for name, item in value.items():
            if not isinstance(name, str):
                raise SensorFault("%s has the key %r; keys must be text" % (place, name))
            plain[_plain(name, place)] = _plain(item, "%s.%s" % (place, name))
        return plain
    raise SensorFault(
        "%s is a %s, which has no JSON form; use text, numbers, lists, dicts or datetimes"
        % (place, type(value).__name__)
    )


def _sensed(item, emits):
    """One returned event, as the response carries it."""
    if isinstance(item, Event):
        if type(item)._event != emits:
            raise SensorFault(
                "it gave back the event %s, but it declares emits=%r" % (type(item)._event, emits)
            )
        fields = item.__dict__
    elif isinstance(item, collections.abc.Mapping):
        fields = item
    else:
        raise SensorFault(
            "it gave back %s; return None, one %s, a dict of its fields, or an iterable of those"
            % (_described(item), emits)
        )
    return {"event": emits, "fields": _plain(fields, emits)}


def _described(item):
    if isinstance(item, Event):
        return "an event %s" % type(item)._event
    return "None in an iterable" if item is None else "a %s" % type(item).__name__


def _events_of(returned, emits):
    if returned is None:
        return []
    if isinstance(returned, (Event, collections.abc.Mapping, str, bytes, bytearray)):
        return [_sensed(returned, emits)]
    if isinstance(returned, collections.abc.Iterable):
        return [_sensed(item, emits) for item in returned]
    return [_sensed(returned, emits)]


_loop = None


def _await(work):
    # One loop for the life of the process, so that a client which a sensor
    # keeps between calls stays usable.
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
        asyncio.set_event_loop(_loop)
    return _loop.run_until_complete(work)


async def _result(awaitable):
    return await awaitable


async def _items(stream):
    return [item async for item in stream]


def _load(code):
    """The function of a sensor."""
    if sys.version_info < OLDEST:
        raise Unloadable(
            "it needs Python %d.%d or later, and this is %d.%d" % (OLDEST + sys.version_info[:2])
        )
    try:
        # A file that was mended is seen.
        importlib.invalidate_caches()
        module = importlib.import_module(code["module"])
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit
        raise Unloadable(_trace(error) + _why_not_there(error)) from None
    function = getattr(module, code["function"], None)
    if not callable(function):
        raise Unloadable("module %s has no function `%s`" % (code["module"], code["function"]))
    return function


def _why_not_there(error):
    """What is to be said of a module that is there, and not for sensors."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or name in ("", "sensors"):
        return ""
    if not os.path.isdir(name) and not os.path.isfile(name + ".py"):
        return ""
    return "\n`%s` lies outside of sensors/, and a stack gets only what is in it; move it there" % name


def _call(request):
    _declare(request["events"])
    function = _load(request)
    call = request["call"]
    returned = function(Request(call) if call["kind"] == "request" else Tick(call))
    if inspect.isawaitable(returned):
        returned = _await(_result(returned))
    if isinstance(returned, collections.abc.AsyncIterable):
        returned = _await(_items(returned))
    events = _events_of(returned, request["emits"])
    size, most = len(json.dumps({"events": events})), request["limits"]["response_bytes"]
    if size > most:
        raise SensorFault("its events are %d bytes of JSON, and one call may give %d" % (size, most))
    return events


def _trace(error):
    """The end of the trace, without the frames that led into sensor code."""
    frames = error.__traceback__
    while frames is not None and (
        frames.tb_frame.f_code.co_filename == __file__
        or frames.tb_frame.f_code.co_filename.startswith("<frozen importlib")
        or frames.tb_frame.f_code.co_filename == importlib.__file__
    ):
        frames = frames.tb_next
    lines = traceback.format_exception(type(error), error, frames)
    text = "".join(lines).strip()
    return text.encode("utf-8", "replace").decode("utf-8")[-TRACE_CHARS:]


def _loaded(request):
    """The sensors that cannot be loaded, with why."""
    _declare(request["events"])
    found = {}
    for code in request["sensors"]:
        try:
            _load(code)
        except Unloadable as error:
            found[code["sensor"]] = str(error)
    return found


def answer(request):
    """Does what the request asks for and gives back the response. Whoever started
    the worker looks at the clock."""
    try:
        if request["ask"] == "load":
            return {"loaded": _loaded(request)}
        return {"events": _call(request)}
    except SensorFault as fault:
        return {"error": str(fault)}
    except Unloadable as error:
        return {"unloadable": str(error)}
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also SystemExit: a sensor must not end the host
        return {"error": _trace(error)}


# --- as a worker --------------------------------------------------------------


class _Sensors(importlib.abc.MetaPathFinder):
    """Finds the package `sensors` of a project, and nothing else of it: a stack
    has no more."""

    def __init__(self, project):
        self._folder = os.path.join(project, "sensors")

    def find_spec(self, name, path=None, target=None):
        if name != "sensors":
            return None
        init = os.path.join(self._folder, "__init__.py")
        if os.path.isfile(init):
            folders = [self._folder]
            return importlib.util.spec_from_file_location(
                name, init, submodule_search_locations=folders
            )
        spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [self._folder]
        return spec


def _worker(project, more):
    # Requests and responses keep the original streams. What sensor code, or a
    # program that it starts, prints goes to stderr, and it reads an empty stdin.
    requests = os.fdopen(os.dup(0), "rb")
    responses = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    os.chdir(project)
    # What the project brings comes before what Python has, as in a function. The
    # directory of this file is no part of the project.
    host = os.path.dirname(os.path.abspath(__file__))
    brought = os.path.join(os.getcwd(), PACKAGES)
    path = [brought]
    for entry in sys.path + more:
        if entry not in path and os.path.abspath(entry) != host:
            path.append(entry)
    sys.path[:] = path
    sys.meta_path.insert(0, _Sensors(os.getcwd()))
    # Bytes, as text has more ends of a line than this.
    for line in requests:
        asked = json.loads(line)
        answered = {"number": asked["number"], "response": answer(asked["request"])}
        responses.write(json.dumps(answered).encode("ascii") + b"\n")
        responses.flush()


# --- as a Lambda function -----------------------------------------------------

# What a sensor sees of the function's own environment.
_KEPT = ("PATH", "LD_LIBRARY_PATH", "LANG", "TZ")

# How long the secret is used before it is read again, in seconds: as long as the
# other functions keep theirs.
_KEPT_FOR = 300

_own = None
_read_at = 0
_child = None


class _Child:
    """A worker, and what it was started with."""

    def __init__(self, environment):
        self.environment = environment
        self._asked = 0
        host = os.path.abspath(__file__)
        # What Lambda has installed is found, too.
        command = [sys.executable, host, "--worker", os.path.dirname(host)] + sys.path
        self._process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )

    def lives(self):
        return self._process.poll() is None

    def ask(self, request):
        """The response, and whether the worker can be asked again."""
        self._asked += 1
        line = json.dumps({"number": self._asked, "request": request}).encode("ascii") + b"\n"
        limit = request.get("limits", {}).get("time_ms")
        late = threading.Event()

        def is_late():
            late.set()
            self._kill()

        timer = threading.Timer(limit / 1000, is_late) if limit else None
        if timer is not None:
            timer.start()
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
            answered = self._process.stdout.readline()
        except OSError:
            answered = b""
        finally:
            if timer is not None:
                timer.cancel()
        if late.is_set():
            return {"error": "it did not come back within %g s" % (limit / 1000)}, False
        if not answered.endswith(b"\n"):
            return {"error": "its process ended during the call (%s)" % self.end()}, False
        try:
            answered = json.loads(answered)
            if answered["number"] != self._asked:
                raise ValueError("number %s" % answered["number"])
        except (KeyError, TypeError, ValueError) as error:
            return {"error": "its host answered something else: %s" % error}, False
        return answered["response"], True

    def _kill(self):
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def end(self):
        """Ends it with all that it has started, and says how it ended."""
        try:
            # It may be about to end by itself.
            self._process.wait(0.3)
        except subprocess.TimeoutExpired:
            pass
        self._kill()
        status = self._process.wait()
        self._process.stdout.close()
        try:
            self._process.stdin.close()
        except OSError:
            pass
        return "signal: %d" % -status if status < 0 else "exit status: %d" % status


def _environment():
    """What a sensor sees: what is theirs, which is in Secrets Manager. An error goes
    to the caller: the same call may succeed later."""
    global _own, _read_at
    if _own is None or not 0 <= time.time() - _read_at < _KEPT_FOR:
        arn = os.environ.get("LOOPY_SENSOR_SECRET")
        _own, _read_at = (_secret(arn) if arn else {}), time.time()
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, **_own}


def _secret(arn):
    import boto3

    found = boto3.client("secretsmanager").get_secret_value(SecretId=arn)
    values = json.loads(found["SecretString"])
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise RuntimeError("the secret in LOOPY_SENSOR_SECRET is not a JSON map of texts")
    return values


def handler(event, context):
    """The Lambda handler."""
    global _child, _own
    environment = _environment()
    if _child is not None and (_child.environment != environment or not _child.lives()):
        _child.end()
        _child = None
    if _child is None:
        _child = _Child(environment)
    response, is_whole = _child.ask(event)
    if response.get("unloadable") or response.get("loaded"):
        # What is missing may be there the next time, in a new process, or in the secret.
        is_whole, _own = False, None
    if not is_whole:
        _child.end()
        _child = None
    return response


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] != "--worker":
        sys.exit("usage: loopy_sensors.py --worker PROJECT_DIR [FOLDER_OF_PACKAGES…]")
    # Sensor code may import this module by its name; it must find this one.
    sys.modules["loopy_sensors"] = sys.modules["__main__"]
    _worker(sys.argv[2], sys.argv[3:])
