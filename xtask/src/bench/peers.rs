//! The same work on another durable engine, Restate: a run of chained steps that do
//! nothing, each on disk before the next begins, started over HTTP, whose answer
//! comes when the run is over. Each server is a process of its own, fresh for each
//! measurement, and keeps its defaults; the engines take turns, so that what else the
//! machine does falls on both.
//!
//! Restate's server comes from npm; its steps are a service (`xtask/peers/restate`)
//! that it calls over HTTP, a request for a run. Loopy's are tasks in its server, as
//! no sandbox does nothing; they report to it by a call, or over HTTP as a runner
//! does, a request for a step.

use super::durable::STEPS_OF_A_RUN as STEPS;
use super::{ms, percentile, print_table};
use crate::emulator::free_port;
use crate::error::Error;
use crate::http;
use crate::process;
use crate::tools;
use crate::workspace::Workspace;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const RESTATE: &str = "1.7.12";
/// How many start runs at a time, each its next one when the last one is over.
const CROWDS: [usize; 3] = [1, 64, 1024];
const WARM_UP: Duration = Duration::from_secs(2);
/// How long a server may take to come up, and a run to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where each server starts runs.
const PATH: &str = "/Chain/run";

/// How long is measured, and how often.
#[derive(Clone, Copy)]
struct Extent {
    time: Duration,
    repetitions: usize,
}

const WHOLE: Extent = Extent {
    time: Duration::from_secs(20),
    repetitions: 3,
};

/// Of a run that is told to be short: it says whether all works, and little more.
const SHORT: Extent = Extent {
    time: Duration::from_secs(3),
    repetitions: 1,
};

/// What came of one measurement.
#[derive(Clone, Copy)]
struct Sample {
    /// Runs that ended in a second.
    runs: f64,
    /// How long the middle one took.
    p50: Duration,
    /// How long all but one of a hundred took.
    p99: Duration,
    /// The most memory the server had before the work, in bytes.
    idle: u64,
    /// The most memory the server ever had, in bytes.
    memory: u64,
}

/// A running server.
trait Server {
    /// `host:port` of where runs are started.
    fn address(&self) -> &str;
    /// Its process.
    fn process(&self) -> u32;
    /// Makes sure that so many runs at least are on its disk, with all their steps.
    fn check(&self, runs: usize) -> Result<(), Error>;
}

pub(super) fn run(workspace: &Workspace) -> Result<(), Error> {
    if cfg!(debug_assertions) {
        // Loopy's server is this program, and a build without optimisation says nothing.
        return process::run(workspace.cargo().args([
            "run",
            "--quiet",
            "--release",
            "--package",
            "xtask",
            "--",
            "bench",
            "peers",
        ]));
    }
    let short = std::env::var_os("LOOPY_BENCH_SHORT").is_some();
    let Extent { time, repetitions } = if short { SHORT } else { WHOLE };
    let programs = Programs::install(workspace)?;
    let mut samples = Vec::new();
    for starters in CROWDS {
        let (mut called, mut over_http, mut restate) = (Vec::new(), Vec::new(), Vec::new());
        for repetition in 1..=repetitions {
            eprintln!("{starters} at a time, {repetition} of {repetitions}");
            let loopy = |over_http| sample(&Loopy::start(workspace, over_http)?, starters, time);
            called.push(loopy(false)?);
            over_http.push(loopy(true)?);
            restate.push(sample(
                &Restate::start(workspace, &programs)?,
                starters,
                time,
            )?);
        }
        let engines = [&called, &over_http, &restate].map(|samples| middle(samples));
        samples.push((starters, engines));
    }
    print_table(
        &format!(
            "runs of {STEPS} steps that do nothing, each step durable; {repetitions} times {} s, \
             medians",
            time.as_secs()
        ),
        &[
            "what",
            "Loopy, reports called",
            "Loopy, reports over HTTP",
            &format!("Restate {RESTATE}"),
            "ratio called",
            "ratio over HTTP",
        ],
        &rows(&samples),
    );
    Ok(())
}

/// Measures a fresh server.
fn sample(server: &dyn Server, starters: usize, time: Duration) -> Result<Sample, Error> {
    let idle = peak_memory(server.process())?;
    let durations = crowd(server.address(), starters, time)?;
    let memory = peak_memory(server.process())?;
    server.check(durations.len())?;
    Ok(Sample {
        runs: durations.len() as f64 / time.as_secs_f64(),
        p50: percentile(durations.clone(), 50),
        p99: percentile(durations, 99),
        idle,
        memory,
    })
}

/// A line for each figure: Loopy's two, the peer's, and how many times the peer's ours is.
fn rows(samples: &[(usize, [Sample; 3])]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for (starters, engines) in samples {
        let mut row = |what: String, shown: &dyn Fn(f64) -> String, figure: fn(&Sample) -> f64| {
            let [called, over_http, peer] = engines.each_ref().map(figure);
            let ratio = |ours: f64| format!("{:.2} ×", ours / peer);
            let figures = [called, over_http, peer].map(shown);
            rows.push(
                [
                    vec![what],
                    figures.to_vec(),
                    vec![ratio(called), ratio(over_http)],
                ]
                .concat(),
            );
        };
        let whole = |number: f64| format!("{number:.0}");
        let time = |seconds: f64| ms(Duration::from_secs_f64(seconds));
        let megabytes = |bytes: f64| format!("{:.0} MB", bytes / 1e6);
        if *starters == 1 {
            row("memory at the start".to_owned(), &megabytes, |it| {
                it.idle as f64
            });
            row("one run alone, p50".to_owned(), &time, |it| {
                it.p50.as_secs_f64()
            });
            row("one run alone, p99".to_owned(), &time, |it| {
                it.p99.as_secs_f64()
            });
        } else {
            row(format!("{starters} at a time, runs/s"), &whole, |it| {
                it.runs
            });
            row(format!("{starters} at a time, steps/s"), &whole, |it| {
                it.runs * STEPS as f64
            });
            row(format!("{starters} at a time, p50"), &time, |it| {
                it.p50.as_secs_f64()
            });
            row(format!("{starters} at a time, p99"), &time, |it| {
                it.p99.as_secs_f64()
            });
        }
        row(
            format!("{starters} at a time, peak memory"),
            &megabytes,
            |it| it.memory as f64,
        );
    }
    rows
}

/// The median of each figure for itself.
fn middle(samples: &[Sample]) -> Sample {
    let mut runs: Vec<f64> = samples.iter().map(|sample| sample.runs).collect();
    runs.sort_by(f64::total_cmp);
    Sample {
        runs: runs.get(runs.len() / 2).copied().unwrap_or_default(),
        p50: middle_of(samples.iter().map(|sample| sample.p50).collect()),
        p99: middle_of(samples.iter().map(|sample| sample.p99).collect()),
        idle: middle_of(samples.iter().map(|sample| sample.idle).collect()),
        memory: middle_of(samples.iter().map(|sample| sample.memory).collect()),
    }
}

fn middle_of<T: Ord + Copy + Default>(mut samples: Vec<T>) -> T {
    samples.sort_unstable();
    samples.get(samples.len() / 2).copied().unwrap_or_default()
}

/// The most memory that a process ever had, in bytes.
fn peak_memory(process: u32) -> Result<u64, Error> {
    let path = PathBuf::from(format!("/proc/{process}/status"));
    let status = std::fs::read_to_string(&path).map_err(Error::file(&path))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"))
        .and_then(|number| number.trim().parse::<u64>().ok())
        .map(|kilobytes| kilobytes * 1024)
        .ok_or_else(|| Error::Missing {
            missing: format!("VmHWM in {}", path.display()),
            remedy: "Memory is measured on Linux only.".to_owned(),
        })
}

/// Has `starters` start runs for `time`, and says how long each run took that ended
/// in it.
fn crowd(address: &str, starters: usize, time: Duration) -> Result<Vec<Duration>, Error> {
    // Before the time begins, as more at once than a server listens for come late.
    let starters = (0..starters)
        .map(|_| Starter::connect(address))
        .collect::<Result<Vec<_>, _>>()?;
    let begin = Instant::now() + WARM_UP;
    let end = begin + time;
    std::thread::scope(|scope| {
        let threads: Vec<_> = starters
            .into_iter()
            .map(|starter| scope.spawn(move || starter.work(begin, end)))
            .collect();
        let mut durations = Vec::new();
        for thread in threads {
            let found = thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            durations.extend(found);
        }
        Ok(durations)
    })
}

/// One who starts a run, waits for its end and starts the next, over one connection.
struct Starter {
    url: String,
    request: Vec<u8>,
    stream: BufReader<TcpStream>,
}

impl Starter {
    fn connect(address: &str) -> Result<Self, Error> {
        let url = format!("http://{address}{PATH}");
        let stream = TcpStream::connect(address)
            .and_then(|stream| {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(stream)
            })
            .map_err(|error| Error::Http {
                url: url.clone(),
                problem: error.to_string(),
            })?;
        Ok(Self {
            url,
            request: format!(
                "POST {PATH} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n"
            )
            .into_bytes(),
            stream: BufReader::new(stream),
        })
    }

    /// Starts runs until `end`, and says how long those took that ended after `begin`.
    fn work(mut self, begin: Instant, end: Instant) -> Result<Vec<Duration>, Error> {
        let mut durations = Vec::new();
        loop {
            let started = Instant::now();
            self.start_and_wait().map_err(|error| Error::Http {
                url: self.url.clone(),
                problem: error.to_string(),
            })?;
            let ended = Instant::now();
            if ended >= end {
                return Ok(durations);
            }
            if ended >= begin {
                durations.push(ended - started);
            }
        }
    }

    /// The server answers when the run is over.
    fn start_and_wait(&mut self) -> std::io::Result<()> {
        self.stream.get_mut().write_all(&self.request)?;
        let mut head = String::new();
        // A line at a time, to the empty one.
        while self.stream.read_line(&mut head)? > 2 {}
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length")
                .then(|| value.trim().parse::<u64>().ok())?
        });
        match length {
            Some(length) if head.starts_with("HTTP/1.1 200 ") => {
                std::io::copy(&mut self.stream.by_ref().take(length), &mut std::io::sink())?;
                Ok(())
            }
            _ => Err(std::io::Error::other(format!("answered {head}"))),
        }
    }
}

/// Loopy's server: this program, as [`super::durable::serve`]. It ends when it is dropped,
/// and when this process does, because its standard input closes then.
struct Loopy {
    server: Child,
    address: String,
    /// Removed after the server.
    folder: TempDir,
}

impl Loopy {
    fn start(workspace: &Workspace, over_http: bool) -> Result<Self, Error> {
        let folder =
            tempfile::tempdir_in(&workspace.tools).map_err(Error::file(&workspace.tools))?;
        // Also when it was built anew meanwhile.
        let mut command = Command::new("/proc/self/exe");
        command.arg("serve-durable").arg(folder.path());
        if over_http {
            command.arg("--reports-over-http");
        }
        let (server, address) = start_listening(command)?;
        Ok(Self {
            server,
            address,
            folder,
        })
    }
}

impl Server for Loopy {
    fn address(&self) -> &str {
        &self.address
    }

    fn process(&self) -> u32 {
        self.server.id()
    }

    fn check(&self, runs: usize) -> Result<(), Error> {
        let database = self.folder.path().join(".loopy/state.db");
        let count = || -> rusqlite::Result<i64> {
            Connection::open_with_flags(&database, OpenFlags::SQLITE_OPEN_READ_ONLY)?.query_row(
                "SELECT COUNT(*) FROM runs WHERE status = 'succeeded'",
                [],
                |row| row.get(0),
            )
        };
        let failed = |problem: String| Error::Measure {
            what: "count the runs of Loopy".to_owned(),
            problem,
        };
        let found = count().map_err(|error| failed(error.to_string()))?;
        if usize::try_from(found).is_ok_and(|found| found >= runs) {
            return Ok(());
        }
        Err(failed(format!(
            "{runs} were measured, {found} have succeeded"
        )))
    }
}

impl Drop for Loopy {
    fn drop(&mut self) {
        end(&mut self.server);
    }
}

/// What a measurement of Restate is made of.
struct Programs {
    server: PathBuf,
    service: PathBuf,
}

impl Programs {
    fn install(workspace: &Workspace) -> Result<Self, Error> {
        let tools = tools::prepare(workspace)?;
        let folder = workspace.tools.join("restate");
        let package = package()?;
        let packages = [format!("{package}@{RESTATE}")];
        tools::install(&folder, &packages.concat(), || {
            tools::node(&folder, &packages)
        })?;
        let target = workspace.tools.join("peers/restate");
        process::run_beside(
            workspace
                .cargo()
                .args(["build", "--release", "--locked", "--manifest-path"])
                .arg(workspace.root.join("xtask/peers/restate/Cargo.toml"))
                .env("CARGO_TARGET_DIR", &target),
        )?;
        tools.unlock(workspace)?;
        Ok(Self {
            server: folder
                .join("node_modules")
                .join(package)
                .join("bin/restate-server"),
            service: target.join("release/loopy-peer-restate"),
        })
    }
}

/// The npm package that `@restatedev/restate-server` would choose here.
fn package() -> Result<&'static str, Error> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("@restatedev/restate-server-linux-x64"),
        "aarch64" => Ok("@restatedev/restate-server-linux-arm64"),
        other => Err(Error::Missing {
            missing: format!("Restate for {other}"),
            remedy: "It can be measured on x86_64 and aarch64.".to_owned(),
        }),
    }
}

/// A running server with the service; both end when dropped, and when this process
/// does, however that happens.
struct Restate {
    server: Child,
    service: Child,
    /// `host:port` of where runs are started.
    ingress: String,
    /// `host:port` of where the server is asked about itself.
    admin: String,
    log: PathBuf,
    /// Removed after the server.
    _folder: TempDir,
}

impl Restate {
    /// Starts both and waits until a run went through.
    fn start(workspace: &Workspace, programs: &Programs) -> Result<Self, Error> {
        let folder =
            tempfile::tempdir_in(&workspace.tools).map_err(Error::file(&workspace.tools))?;
        let log = workspace.tools.join("restate.log");
        let mut service = Command::new(&programs.service);
        service.arg(STEPS.to_string());
        let (service, service_address) = start_listening(service)?;
        let [ingress, admin, node] = [free_port()?, free_port()?, free_port()?];
        let server = start_server(
            &programs.server,
            folder.path(),
            &log,
            [ingress, admin, node],
        );
        let mut restate = Self {
            server: server?,
            service,
            ingress: format!("127.0.0.1:{ingress}"),
            admin: format!("127.0.0.1:{admin}"),
            log,
            _folder: folder,
        };
        let (ingress, admin) = (restate.ingress.clone(), restate.admin.clone());
        restate.wait("GET", &admin, "/health", b"")?;
        let deployment = json!({ "uri": format!("http://{service_address}") }).to_string();
        restate.wait("POST", &admin, "/deployments", deployment.as_bytes())?;
        restate.wait("POST", &ingress, PATH, b"")?;
        Ok(restate)
    }

    /// Sends a request until it succeeds.
    fn wait(&mut self, method: &str, address: &str, path: &str, body: &[u8]) -> Result<(), Error> {
        let begin = Instant::now();
        let headers = [("Content-Type", "application/json")];
        let headers = if body.is_empty() { &[][..] } else { &headers };
        loop {
            let problem = match http::request(method, address, path, headers, body) {
                Ok(response) if (200..300).contains(&response.status) => return Ok(()),
                Ok(response) => format!("answered {}", response.status),
                Err(error) => error.to_string(),
            };
            let ended = self.server.try_wait().map_err(Error::file(&self.log))?;
            let problem = match ended {
                Some(status) => format!("Restate ended with {status}"),
                None if begin.elapsed() > PATIENCE => problem,
                None => {
                    std::thread::sleep(Duration::from_millis(50));
                    continue;
                }
            };
            return Err(Error::Http {
                url: format!("http://{address}{path}"),
                problem: format!("{problem}; its log is {}", self.log.display()),
            });
        }
    }
}

impl Server for Restate {
    fn address(&self) -> &str {
        &self.ingress
    }

    fn process(&self) -> u32 {
        self.server.id()
    }

    fn check(&self, runs: usize) -> Result<(), Error> {
        let query = "SELECT COUNT(1) AS steps, COUNT(DISTINCT id) AS runs FROM sys_journal \
                     WHERE entry_type = 'Notification: Run'";
        let response = http::request(
            "POST",
            &self.admin,
            "/query",
            &[
                ("Accept", "application/json"),
                ("Content-Type", "application/json"),
            ],
            json!({ "query": query }).to_string().as_bytes(),
        )?;
        let answer: Value = serde_json::from_slice(&response.body)?;
        let count = |name: &str| {
            let number = answer["rows"][0][name].as_u64()?;
            usize::try_from(number).ok()
        };
        match (count("steps"), count("runs")) {
            (Some(steps), Some(found)) if found >= runs && steps == found * STEPS => Ok(()),
            _ => Err(Error::Http {
                url: format!("http://{}/query", self.admin),
                problem: format!("{runs} runs were measured, and the journal has {answer}"),
            }),
        }
    }
}

impl Drop for Restate {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.service] {
            end(child);
        }
    }
}

fn end(child: &mut Child) {
    // The only failure is that it is gone, which is what is wanted.
    let _gone = child.kill();
    let _status = child.wait();
}

/// Starts a program that says where it listens, and ends when its standard input does.
fn start_listening(mut command: Command) -> Result<(Child, String), Error> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|source| process::start(&command, source))?;
    let mut address = String::new();
    let said = child
        .stdout
        .take()
        .map(|stdout| BufReader::new(stdout).read_line(&mut address));
    match (said, address.trim()) {
        (Some(Ok(_)), address) if !address.is_empty() => Ok((child, address.to_owned())),
        _ => {
            end(&mut child);
            Err(Error::Answer {
                command: process::line(&command),
                problem: "it does not say where it listens".to_owned(),
            })
        }
    }
}

/// Starts the server with all its defaults but where it listens.
fn start_server(
    program: &Path,
    folder: &Path,
    log: &Path,
    [ingress, admin, node]: [u16; 3],
) -> Result<Child, Error> {
    let output = File::create(log).map_err(Error::file(log))?;
    let errors = output.try_clone().map_err(Error::file(log))?;
    // It goes on without its parent, if nobody sees to it.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL"])
        .arg(program)
        .args([
            "--no-logo",
            "--listen-mode",
            "tcp",
            "--bind-ip",
            "127.0.0.1",
        ])
        .arg("--base-dir")
        .arg(folder)
        .env("RESTATE_INGRESS__BIND_PORT", ingress.to_string())
        .env("RESTATE_ADMIN__BIND_PORT", admin.to_string())
        .env("RESTATE_BIND_PORT", node.to_string())
        .env("RESTATE_DISABLE_TELEMETRY", "true")
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(errors);
    command
        .spawn()
        .map_err(|source| process::start(&command, source))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use std::net::TcpListener;

    /// A server of one connection that gives the same answer to every request.
    fn server(answer: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            let mut line = String::new();
            while stream.read_line(&mut line).unwrap() > 0 {
                if line == "\r\n" && stream.get_mut().write_all(answer).is_err() {
                    return;
                }
                line.clear();
            }
        });
        address
    }

    #[test]
    fn a_starter_starts_one_run_after_another_over_one_connection() {
        let answer = b"HTTP/1.1 200 OK\r\nA: b\r\ncontent-length: 6\r\n\r\n\r\n\r\nok";
        let starter = Starter::connect(&server(answer)).unwrap();
        let begin = Instant::now();
        let durations = starter.work(begin, begin + Duration::from_millis(200));
        assert!(durations.unwrap().len() > 1);
    }

    #[test]
    fn a_run_that_fails_ends_the_measurement() {
        let answer = b"HTTP/1.1 500 Internal Server Error\r\ncontent-length: 0\r\n\r\n";
        let starter = Starter::connect(&server(answer)).unwrap();
        let begin = Instant::now();
        let error = starter.work(begin, begin + PATIENCE).unwrap_err();
        assert!(
            error.to_string().contains("answered HTTP/1.1 500"),
            "{error}"
        );
    }

    #[test]
    fn a_connection_that_ends_ends_the_measurement() {
        let starter = Starter::connect(&server(b"HTTP/1.1 200 OK\r\n\r\n")).unwrap();
        let begin = Instant::now();
        assert!(starter.work(begin, begin + PATIENCE).is_err());
    }

    #[test]
    fn each_figure_stands_beside_the_peers() {
        let sample = |runs: f64| Sample {
            runs,
            p50: Duration::from_secs_f64(1.0 / runs),
            p99: Duration::from_secs(1),
            idle: 1_000_000,
            memory: 2_000_000,
        };
        let engines = [sample(200.0), sample(50.0), sample(100.0)];
        let rows = rows(&[(1, engines), (64, engines)]);
        let line = |what: &str| {
            let found = rows
                .iter()
                .find(|row| row.first().is_some_and(|it| it == what));
            found.unwrap()[1..].join(" | ")
        };
        assert_eq!(
            line("64 at a time, steps/s"),
            "600 | 150 | 300 | 2.00 × | 0.50 ×"
        );
        assert_eq!(
            line("one run alone, p50"),
            "5.0 ms | 20.0 ms | 10.0 ms | 0.50 × | 2.00 ×"
        );
        assert_eq!(
            line("64 at a time, peak memory"),
            "2 MB | 2 MB | 2 MB | 1.00 × | 1.00 ×"
        );
    }

    #[test]
    fn the_middle_of_each_figure_is_taken_for_itself() {
        let sample = |runs: f64, memory: u64| Sample {
            runs,
            p50: Duration::from_millis(memory),
            p99: Duration::ZERO,
            idle: 0,
            memory,
        };
        let middle = middle(&[sample(3.0, 1), sample(1.0, 3), sample(2.0, 2)]);
        assert!((middle.runs - 2.0).abs() < f64::EPSILON);
        assert_eq!((middle.memory, middle.p50), (2, Duration::from_millis(2)));
    }
}
