"""Serves the AWS emulator (MiniStack) for the end-to-end tests.

    python localstack/emulator.py --port 4566

The emulator is used as it is published, at the exact version in
requirements.txt. What it gets wrong and a test would trip over is mended below,
in the running process; each `mend_…` function says what was wrong. A new version
of the emulator wants each of them looked at again.
"""

import argparse
import asyncio
import base64
import json
import logging
import math
import os
import signal
import socketserver
import sys
import threading
import time
from datetime import datetime, timedelta, timezone
from importlib.metadata import version
from zoneinfo import ZoneInfo

import emulator_containers

MINISTACK_VERSION = "1.5.33"

# What the root of every account signs with where signatures are checked.
SECRET = "secret"

# How often schedules are looked at, in seconds.
SCHEDULE_TICK = 0.5

# All that a function may see of this machine's environment. The emulator hands
# its own environment on to functions, so a variable that a stack forgot to set
# would be found by accident, and a developer's secrets with it.
KEPT_ENVIRONMENT = {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR"}


def set_environment(endpoint: str, port: int, region: str, docker_host: str | None, enforce: bool) -> None:
    """Sets all that the emulator reads while it is imported."""
    for name in list(os.environ):
        if name not in KEPT_ENVIRONMENT:
            del os.environ[name]
    os.environ.update(
        # Functions are processes of this machine.
        LAMBDA_EXECUTOR="local",
        # Without an engine nothing may go looking for one.
        DOCKER_HOST=docker_host or "unix:///nonexistent/docker.sock",
        IOT_MTLS_ENABLED="0",
        GATEWAY_PORT=str(port),
        MINISTACK_REGION=region,
        LOG_LEVEL="INFO",
        # Handed on to functions: they call back here.
        AWS_ENDPOINT_URL=endpoint,
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY=SECRET if enforce else "test",
        # Whether signatures are checked, and what the policies of roles and resources say.
        AUTH=str(enforce).lower(),
    )


def mend_slow_invokes() -> None:
    """Takes about 90 ms of waiting out of every invoke.

    The runtime API writes headers and body apart, which Nagle's algorithm and a
    delayed acknowledgement turn into 40 ms; and after each invoke 50 ms were
    waited for a first log line of a handler that logs nothing.
    """
    from ministack.core.lambda_runtime import Worker

    socketserver.StreamRequestHandler.disable_nagle_algorithm = True

    drain = Worker._drain_stderr_bounded

    def drain_briefly(self, first_line_wait=0.003, idle_confirm=0.002, hard_cap=0.25):
        return drain(self, first_line_wait, idle_confirm, hard_cap)

    Worker._drain_stderr_bounded = drain_briefly


class ScheduleClock:
    """Fires schedules when they are due.

    Mends four faults of the emulator's own loop: it looked only every ten
    seconds, took every time zone for UTC, never fired a one-time schedule whose
    name had been used before, and handed `<aws.scheduler.…>` on as it stands.
    """

    def __init__(self, scheduler, eventbridge):
        self._scheduler = scheduler
        self._eventbridge = eventbridge
        # For each schedule: which version of it fired last, and for what time.
        self._fired = {}

    def tick(self) -> None:
        """Fires what is due now, each under the account it belongs to."""
        now = datetime.now(timezone.utc)
        schedules = self._scheduler._schedules._data
        for gone in self._fired.keys() - schedules.keys():
            del self._fired[gone]
        account = self._scheduler.get_account_id()
        region = self._scheduler.get_region()
        try:
            for key, schedule in list(schedules.items()):
                try:
                    self._consider(key, schedule, now)
                except Exception:
                    self._scheduler.logger.exception("schedule %s", key)
        finally:
            self._scheduler.set_request_account_id(account)
            self._scheduler.set_request_region(region)

    def _consider(self, key, schedule, now) -> None:
        if schedule.get("State") != "ENABLED":
            return
        begin = self._scheduler._to_epoch(schedule.get("StartDate"))
        end = self._scheduler._to_epoch(schedule.get("EndDate"))
        if begin is not None and now.timestamp() < begin:
            return
        if end is not None and now.timestamp() > end:
            self._complete(key, schedule)
            return
        # A schedule that was deleted and made again, or changed, is a new one.
        identity = (schedule["CreationDate"], schedule["LastModificationDate"])
        last = self._fired.get(key)
        last = last[1] if last and last[0] == identity else None
        time_due = self._next_time(schedule, last)
        if time_due is None or now < time_due:
            return
        self._fired[key] = (identity, time_due)
        self._dispatch(key, schedule, time_due)
        if schedule["ScheduleExpression"].strip().startswith("at("):
            self._complete(key, schedule)

    def _next_time(self, schedule, last):
        """The first time after `last` at which the schedule fires, or None."""
        expression = schedule.get("ScheduleExpression", "").strip()
        zone = ZoneInfo(schedule.get("ScheduleExpressionTimezone") or "UTC")
        if expression.startswith("at(") and expression.endswith(")"):
            if last is not None:
                return None
            return datetime.fromisoformat(expression[3:-1].strip()).replace(tzinfo=zone)
        since = last or datetime.fromtimestamp(float(schedule["LastModificationDate"]), timezone.utc)
        seconds = self._eventbridge._parse_rate_seconds(expression)
        if seconds is not None:
            return since + timedelta(seconds=seconds)
        fields = self._eventbridge._parse_cron_fields(expression)
        if fields is None:
            return None
        return self._next_cron_time(fields, since, zone)

    def _next_cron_time(self, fields, since, zone):
        """Cron counts by the clock on the wall of `zone`."""
        wall = since.astimezone(zone).replace(tzinfo=timezone.utc)
        while (wall := self._eventbridge._cron_next_fire(fields, wall)) is not None:
            moment = wall.replace(tzinfo=zone).astimezone(timezone.utc)
            # A wall time that a change to summer time leaves out never comes.
            exists = moment.astimezone(zone).replace(tzinfo=timezone.utc) == wall
            if exists and moment > since:
                return moment
        return None

    def _dispatch(self, key, schedule, time_due) -> None:
        account, region, _ = key
        execution = self._scheduler.new_uuid()
        target = dict(schedule["Target"])
        for name, value in {
            "schedule-arn": schedule["Arn"],
            "scheduled-time": time_due.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "execution-id": execution,
            "attempt-number": "1",
        }.items():
            if target.get("Input"):
                target["Input"] = target["Input"].replace(f"<aws.scheduler.{name}>", value)
        event = {
            "EventId": execution,
            "Source": "aws.scheduler",
            "DetailType": "Scheduled Event",
            "Detail": "{}",
            "Time": time.time(),
            "Resources": [schedule["Arn"]],
            "Account": account,
            "Region": region,
        }
        self._scheduler.set_request_account_id(account)
        self._scheduler.set_request_region(region)
        self._eventbridge._invoke_target(target, event, schedule)

    def _complete(self, key, schedule) -> None:
        if schedule.get("ActionAfterCompletion") == "DELETE":
            self._scheduler._schedules._data.pop(key, None)
            self._fired.pop(key, None)


def mend_schedules() -> None:
    """Puts `ScheduleClock` in the place of the emulator's own loop."""
    from ministack.services import eventbridge, scheduler

    scheduler._SCHEDULE_TICK_INTERVAL = SCHEDULE_TICK
    scheduler._tick_schedules = ScheduleClock(scheduler, eventbridge).tick


def mend_cloudformation_schedules() -> None:
    """Lets CloudFormation make schedules with all their properties.

    Time zone, dates and the action after completion were dropped, and a refusal
    (an unknown group) still gave CREATE_COMPLETE.
    """
    from ministack.services import scheduler
    from ministack.services.cloudformation import provisioners

    handlers = provisioners._RESOURCE_HANDLERS["AWS::Scheduler::Schedule"]
    remove = handlers["delete"]

    def call(operation, name, properties):
        body = {key: value for key, value in properties.items() if key != "Name"}
        status, _, answer = operation(name, body)
        if status >= 400:
            raise ValueError(f"AWS::Scheduler::Schedule {name}: {answer.decode()}")
        group = properties.get("GroupName", "default")
        return name, {"Arn": scheduler._schedule_arn(group, name)}

    def create(logical_id, properties, stack):
        name = properties.get("Name") or provisioners._physical_name(stack, logical_id, max_len=64)
        return call(scheduler._create_schedule, name, properties)

    def update(physical_id, old, new, stack, logical_id=None):
        moved = old.get("GroupName", "default") != new.get("GroupName", "default")
        if new.get("Name", physical_id) != physical_id or moved:
            made = create(logical_id or physical_id, {"Name": physical_id, **new}, stack)
            remove(physical_id, old)
            return made
        return call(scheduler._update_schedule, physical_id, new)

    handlers.update(create=create, update=update, update_with_logical_id=True)


def mend_cloudformation_tables() -> None:
    """Lets CloudFormation set a table's time to live and its backups; both were
    dropped."""
    from ministack.services import dynamodb
    from ministack.services.cloudformation import provisioners

    handlers = provisioners._RESOURCE_HANDLERS["AWS::DynamoDB::Table"]

    def finish(name, properties):
        for option, setting in (
            ("TimeToLiveSpecification", dynamodb._update_ttl),
            ("PointInTimeRecoverySpecification", dynamodb._update_continuous_backups),
        ):
            if option not in properties:
                continue
            # Templates write booleans as text too.
            values = {k: v == "true" if v in ("true", "false") else v for k, v in properties[option].items()}
            status, _, answer = setting({"TableName": name, option: values})
            if status >= 400:
                raise ValueError(f"AWS::DynamoDB::Table {name}: {answer.decode()}")

    def then_finish(operation, properties_at):
        def run(*args, **kwargs):
            result = operation(*args, **kwargs)
            finish(result[0], args[properties_at])
            return result

        return run

    handlers["create"] = then_finish(handlers["create"], 1)
    handlers["update"] = then_finish(handlers["update"], 2)


def mend_cloudformation_nested_changes() -> None:
    """Lists each stack inside a stack among the changes of a change set, as AWS does: its
    template might have changed under the same address. It was left out when nothing of
    the resource itself had changed."""
    from ministack.services.cloudformation import changesets

    diff = changesets._diff_resources

    def listed(old_template, new_template, resources=None, *args, **kwargs):
        changes = diff(old_template, new_template, resources, *args, **kwargs)
        known = {change["ResourceChange"]["LogicalResourceId"] for change in changes}
        old = old_template.get("Resources", {})
        for name, resource in new_template.get("Resources", {}).items():
            kind = resource.get("Type")
            if kind != "AWS::CloudFormation::Stack" or name not in old or name in known:
                continue
            target = {"Attribute": "Properties", "RequiresRecreation": "Never"}
            change = {
                "Action": "Modify",
                "LogicalResourceId": name,
                "PhysicalResourceId": (resources or {}).get(name, {}).get("PhysicalResourceId", ""),
                "ResourceType": kind,
                "Replacement": "False",
                "Scope": ["Properties"],
                "Details": [{"Target": target, "Evaluation": "Dynamic", "ChangeSource": "Automatic"}],
            }
            changes.append({"ResourceChange": change})
        return changes

    changesets._diff_resources = listed


def mend_transport() -> None:
    """Takes each request for one over TLS: what is said here is said on one machine,
    and a policy that refuses plain HTTP would refuse everything."""
    from ministack import app
    from ministack.core import iam_evaluator

    pin = iam_evaluator.pin_request_origin

    def pin_secure(source_ip, secure_transport):
        pin(source_ip, True)

    iam_evaluator.pin_request_origin = pin_secure
    app.pin_request_origin = pin_secure


def mend_schedule_names() -> None:
    """Takes a schedule for one of its group where a role is asked whether it may; all
    were taken for schedules of the group `default`."""
    from ministack.core import iam_actions

    name = iam_actions.extract_resource_arn

    def named(service, method, path, headers, body, query_params, region, account_id):
        arn = name(service, method, path, headers, body, query_params, region, account_id)
        before, default, schedule = arn.partition(":schedule/default/")
        if service != "scheduler" or not default:
            return arn
        group = query_params.get("groupName")
        group = group[0] if isinstance(group, list) else group
        if not group and body:
            group = json.loads(body).get("GroupName")
        return f"{before}:schedule/{group or 'default'}/{schedule}"

    iam_actions.extract_resource_arn = named


def mend_cloudformation_roles() -> None:
    """Lets CloudFormation bound roles; a permissions boundary was dropped."""
    from ministack.services import iam
    from ministack.services.cloudformation import provisioners

    handlers = provisioners._RESOURCE_HANDLERS["AWS::IAM::Role"]

    def bound(name, properties):
        boundary = properties.get("PermissionsBoundary")
        if boundary:
            change = {"RoleName": name, "PermissionsBoundary": boundary}
            status, _, answer = iam._put_role_permissions_boundary(change)
            if status >= 400:
                raise ValueError(f"AWS::IAM::Role {name}: {answer.decode()}")
        else:
            iam._roles.get(name)["PermissionsBoundary"] = None

    def then_bound(operation, properties_at):
        def run(*args, **kwargs):
            result = operation(*args, **kwargs)
            bound(result[0], args[properties_at])
            return result

        return run

    handlers["create"] = then_bound(handlers["create"], 1)
    handlers["update"] = then_bound(handlers["update"], 2)


class Calls:
    """Counts what AWS would bill: requests, invocations with their time, units of
    the table. What a queue's mapping receives and deletes by itself counts too."""

    def __init__(self):
        self._lock = threading.Lock()
        self._counts = {}
        # Of each item: its size, and what the index holds of it.
        self._items = {}

    def add(self, what: str, amount: float = 1) -> None:
        with self._lock:
            self._counts[what] = self._counts.get(what, 0) + amount

    def watch(self) -> None:
        """Looks at what happens inside of the emulator."""
        from ministack.core import lambda_runtime
        from ministack.services import sqs

        receive, delete = sqs._receive_messages_for_esm, sqs._delete_messages_for_esm

        def received(*args, **kwargs):
            if batch := receive(*args, **kwargs):
                self.add("sqs ReceiveMessage")
            return batch

        def deleted(*args, **kwargs):
            self.add("sqs DeleteMessage")
            return delete(*args, **kwargs)

        sqs._receive_messages_for_esm, sqs._delete_messages_for_esm = received, deleted
        for worker in (lambda_runtime.Worker, lambda_runtime.ProvidedWorker):
            worker.invoke = self._timed(worker.invoke)

    def _timed(self, invoke):
        def timed(worker, *args, **kwargs):
            begin = time.monotonic()
            try:
                return invoke(worker, *args, **kwargs)
            finally:
                memory = int(worker.config.get("MemorySize", 128)) / 1024
                self.add(f"lambda invocation {worker.func_name}")
                self.add("lambda GB-s", (time.monotonic() - begin) * memory)

        return timed

    def around(self, app):
        """The application, with each request counted."""

        async def counted(scope, receive, send):
            if scope["type"] != "http":
                return await app(scope, receive, send)
            if scope["path"] == "/_loopy/calls":
                return await self._tell(send)
            parts = []

            async def received():
                message = await receive()
                parts.append(message.get("body", b""))
                return message

            await app(scope, received, send)
            headers = {name.decode().lower(): value.decode("latin-1") for name, value in scope["headers"]}
            self._request(scope["method"], scope["path"], headers, b"".join(parts))

        return counted

    def _request(self, method: str, path: str, headers: dict, body: bytes) -> None:
        if "/_aws/lambda-url/" in path:
            return
        # AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, …
        scope = headers.get("authorization", "").partition("Credential=")[2].split("/")
        service = scope[3] if len(scope) > 3 else "?"
        operation = headers.get("x-amz-target", "").rpartition(".")[2]
        if not operation:
            operation = {"POST": "Create", "GET": "Get", "PUT": "Put", "DELETE": "Delete"}.get(method, method)
            operation += {"scheduler": "Schedule", "s3": "Object", "lambda": "Invocation"}.get(service, "")
        self.add(f"{service} {operation}")
        if service == "dynamodb":
            self._units(operation, json.loads(body))

    def _units(self, operation: str, request: dict) -> None:
        if operation == "GetItem":
            key = tuple(sorted(value["S"] for value in request["Key"].values()))
            size = self._items.get(key, (1, None))[0]
            per_read = 1 if request.get("ConsistentRead") else 0.5
            self.add("dynamodb RRU", per_read * math.ceil(size / 4096))
        elif operation == "UpdateItem":
            self.add("dynamodb WRU")
        elif operation == "PutItem":
            item = request["Item"]
            key = tuple(sorted([item["pk"]["S"], item["sk"]["S"]]))
            size = sum(len(name) + self._size(value) for name, value in item.items())
            before, entry_before = self._items.get(key, (1, None))
            # The larger of what was there and what is there now.
            self.add("dynamodb WRU", math.ceil(max(size, before) / 1024))
            self.add("dynamodb bytes", size)
            projected = ("runs_pk", "runs_sk", "summary", "workflow", "status")
            entry = {name: item[name] for name in ("pk", "sk", *projected) if name in item}
            entry = entry if "runs_pk" in entry else None
            if entry is not None and entry != entry_before:
                size_of_entry = sum(len(name) + self._size(value) for name, value in entry.items())
                self.add("dynamodb WRU", math.ceil(size_of_entry / 1024))
                self.add("dynamodb index writes")
            self._items[key] = (size, entry)

    @staticmethod
    def _size(value: dict) -> int:
        kind, content = next(iter(value.items()))
        return len(base64.b64decode(content)) if kind == "B" else len(content.encode())

    async def _tell(self, send) -> None:
        with self._lock:
            runs = {}
            for (key, *_), (_, entry) in self._items.items():
                if key.startswith("RUN") and entry is not None and "status" in entry:
                    status = entry["status"]["S"]
                    runs[status] = runs.get(status, 0) + 1
            body = json.dumps({"calls": self._counts, "runs": runs}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def serve(bind: str, port: int, until_stdin_closes: bool, calls: Calls | None) -> None:
    """Serves until a signal, or until standard input ends."""
    from hypercorn.asyncio import serve as serve_app
    from hypercorn.config import Config
    from ministack.app import app

    if calls is not None:
        app = calls.around(app)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    if until_stdin_closes:

        def watch() -> None:
            while os.read(sys.stdin.fileno(), 4096):
                pass
            loop.call_soon_threadsafe(stop.set)
            # What hangs in a request must not keep this process: its parent is gone.
            time.sleep(5)
            end_group(signal.SIGKILL)

        threading.Thread(target=watch, daemon=True).start()

    config = Config()
    config.bind = [f"{bind}:{port}"]
    config.keep_alive_timeout = 75
    config.graceful_timeout = 1
    config.accesslog = None
    config.errorlog = "-"
    await serve_app(app, config, shutdown_trigger=stop.wait)


def end_group(number: int) -> None:
    """Signals this process and the functions it started, if they are a group of
    their own (they are when `cargo xtask` starts it)."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=4566)
    parser.add_argument("--bind", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--region", default="eu-west-1", help="region of requests that name none")
    parser.add_argument(
        "--until-stdin-closes",
        action="store_true",
        help="end when standard input does, so that it never outlives what started it",
    )
    parser.add_argument("--docker-host", help="Docker engine that runs tasks and builds images; none without it")
    parser.add_argument(
        "--enforce",
        action="store_true",
        help="check signatures, and let a role do only what its policies say",
    )
    parser.add_argument(
        "--count-calls",
        action="store_true",
        help="count what AWS would bill, told at /_loopy/calls",
    )
    args = parser.parse_args()
    if (found := version("ministack")) != MINISTACK_VERSION:
        sys.exit(f"ministack {found} is installed, the mends here are for {MINISTACK_VERSION}; see requirements.txt")
    endpoint = f"http://127.0.0.1:{args.port}"
    set_environment(endpoint, args.port, args.region, args.docker_host, args.enforce)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    mend_slow_invokes()
    mend_schedules()
    mend_cloudformation_schedules()
    mend_cloudformation_tables()
    mend_cloudformation_roles()
    mend_cloudformation_nested_changes()
    if args.enforce:
        mend_transport()
        mend_schedule_names()
    if args.docker_host:
        emulator_containers.mend_tasks()
        emulator_containers.mend_registry(args.port)
        emulator_containers.mend_builds(endpoint, args.docker_host, os.path.dirname(sys.executable))
    calls = Calls() if args.count_calls else None
    if calls is not None:
        calls.watch()
    status = 0
    try:
        asyncio.run(serve(args.bind, args.port, args.until_stdin_closes, calls))
    except Exception:
        logging.exception("the emulator ended")
        status = 1
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_group(signal.SIGTERM)
    # At once: the threads of functions that still run are not waited for.
    logging.shutdown()
    os._exit(status)


if __name__ == "__main__":
    main()
