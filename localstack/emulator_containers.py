"""Lets the emulator run containers: tasks of ECS, images of ECR, builds of CodeBuild.

Each `mend_…` function says what was wrong, as in emulator.py, which calls them when
it is told of a Docker engine.
"""

import contextvars
import io
import json
import logging
import os
import subprocess
import tempfile
import threading
import time
import zipfile
from pathlib import Path

logger = logging.getLogger("containers")


def mend_tasks() -> None:
    """Lets tasks be what ECS makes of them.

    `RunTask` took a client token and started another task under it. Nothing was said
    on the account's bus when a task ended. There is no network of a VPC here, and the
    functions' URLs are on loopback, so a task that asks for one gets the machine's
    own. Capabilities that a definition drops were kept. Of a definition in a template,
    the secrets kept CloudFormation's spelling, and so were not found.
    """
    from ministack.core.responses import error_response_json, get_account_id, get_region
    from ministack.services import ecs, eventbridge
    from ministack.services.cloudformation import provisioners

    run_task, build_kwargs, mark_stopped = ecs._run_task, ecs._build_run_kwargs, ecs._mark_task_stopped
    normalize = provisioners._normalize_container_defs
    # By account, region and token: what was asked for, and what was answered.
    begun = {}
    lock = threading.Lock()

    def run_once(data):
        token = data.get("clientToken")
        if not token:
            return run_task(data)
        asked = json.dumps(data, sort_keys=True)
        with lock:
            key = (get_account_id(), get_region(), token)
            if key in begun:
                before, answer = begun[key]
                if before == asked:
                    return answer
                tasks = [task["taskArn"] for task in json.loads(answer[2])["tasks"]]
                status, headers, body = error_response_json(
                    "ConflictException", "the client token is taken by another request", 400
                )
                return status, headers, json.dumps({**json.loads(body), "resourceIds": tasks}).encode()
            answer = run_task(data)
            if answer[0] < 400:
                begun[key] = (asked, answer)
            return answer

    def kwargs_of(cdef, td, *args, **kwargs):
        made = build_kwargs(cdef, td, *args, **kwargs)
        parameters = cdef.get("linuxParameters") or {}
        capabilities = parameters.get("Capabilities") or parameters.get("capabilities") or {}
        made["cap_drop"] = capabilities.get("Drop") or capabilities.get("drop") or []
        if td.get("networkMode") == "awsvpc":
            for name in ("network", "extra_hosts", "ports"):
                made.pop(name, None)
            made["network_mode"] = "host"
        return made

    def stopped(task_arn, task, *args, **kwargs):
        changed = mark_stopped(task_arn, task, *args, **kwargs)
        if changed:
            event = {
                "Source": "aws.ecs",
                "DetailType": "ECS Task State Change",
                "Resources": [task_arn],
                "Detail": json.dumps(ecs._sanitize(task)),
            }
            eventbridge._put_events({"Entries": [event]}, allow_aws_source=True)
        return changed

    def normalized(definitions):
        made = normalize(definitions)
        for definition in made:
            if "secrets" in definition:
                definition["secrets"] = [
                    {provisioners._cfn_to_camel(key): value for key, value in secret.items()}
                    for secret in definition["secrets"]
                ]
        return made

    ecs._run_task = ecs._ACTION_MAP["RunTask"] = run_once
    ecs._build_run_kwargs = kwargs_of
    ecs._mark_task_stopped = stopped
    provisioners._normalize_container_defs = normalized


def mend_registry(port: int) -> None:
    """Lets a Docker engine push to and pull from a repository.

    A repository was named after a host of AWS, which leads nowhere from here; an
    engine takes a registry without TLS on loopback only. And a request of the
    registry's own protocol, which nobody signs, was looked for in one account.
    """
    from ministack.core.responses import set_request_account_id, set_request_region
    from ministack.services import ecr

    ecr._repo_uri = lambda name: f"127.0.0.1:{port}/{name}"
    select = ecr._select_registry_request_scope

    def select_any(name, headers, query_params):
        select(name, headers, query_params)
        if not name or name in ecr._repositories:
            return
        owners = [
            (account, region)
            for (account, region, stored), _ in ecr._repositories.all_items()
            if stored == name
        ]
        if len(owners) == 1:
            set_request_account_id(owners[0][0])
            set_request_region(owners[0][1])

    ecr._select_registry_request_scope = select_any


def mend_builds(endpoint: str, docker_host: str, tools: str) -> None:
    """Lets CodeBuild build.

    A build was said to have succeeded and was never run. Here its commands are run,
    as a process of this machine, over the zip it is to be built from, with the Docker
    engine and with this emulator as its account.
    """
    from ministack.core.responses import get_account_id, get_region
    from ministack.services import codebuild

    start = codebuild._start_build

    def begin(data):
        status, headers, body = start(data)
        if status >= 400:
            return status, headers, body
        build = codebuild._builds[json.loads(body)["build"]["id"]]
        build.pop("endTime", None)
        build.update(buildStatus="IN_PROGRESS", currentPhase="BUILD", phases=[])
        account, region = get_account_id(), get_region()
        project = codebuild._projects[data["projectName"]]
        context = contextvars.copy_context()
        work = threading.Thread(
            target=context.run, args=(perform, build, project, data, account, region), daemon=True
        )
        work.start()
        return status, headers, json.dumps({"build": build}).encode()

    def perform(build, project, data, account, region):
        try:
            code, said = run(project, data, account, region)
        except Exception as error:
            code, said = 1, repr(error)
        outcome = "SUCCEEDED" if code == 0 else "FAILED"
        logger.info("build %s %s: %s", build["id"], outcome, said)
        phase = {"phaseType": "BUILD", "phaseStatus": outcome, "contexts": [{"message": said[-2000:]}]}
        build.update(buildStatus=outcome, currentPhase="COMPLETED", endTime=int(time.time()), phases=[phase])

    def run(project, data, account, region):
        import boto3

        location = data.get("sourceLocationOverride") or project["source"]["location"]
        bucket, _, key = location.partition("/")
        credentials = {"aws_access_key_id": account, "aws_secret_access_key": "test"}
        s3 = boto3.client("s3", endpoint_url=endpoint, region_name=region, **credentials)
        archive = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        variables = project["environment"].get("environmentVariables", [])
        variables = variables + data.get("environmentVariablesOverride", [])
        spec = json.loads(project["source"]["buildspec"])
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "source")
            unpack(archive, source)
            environment = {
                "PATH": f"{tools}:{os.environ['PATH']}",
                "HOME": folder,
                "DOCKER_HOST": docker_host,
                "AWS_ENDPOINT_URL": endpoint,
                "AWS_REGION": region,
                "AWS_DEFAULT_REGION": region,
                "AWS_ACCESS_KEY_ID": account,
                "AWS_SECRET_ACCESS_KEY": "test",
            }
            environment.update((variable["name"], variable["value"]) for variable in variables)
            commands = "\n".join(["set -e", *spec["phases"]["build"]["commands"]])
            done = subprocess.run(
                ["sh", "-c", commands], cwd=source, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
            )
            return done.returncode, done.stdout

    codebuild._start_build = begin


def unpack(archive: bytes, folder: Path) -> None:
    """Unpacks a zip with the rights of its files, which `zipfile` drops."""
    with zipfile.ZipFile(io.BytesIO(archive)) as packed:
        for entry in packed.infolist():
            path = Path(packed.extract(entry, folder))
            if mode := entry.external_attr >> 16 & 0o777:
                path.chmod(mode)
