//! `loopy run` under load, killed 200 times at moments that a seed decides:
//! nothing that was accepted is lost, and nothing is done twice.

use crate::support::{Project, SHELL, json, until};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::thread::sleep;
use std::time::Duration;

const KILLS: usize = 200;

/// Deliveries that are posted in each life of the process.
const POSTS: usize = 2;

const STEPS: [&str; 2] = ["one", "two"];

/// Moments that look random and are the same each time.
struct Moments(u64);

impl Moments {
    fn below(&mut self, end: u64) -> u64 {
        // Xorshift, by Marsaglia.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A webhook that starts two steps in a row; each writes a line when it begins,
/// and one when it ends.
fn project() -> Project {
    let registry = format!("{SHELL}events:\n  Go: {{ n: int, log: str }}\n");
    let project = Project::of(&[("registry.yml", &registry)]);
    project.write(
        "sensors/hooks.py",
        "from loopy import sensor\nfrom loopy.events import Go\n\n\
         @sensor(emits='Go', webhook='/hooks/go', verify='none')\n\
         def go(request):\n    return Go(n=request.json['n'], log=request.json['log'])\n",
    );
    let mut trigger = "on: Go".to_owned();
    for step in STEPS {
        project.write(
            &format!("workflows/chain/{step}.md"),
            &format!(
                "---\n{trigger}\nagent: Shell\n---\n\
                 line={{{{ event.n }}}}\\ {step}\nlog={{{{ event.log }}}}\n\
                 echo \"$line begins\" >> \"$log\"\necho \"$line ends\" >> \"$log\"\n"
            ),
        );
        trigger = format!("after: {step}");
    }
    project
}

#[test]
fn killed_two_hundred_times_under_load_it_loses_nothing_and_repeats_nothing() {
    let project = project();
    let log = project.outside("log");
    let mut moments = Moments(0x2545_f491_4f6c_dd1d);
    let mut accepted = BTreeSet::new();
    let mut posted = 0;
    for kill in 0..KILLS {
        if kill % 10 == 9 {
            // It need not have come up.
            let run = project.loopy(&["run", "--listen", "127.0.0.1:0"]).spawn();
            sleep(Duration::from_millis(moments.below(200)));
            run.kill();
            continue;
        }
        let serving = project.serve();
        for _ in 0..POSTS {
            let body = format!(r#"{{"n": {posted}, "log": "{}"}}"#, log.display());
            assert_eq!(serving.post("/hooks/go", &body), 202);
            accepted.insert(posted);
            posted += 1;
        }
        // Now and then it gets somewhere.
        let longest = if kill % 8 == 0 { 1500 } else { 300 };
        sleep(Duration::from_millis(moments.below(longest)));
        serving.run.kill();
    }

    let serving = project.serve();
    until("every run to end", || {
        sleep(Duration::from_millis(200));
        let runs = project.runs();
        let over = runs.iter().all(|run| run["status"] == "succeeded");
        (over && runs.len() >= accepted.len()).then_some(())
    });
    let runs = project.runs();
    let dead = json(&project.loopy(&["dlq", "list", "--json"]).assert().code(0));
    assert_eq!(dead, serde_json::json!([]));
    serving.stop().code(0);

    assert_eq!(runs.len(), accepted.len());
    let mut lines: BTreeMap<String, usize> = BTreeMap::new();
    for line in fs::read_to_string(&log).unwrap().lines() {
        *lines.entry(line.to_owned()).or_default() += 1;
    }
    let expected: BTreeMap<String, usize> = accepted
        .iter()
        .flat_map(|n| STEPS.map(|step| format!("{n} {step}")))
        .flat_map(|step| ["begins", "ends"].map(|what| (format!("{step} {what}"), 1)))
        .collect();
    assert_eq!(lines, expected);
}
