"""A small runner: speaks the report protocol, does what the step's body says.

Bodies: `ok` reports success; `wait FILE` first waits until FILE exists;
`vanish FILE` waits for good in the first attempt and reports in later ones.
Each start appends `step attempt pid run` to the file named by LOG in the envelope.
"""

import json
import os
import sys
import time
import urllib.request

env = os.environ
attempt = "/v1/runs/%s/steps/%s/attempts/%s/" % (
    env["LOOPY_RUN_ID"],
    env["LOOPY_STEP"],
    env["LOOPY_ATTEMPT"],
)


def ask(leaf, body=None):
    for _ in range(300):
        url = env["LOOPY_REPORT_URL"]
        try:
            if url.startswith("file://"):
                url = open(url[len("file://") :]).read().strip()
            request = urllib.request.Request(url + attempt + leaf)
            request.add_header("Authorization", "Bearer " + env["LOOPY_TOKEN"])
            if body is not None:
                request.data = json.dumps(body).encode()
            return json.load(urllib.request.urlopen(request, timeout=5))
        except urllib.error.HTTPError as error:
            if error.code < 500:
                sys.exit("refused: %d" % error.code)
        except OSError:
            pass
        time.sleep(0.1)
    sys.exit("nobody answers")


envelope = ask("envelope")
with open(envelope["env"].get("LOG", os.devnull), "a") as log:
    start = (envelope["step"], envelope["attempt"], os.getpid(), envelope["run"])
    log.write("%s %s %d %s\n" % start)
verb, _, path = envelope["body"].partition(" ")
if verb == "wait":
    while not os.path.exists(path):
        time.sleep(0.05)
if verb == "vanish" and envelope["attempt"] == 1:
    time.sleep(600)
said = json.dumps(envelope["values"], sort_keys=True)
fill = lambda contract: {
    name: len(said) if field["type"] == "integer" else said
    for name, field in contract["fields"].items()
}
ask(
    "result",
    {
        "outcome": {
            "kind": "succeeded",
            "output": fill(envelope["output"]),
            "emits": {name: fill(contract) for name, contract in envelope["emits"].items()},
        },
        "usage": {"usd": 0.25, "input_tokens": 1, "output_tokens": 2, "turns": 1},
        "duration_ms": 1,
    },
)
