BEGIN TRANSACTION;
CREATE TABLE dead_letters (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    queue     TEXT NOT NULL,
    body      TEXT NOT NULL,
    reason    TEXT NOT NULL,
    receives  INTEGER NOT NULL,
    buried_at TEXT NOT NULL
) STRICT;
CREATE TABLE manifests (
    hash    TEXT PRIMARY KEY,
    json    TEXT NOT NULL,
    -- 1 for the one that new runs begin with.
    current INTEGER NOT NULL
) STRICT;
INSERT INTO "manifests" VALUES('93b0e787e1e57b6ba89db2a9f4c360a2bf951decdb4c3dae21e25f5ec3d41c72','{
  "hash": "93b0e787e1e57b6ba89db2a9f4c360a2bf951decdb4c3dae21e25f5ec3d41c72",
  "lineage": {
    "events": {
      "Greeted": {
        "consumers": [
          "record/keep"
        ],
        "producers": [
          "greet/measure"
        ]
      },
      "Hello": {
        "consumers": [
          "greet/compose"
        ],
        "producers": [
          "hello"
        ]
      }
    }
  },
  "loopy_version": "0.1.0",
  "registry": {
    "agents": {
      "Shell": {
        "harness": "command",
        "model": null,
        "sandbox": "Here",
        "skills": []
      }
    },
    "events": {
      "Greeted": {
        "fields": {
          "greeting": {
            "type": "string"
          },
          "length": {
            "type": "integer"
          }
        }
      },
      "Hello": {
        "fields": {
          "name": {
            "type": "string"
          }
        }
      }
    },
    "sandboxes": {
      "Here": {
        "env_file": [],
        "image": {},
        "network": [],
        "provider": "local",
        "repos": []
      }
    }
  },
  "schema_version": "3",
  "sensor_files": {
    "sensors/hello.py": "9f839c50658eda1e6efec59f9158b38236ad5716b10a33f15760b4424d3b396a"
  },
  "sensors": [
    {
      "emits": "Hello",
      "fn": "hello",
      "module": "sensors.hello",
      "name": "hello",
      "provider": null,
      "source": "module",
      "trigger": {
        "kind": "webhook",
        "path": "/hooks/hello",
        "verify": "none"
      }
    }
  ],
  "skills": {},
  "workflows": {
    "greet": {
      "entry": "compose",
      "steps": {
        "compose": {
          "after": [],
          "agent": "Shell",
          "body": "# The body of a `command` step is a script. A reference becomes an environment\n# variable, so quotes or `$(…)` in a name stay text.\nname={{ event.name }}\nquoted=$(printf ''%s'' \"Hello, $name!\" | sed ''s/[\\\\\"]/\\\\&/g'')\nprintf ''{\"output\": {\"greeting\": \"%s\"}}'' \"$quoted\" > \"$LOOPY_OUTPUT\"",
          "budget": null,
          "emits": [],
          "id": "greet/compose",
          "output": {
            "greeting": {
              "type": "string"
            }
          },
          "refs": [
            {
              "field": "name",
              "producer": "event",
              "raw": "{{ event.name }}"
            }
          ],
          "trigger": {
            "event": "Hello",
            "kind": "event"
          }
        },
        "measure": {
          "after": [
            "compose"
          ],
          "agent": "Shell",
          "body": "greeting={{ compose.greeting }}\nquoted=$(printf ''%s'' \"$greeting\" | sed ''s/[\\\\\"]/\\\\&/g'')\ncat > \"$LOOPY_OUTPUT\" <<JSON\n{\n  \"output\": { \"length\": ${#greeting} },\n  \"emits\": { \"Greeted\": { \"greeting\": \"$quoted\", \"length\": ${#greeting} } }\n}\nJSON",
          "budget": null,
          "emits": [
            "Greeted"
          ],
          "id": "greet/measure",
          "output": {
            "length": {
              "type": "integer"
            }
          },
          "refs": [
            {
              "field": "greeting",
              "producer": "compose",
              "raw": "{{ compose.greeting }}"
            }
          ],
          "trigger": null
        }
      }
    },
    "record": {
      "entry": "keep",
      "steps": {
        "keep": {
          "after": [],
          "agent": "Shell",
          "body": "greeting={{ event.greeting }}\nquoted=$(printf ''%s'' \"$greeting\" | sed ''s/[\\\\\"]/\\\\&/g'')\nprintf ''{\"output\": {\"line\": \"%s (%s letters)\"}}'' \"$quoted\" \"{{ event.length }}\" > \"$LOOPY_OUTPUT\"",
          "budget": null,
          "emits": [],
          "id": "record/keep",
          "output": {
            "line": {
              "type": "string"
            }
          },
          "refs": [
            {
              "field": "greeting",
              "producer": "event",
              "raw": "{{ event.greeting }}"
            },
            {
              "field": "length",
              "producer": "event",
              "raw": "{{ event.length }}"
            }
          ],
          "trigger": {
            "event": "Greeted",
            "kind": "event"
          }
        }
      }
    }
  }
}
',0);
INSERT INTO "manifests" VALUES('39e7998f3857522b1c9b12a7002680227ddaf9417cee74ffe25789282b340e68','{
  "hash": "39e7998f3857522b1c9b12a7002680227ddaf9417cee74ffe25789282b340e68",
  "lineage": {
    "events": {
      "Greeted": {
        "consumers": [
          "record/keep"
        ],
        "producers": [
          "greet/measure"
        ]
      },
      "Hello": {
        "consumers": [
          "greet/compose"
        ],
        "producers": [
          "hello"
        ]
      }
    }
  },
  "loopy_version": "0.1.0",
  "registry": {
    "agents": {
      "Shell": {
        "harness": "command",
        "model": null,
        "sandbox": "Here",
        "skills": []
      }
    },
    "events": {
      "Greeted": {
        "fields": {
          "greeting": {
            "type": "string"
          },
          "length": {
            "type": "integer"
          }
        }
      },
      "Hello": {
        "fields": {
          "name": {
            "type": "string"
          }
        }
      }
    },
    "sandboxes": {
      "Here": {
        "env_file": [],
        "image": {},
        "network": [],
        "provider": "local",
        "repos": []
      }
    }
  },
  "schema_version": "3",
  "sensor_files": {
    "sensors/hello.py": "9f839c50658eda1e6efec59f9158b38236ad5716b10a33f15760b4424d3b396a"
  },
  "sensors": [
    {
      "emits": "Hello",
      "fn": "hello",
      "module": "sensors.hello",
      "name": "hello",
      "provider": null,
      "source": "module",
      "trigger": {
        "kind": "webhook",
        "path": "/hooks/hello",
        "verify": "none"
      }
    }
  ],
  "skills": {},
  "workflows": {
    "greet": {
      "entry": "compose",
      "steps": {
        "compose": {
          "after": [],
          "agent": "Shell",
          "body": "# The body of a `command` step is a script. A reference becomes an environment\n# variable, so quotes or `$(…)` in a name stay text.\nname={{ event.name }}\nquoted=$(printf ''%s'' \"Hello, $name!\" | sed ''s/[\\\\\"]/\\\\&/g'')\nprintf ''{\"output\": {\"greeting\": \"%s\"}}'' \"$quoted\" > \"$LOOPY_OUTPUT\"",
          "budget": null,
          "emits": [],
          "id": "greet/compose",
          "output": {
            "greeting": {
              "type": "string"
            }
          },
          "refs": [
            {
              "field": "name",
              "producer": "event",
              "raw": "{{ event.name }}"
            }
          ],
          "trigger": {
            "event": "Hello",
            "kind": "event"
          }
        },
        "measure": {
          "after": [
            "compose"
          ],
          "agent": "Shell",
          "body": "greeting={{ compose.greeting }}\nwhile [ ! -e \"$LOOPY_WORKSPACE/../../../go\" ] && [ $((i=i+1)) -lt 600 ]; do sleep 0.05; done\nquoted=$(printf ''%s'' \"$greeting\" | sed ''s/[\\\\\"]/\\\\&/g'')\ncat > \"$LOOPY_OUTPUT\" <<JSON\n{\n  \"output\": { \"length\": ${#greeting} },\n  \"emits\": { \"Greeted\": { \"greeting\": \"$quoted\", \"length\": ${#greeting} } }\n}\nJSON",
          "budget": null,
          "emits": [
            "Greeted"
          ],
          "id": "greet/measure",
          "output": {
            "length": {
              "type": "integer"
            }
          },
          "refs": [
            {
              "field": "greeting",
              "producer": "compose",
              "raw": "{{ compose.greeting }}"
            }
          ],
          "trigger": null
        }
      }
    },
    "record": {
      "entry": "keep",
      "steps": {
        "keep": {
          "after": [],
          "agent": "Shell",
          "body": "greeting={{ event.greeting }}\nquoted=$(printf ''%s'' \"$greeting\" | sed ''s/[\\\\\"]/\\\\&/g'')\nprintf ''{\"output\": {\"line\": \"%s (%s letters)\"}}'' \"$quoted\" \"{{ event.length }}\" > \"$LOOPY_OUTPUT\"",
          "budget": null,
          "emits": [],
          "id": "record/keep",
          "output": {
            "line": {
              "type": "string"
            }
          },
          "refs": [
            {
              "field": "greeting",
              "producer": "event",
              "raw": "{{ event.greeting }}"
            },
            {
              "field": "length",
              "producer": "event",
              "raw": "{{ event.length }}"
            }
          ],
          "trigger": {
            "event": "Greeted",
            "kind": "event"
          }
        }
      }
    }
  }
}
',1);
CREATE TABLE messages (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    key        TEXT UNIQUE,
    queue      TEXT NOT NULL,
    body       TEXT NOT NULL,
    visible_ms INTEGER NOT NULL,
    receives   INTEGER NOT NULL DEFAULT 0,
    leased     INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO "messages" VALUES(17,'greet-152bfd894c7771c0/measure/1','watch','{"kind":"time_limit","run":"greet-152bfd894c7771c0","step":"measure","attempt":1}',1795257697924,0,0);
CREATE TABLE runs (
    id         TEXT PRIMARY KEY,
    version    INTEGER NOT NULL,
    workflow   TEXT NOT NULL,
    status     TEXT NOT NULL,
    cascade    TEXT NOT NULL,
    created_us INTEGER NOT NULL,
    -- 1 from a commit until its effects are known to be performed.
    unsettled  INTEGER NOT NULL,
    summary    TEXT NOT NULL,
    run        TEXT NOT NULL
) STRICT;
INSERT INTO "runs" VALUES('greet-d1aab97af18ce4e9',7,'greet','succeeded','hand-2cf7c98c09de36ec2e916ae6',1795253797737007,0,'{"id":"greet-d1aab97af18ce4e9","workflow":"greet","status":"succeeded","event":"Hello","event_id":"hand-2cf7c98c09de36ec2e916ae6","cascade":"hand-2cf7c98c09de36ec2e916ae6","created_at":"2026-11-21T09:36:37.73700774Z","ended_at":"2026-11-21T09:36:37.811601386Z","cost_usd":0.0}','{"schema":1,"id":"greet-d1aab97af18ce4e9","workflow":"greet","manifest":"93b0e787e1e57b6ba89db2a9f4c360a2bf951decdb4c3dae21e25f5ec3d41c72","event":{"id":"hand-2cf7c98c09de36ec2e916ae6","name":"Hello","fields":{"name":"Ada"},"source":{"kind":"hand"},"emitted_at":"2026-11-21T09:36:37.729124099Z","cascade":"hand-2cf7c98c09de36ec2e916ae6","depth":0},"status":{"kind":"succeeded"},"steps":{"compose":{"state":{"kind":"succeeded","attempt":1,"output":{"greeting":"Hello, Ada!"}},"attempts":[{"number":1,"started_at":"2026-11-21T09:36:37.738184716Z","ended_at":"2026-11-21T09:36:37.774161451Z","usage":{"usd":null,"input_tokens":0,"output_tokens":0,"turns":0},"failure":null,"sandbox":{"provider":"local","id":"loopy-19a2a72ee3c8e29d11e1227b59711bbf"}}]},"measure":{"state":{"kind":"succeeded","attempt":1,"output":{"length":11}},"attempts":[{"number":1,"started_at":"2026-11-21T09:36:37.776358658Z","ended_at":"2026-11-21T09:36:37.811601386Z","usage":{"usd":null,"input_tokens":0,"output_tokens":0,"turns":0},"failure":null,"sandbox":{"provider":"local","id":"loopy-9d398fb04fdce3915ec743393f3bdca0"}}]}},"created_at":"2026-11-21T09:36:37.73700774Z","ended_at":"2026-11-21T09:36:37.811601386Z","history":[{"at":"2026-11-21T09:36:37.73700774Z","kind":"run_started","note":"on Hello (hand-2cf7c98c09de36ec2e916ae6)"},{"at":"2026-11-21T09:36:37.738184716Z","kind":"step_started","step":"compose","attempt":1,"note":"limit 3600 s"},{"at":"2026-11-21T09:36:37.774161451Z","kind":"step_succeeded","step":"compose","attempt":1,"note":""},{"at":"2026-11-21T09:36:37.776358658Z","kind":"step_started","step":"measure","attempt":1,"note":"limit 3600 s"},{"at":"2026-11-21T09:36:37.811601386Z","kind":"step_succeeded","step":"measure","attempt":1,"note":""},{"at":"2026-11-21T09:36:37.811601386Z","kind":"event_emitted","step":"measure","attempt":1,"note":"Greeted (evt-8114ad2be4b8c9a233276c97)"},{"at":"2026-11-21T09:36:37.811601386Z","kind":"run_succeeded","note":""}],"pending":[{"cause":"compose/1","effect":{"kind":"disarm_time_limit","step":"compose","attempt":1}},{"cause":"compose/1","effect":{"kind":"stop","sandbox":{"provider":"local","id":"loopy-19a2a72ee3c8e29d11e1227b59711bbf"}}},{"cause":"measure/1","effect":{"kind":"publish","event":{"id":"evt-8114ad2be4b8c9a233276c97","name":"Greeted","fields":{"greeting":"Hello, Ada!","length":11},"source":{"kind":"step","run":"greet-d1aab97af18ce4e9","step":"measure"},"emitted_at":"2026-11-21T09:36:37.811601386Z","cascade":"hand-2cf7c98c09de36ec2e916ae6","depth":1}}},{"cause":"measure/1","effect":{"kind":"disarm_time_limit","step":"measure","attempt":1}},{"cause":"measure/1","effect":{"kind":"stop","sandbox":{"provider":"local","id":"loopy-9d398fb04fdce3915ec743393f3bdca0"}}}]}');
INSERT INTO "runs" VALUES('record-0bf89c3f9bf8bfc3',4,'record','succeeded','hand-2cf7c98c09de36ec2e916ae6',1795253797813729,0,'{"id":"record-0bf89c3f9bf8bfc3","workflow":"record","status":"succeeded","event":"Greeted","event_id":"evt-8114ad2be4b8c9a233276c97","cascade":"hand-2cf7c98c09de36ec2e916ae6","created_at":"2026-11-21T09:36:37.813729567Z","ended_at":"2026-11-21T09:36:37.84961556Z","cost_usd":0.0}','{"schema":1,"id":"record-0bf89c3f9bf8bfc3","workflow":"record","manifest":"93b0e787e1e57b6ba89db2a9f4c360a2bf951decdb4c3dae21e25f5ec3d41c72","event":{"id":"evt-8114ad2be4b8c9a233276c97","name":"Greeted","fields":{"greeting":"Hello, Ada!","length":11},"source":{"kind":"step","run":"greet-d1aab97af18ce4e9","step":"measure"},"emitted_at":"2026-11-21T09:36:37.811601386Z","cascade":"hand-2cf7c98c09de36ec2e916ae6","depth":1},"status":{"kind":"succeeded"},"steps":{"keep":{"state":{"kind":"succeeded","attempt":1,"output":{"line":"Hello, Ada! (11 letters)"}},"attempts":[{"number":1,"started_at":"2026-11-21T09:36:37.815021417Z","ended_at":"2026-11-21T09:36:37.84961556Z","usage":{"usd":null,"input_tokens":0,"output_tokens":0,"turns":0},"failure":null,"sandbox":{"provider":"local","id":"loopy-d435318b544fa2c50c6bb9e1dd429998"}}]}},"created_at":"2026-11-21T09:36:37.813729567Z","ended_at":"2026-11-21T09:36:37.84961556Z","history":[{"at":"2026-11-21T09:36:37.813729567Z","kind":"run_started","note":"on Greeted (evt-8114ad2be4b8c9a233276c97)"},{"at":"2026-11-21T09:36:37.815021417Z","kind":"step_started","step":"keep","attempt":1,"note":"limit 3600 s"},{"at":"2026-11-21T09:36:37.84961556Z","kind":"step_succeeded","step":"keep","attempt":1,"note":""},{"at":"2026-11-21T09:36:37.84961556Z","kind":"run_succeeded","note":""}],"pending":[{"cause":"keep/1","effect":{"kind":"disarm_time_limit","step":"keep","attempt":1}},{"cause":"keep/1","effect":{"kind":"stop","sandbox":{"provider":"local","id":"loopy-d435318b544fa2c50c6bb9e1dd429998"}}}]}');
INSERT INTO "runs" VALUES('greet-152bfd894c7771c0',6,'greet','running','hand-ac266a362c50ac6873c0a0f2',1795253797885119,0,'{"id":"greet-152bfd894c7771c0","workflow":"greet","status":"running","event":"Hello","event_id":"hand-ac266a362c50ac6873c0a0f2","cascade":"hand-ac266a362c50ac6873c0a0f2","created_at":"2026-11-21T09:36:37.885119958Z","ended_at":null,"cost_usd":0.0}','{"schema":1,"id":"greet-152bfd894c7771c0","workflow":"greet","manifest":"39e7998f3857522b1c9b12a7002680227ddaf9417cee74ffe25789282b340e68","event":{"id":"hand-ac266a362c50ac6873c0a0f2","name":"Hello","fields":{"name":"Grace"},"source":{"kind":"hand"},"emitted_at":"2026-11-21T09:36:37.880424785Z","cascade":"hand-ac266a362c50ac6873c0a0f2","depth":0},"status":{"kind":"running"},"steps":{"compose":{"state":{"kind":"succeeded","attempt":1,"output":{"greeting":"Hello, Grace!"}},"attempts":[{"number":1,"started_at":"2026-11-21T09:36:37.886207901Z","ended_at":"2026-11-21T09:36:37.920967755Z","usage":{"usd":null,"input_tokens":0,"output_tokens":0,"turns":0},"failure":null,"sandbox":{"provider":"local","id":"loopy-5fe0edecb4585b71ca38d4a0cfb99daf"}}]},"measure":{"state":{"kind":"running","attempt":1,"sandbox":{"provider":"local","id":"loopy-8f5411572d5176d296191254d06a536b"}},"attempts":[{"number":1,"started_at":"2026-11-21T09:36:37.923054854Z","ended_at":null,"usage":null,"failure":null,"sandbox":{"provider":"local","id":"loopy-8f5411572d5176d296191254d06a536b"}}]}},"created_at":"2026-11-21T09:36:37.885119958Z","ended_at":null,"history":[{"at":"2026-11-21T09:36:37.885119958Z","kind":"run_started","note":"on Hello (hand-ac266a362c50ac6873c0a0f2)"},{"at":"2026-11-21T09:36:37.886207901Z","kind":"step_started","step":"compose","attempt":1,"note":"limit 3600 s"},{"at":"2026-11-21T09:36:37.920967755Z","kind":"step_succeeded","step":"compose","attempt":1,"note":""},{"at":"2026-11-21T09:36:37.923054854Z","kind":"step_started","step":"measure","attempt":1,"note":"limit 3600 s"},{"at":"2026-11-21T09:36:37.967400605Z","kind":"sandbox_launched","step":"measure","attempt":1,"note":"local loopy-8f5411572d5176d296191254d06a536b"}],"pending":[{"cause":"compose/1","effect":{"kind":"disarm_time_limit","step":"compose","attempt":1}},{"cause":"compose/1","effect":{"kind":"stop","sandbox":{"provider":"local","id":"loopy-5fe0edecb4585b71ca38d4a0cfb99daf"}}}]}');
CREATE TABLE seen (
    delivery TEXT PRIMARY KEY,
    expires  INTEGER NOT NULL
) STRICT;
CREATE TABLE watermarks (
    name TEXT PRIMARY KEY,
    at   TEXT NOT NULL
) STRICT;
CREATE INDEX runs_by_time ON runs (created_us, id);
CREATE INDEX runs_by_workflow ON runs (workflow, created_us, id);
CREATE INDEX runs_by_status ON runs (status, created_us, id);
CREATE INDEX runs_by_cascade ON runs (cascade);
CREATE INDEX runs_unsettled ON runs (id) WHERE unsettled = 1;
CREATE INDEX seen_by_expiry ON seen (expires);
CREATE INDEX messages_due ON messages (queue, leased, visible_ms, id);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('messages',18);
COMMIT;