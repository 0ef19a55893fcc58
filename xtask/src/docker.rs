//! Starts a Docker engine for the tests, with an image that needs no registry, and
//! makes sure that it ends.
//!
//! The engine has a folder and a bridge of its own. Rules of the firewall are the
//! machine's, though, and an engine that starts writes them anew. So there is one at a
//! time, and where the machine has one already, that one is used.

use crate::debian::{self, Need};
use crate::error::Error;
use crate::process;
use crate::workspace::Workspace;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The image of the tests: busybox, and what a runner of this machine needs.
pub(crate) const IMAGE: &str = "loopy-test:1";

const BUSYBOX: [Need; 1] = [Need {
    name: "a busybox without libraries",
    check: &[
        "sh",
        "-c",
        "busybox true && ! ldd \"$(command -v busybox)\"",
    ],
    packages: &["busybox-static"],
}];

const ENGINE: [Need; 3] = [
    Need {
        name: "a Docker engine",
        check: &["dockerd", "--version"],
        packages: &["docker.io"],
    },
    Need {
        name: "iptables",
        check: &["iptables", "--version"],
        packages: &["iptables"],
    },
    Need {
        name: "ip",
        check: &["ip", "-Version"],
        packages: &["iproute2"],
    },
];

/// What Rust programs are linked with.
const LIBRARIES: [&str; 6] = [
    "libc.so.6",
    "libdl.so.2",
    "libgcc_s.so.1",
    "libm.so.6",
    "libpthread.so.0",
    "librt.so.1",
];

/// The machine's own engine.
const USUAL: &str = "/var/run/docker.sock";
/// The bridge of ours, and its address, which is nobody's.
const BRIDGE: &str = "loopy-test0";
const BRIDGE_ADDRESS: &str = "192.0.2.1/24";

/// How long it may take to come up, and to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// A running engine, with [`IMAGE`] in it.
pub(crate) struct Docker {
    socket: PathBuf,
    /// Where it logs to, if it is ours.
    pub(crate) log: PathBuf,
    /// Ends with this.
    _own: Option<Own>,
}

/// An engine of ours; ends when dropped.
struct Own {
    child: Child,
    /// Images and containers.
    data: PathBuf,
    /// Sockets, whose paths have to be short.
    run: TempDir,
    log: PathBuf,
    /// Held as long as the engine runs.
    _lock: File,
}

impl Docker {
    /// Installs what is missing, and starts an engine where none runs.
    ///
    /// # Errors
    /// [`Error::Docker`] when it ends or takes too long; those of installing.
    pub(crate) fn start(workspace: &Workspace) -> Result<Self, Error> {
        debian::ensure(&BUSYBOX)?;
        let log = workspace.tools.join("docker.log");
        let usual = Path::new(USUAL);
        let docker = if request(usual, "GET", "/_ping", b"").is_ok_and(|(status, _)| status == 200)
        {
            Self {
                socket: usual.to_owned(),
                log,
                _own: None,
            }
        } else {
            let own = Own::start(workspace, log.clone())?;
            Self {
                socket: own.socket(),
                log,
                _own: Some(own),
            }
        };
        docker.make_image()?;
        Ok(docker)
    }

    /// As `DOCKER_HOST` has it.
    pub(crate) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Makes [`IMAGE`] of programs of this machine.
    fn make_image(&self) -> Result<(), Error> {
        let folder = tempfile::tempdir().map_err(Error::file(Path::new("a temporary folder")))?;
        let root = folder.path().join("image");
        fill(&root)?;
        let archive = folder.path().join("image.tar");
        let mut tar = Command::new("tar");
        tar.arg("--create")
            .arg("--file")
            .arg(&archive)
            .args(["--owner", "0", "--group", "0", "--directory"])
            .arg(&root)
            .arg(".");
        process::run_beside(&mut tar)?;
        let bytes = fs::read(&archive).map_err(Error::file(&archive))?;
        let (name, tag) = IMAGE.split_once(':').unwrap_or((IMAGE, "latest"));
        let path =
            format!("/images/create?fromSrc=-&repo={name}&tag={tag}&changes=ENV%20PATH%3D%2Fbin");
        let (status, body) = request(&self.socket, "POST", &path, &bytes)
            .map_err(|error| self.failed(error.to_string()))?;
        if status != 200 || body.contains("\"error\"") {
            return Err(self.failed(format!("it takes no image ({status}): {body}")));
        }
        Ok(())
    }

    fn failed(&self, problem: String) -> Error {
        Error::Docker {
            problem,
            log: self.log.clone(),
        }
    }
}

impl Own {
    fn start(workspace: &Workspace, log: PathBuf) -> Result<Self, Error> {
        debian::ensure(&ENGINE)?;
        let lock_path = std::env::temp_dir().join("loopy-docker.lock");
        let lock = File::create(&lock_path).map_err(Error::file(&lock_path))?;
        if lock.try_lock().is_err() {
            eprintln!("waiting for another task's Docker engine to end");
            lock.lock().map_err(Error::file(&lock_path))?;
        }
        let data = workspace.tools.join("docker");
        end_stale(&data)?;
        fs::create_dir_all(&data).map_err(Error::file(&data))?;
        let run = tempfile::Builder::new()
            .prefix("loopy-docker-")
            .tempdir()
            .map_err(Error::file(Path::new("a temporary folder")))?;
        make_bridge()?;
        let output = File::create(&log).map_err(Error::file(&log))?;
        let errors = output.try_clone().map_err(Error::file(&log))?;
        let mut command = as_root("dockerd");
        command
            .arg("--data-root")
            .arg(data.join("data"))
            .arg("--exec-root")
            .arg(run.path().join("exec"))
            .arg("--pidfile")
            .arg(data.join("pid"))
            .arg("--host")
            .arg(format!("unix://{}", run.path().join("socket").display()))
            .arg("--group")
            .arg(rustix::process::getegid().as_raw().to_string())
            .args(["--bridge", BRIDGE])
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        let child = command
            .spawn()
            .map_err(|source| process::start(&command, source))?;
        let mut own = Self {
            child,
            data,
            run,
            log,
            _lock: lock,
        };
        own.wait()?;
        Ok(own)
    }

    fn socket(&self) -> PathBuf {
        self.run.path().join("socket")
    }

    fn wait(&mut self) -> Result<(), Error> {
        let begun = Instant::now();
        loop {
            let answer = request(&self.socket(), "GET", "/_ping", b"");
            let ended = self.child.try_wait().map_err(Error::file(&self.log))?;
            let late = begun.elapsed() > PATIENCE;
            let problem = match (ended, answer) {
                (Some(status), _) => format!("it ended with {status}"),
                (None, Ok((200, _))) => return Ok(()),
                (None, Ok((status, _))) if late => format!("it answers {status}"),
                (None, Err(error)) if late => error.to_string(),
                _ => {
                    std::thread::sleep(LOOK);
                    continue;
                }
            };
            return Err(Error::Docker {
                problem,
                log: self.log.clone(),
            });
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if let Err(error) = end_stale(&self.data) {
            eprintln!("warning: {error}");
        }
        let _status = self.child.wait();
        // Where it stays, the next engine takes it.
        let _gone = process::succeeds(as_root("ip").args(["link", "delete", BRIDGE]));
    }
}

/// Makes the bridge, unless an engine that was killed left it.
fn make_bridge() -> Result<(), Error> {
    if process::succeeds(Command::new("ip").args(["link", "show", BRIDGE])) {
        return Ok(());
    }
    process::run(as_root("ip").args(["link", "add", BRIDGE, "type", "bridge"]))?;
    process::run(as_root("ip").args(["address", "add", BRIDGE_ADDRESS, "dev", BRIDGE]))?;
    process::run(as_root("ip").args(["link", "set", BRIDGE, "up"]))
}

/// Ends the engine that has this folder, if there is one, and removes the folder. One
/// is left when a task is killed.
fn end_stale(data: &Path) -> Result<(), Error> {
    if !data.exists() {
        return Ok(());
    }
    // Asked once: an engine that is asked again and again drops what it has.
    for signal in ["-TERM", "-KILL"] {
        let Some(pid) = engine_of(data) else { break };
        // It may have ended by itself.
        let _gone = process::succeeds(as_root("kill").args([signal, &pid]));
        let begun = Instant::now();
        while engine_of(data).is_some() && begun.elapsed() < PATIENCE / 2 {
            std::thread::sleep(LOOK);
        }
    }
    if let Some(pid) = engine_of(data) {
        return Err(Error::Docker {
            problem: format!("an earlier one, process {pid}, does not end"),
            log: data.with_extension("log"),
        });
    }
    // What it mounted and did not take down is in the way of removing.
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    for mount in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(mount).starts_with(data) {
            let _gone = process::succeeds(as_root("umount").args(["--lazy", mount]));
        }
    }
    process::run_beside(as_root("rm").args(["-rf", "--"]).arg(data))
}

/// The process id of the engine that has this folder. A number in its file may by now
/// be another process's.
fn engine_of(data: &Path) -> Option<String> {
    let pid = fs::read_to_string(data.join("pid")).ok()?.trim().to_owned();
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let line = String::from_utf8_lossy(&line).into_owned();
    line.contains(data.to_str()?).then_some(pid)
}

/// A program that needs rights.
fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--non-interactive", program]);
    command
}

/// The files of the image.
fn fill(root: &Path) -> Result<(), Error> {
    let folder = |name: &str| {
        let path = root.join(name);
        fs::create_dir_all(&path).map_err(Error::file(&path))?;
        Ok::<_, Error>(path)
    };
    let bin = folder("bin")?;
    let busybox = process::read(Command::new("sh").args(["-c", "command -v busybox"]))?;
    let target = bin.join("busybox");
    fs::copy(busybox.trim(), &target).map_err(Error::file(&target))?;
    for applet in process::read(Command::new("busybox").arg("--list"))?.lines() {
        let link = bin.join(applet);
        if applet != "busybox" {
            symlink("busybox", &link).map_err(Error::file(&link))?;
        }
    }
    let etc = folder("etc")?;
    let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n";
    for (file, text) in [
        ("passwd", users),
        ("group", "root:x:0:\nnogroup:x:65534:\n"),
    ] {
        let path = etc.join(file);
        fs::write(&path, text).map_err(Error::file(&path))?;
    }
    let tmp = folder("tmp")?;
    fs::set_permissions(&tmp, fs::Permissions::from_mode(0o1777)).map_err(Error::file(&tmp))?;

    // The loader and the C library, as this very program has them.
    let own = std::env::current_exe().map_err(Error::file(Path::new("this program")))?;
    let linked = process::read(Command::new("ldd").arg(&own))?;
    let paths = linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from);
    for path in paths {
        let is_libc = path.file_name().is_some_and(|name| name == "libc.so.6");
        let beside: Vec<PathBuf> = match path.parent().filter(|_| is_libc) {
            Some(parent) => LIBRARIES.iter().map(|name| parent.join(name)).collect(),
            None => vec![path],
        };
        for library in beside.iter().filter(|library| library.exists()) {
            let target = root.join(library.strip_prefix("/").unwrap_or(library));
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(Error::file(parent))?;
            }
            fs::copy(library, &target).map_err(Error::file(library))?;
        }
    }
    Ok(())
}

/// One request to the engine: the status and what came back.
fn request(socket: &Path, method: &str, path: &str, body: &[u8]) -> std::io::Result<(u16, String)> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/x-tar\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or_default();
    Ok((status, answer))
}
