//! Size of each function's binary, and how long its first and its later invocations
//! take on the emulator. The payload is one that no function takes, so what is
//! measured is the start of the process and the way in and out, not the work.

use super::{median, ms, print_table};
use crate::dist::{self, Arch, FUNCTIONS};
use crate::emulator::Emulator;
use crate::error::Error;
use crate::http::{self, Response};
use crate::tools;
use crate::workspace::Workspace;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

const COLD_SAMPLES: usize = 7;
const WARM_SAMPLES: usize = 50;

pub(super) fn run(workspace: &Workspace) -> Result<(), Error> {
    let tools = tools::prepare(workspace)?;
    let folder = dist::build(workspace, &tools, Arch::X86_64, None)?;
    tools.unlock(workspace)?;
    let emulator = Emulator::start(workspace, &tools)?;
    let mut rows = Vec::new();
    for function in FUNCTIONS {
        let zip = folder.join(format!("{function}.zip"));
        let (cold, warm) = invoke_times(&emulator, function, &zip)?;
        rows.push(vec![
            function.to_owned(),
            mb(unpacked_size(&zip)?),
            mb(std::fs::metadata(&zip).map_err(Error::file(&zip))?.len()),
            ms(cold),
            ms(warm),
        ]);
    }
    print_table(
        &format!(
            "functions, x86_64, median of {COLD_SAMPLES} first and {WARM_SAMPLES} later invocations on the emulator"
        ),
        &["function", "bootstrap", "zip", "cold", "warm"],
        &rows,
    );
    Ok(())
}

/// The medians of the first and of the later invocations.
fn invoke_times(
    emulator: &Emulator,
    function: &str,
    zip: &Path,
) -> Result<(Duration, Duration), Error> {
    let code = STANDARD.encode(std::fs::read(zip).map_err(Error::file(zip))?);
    let mut cold = Vec::new();
    let mut warm = Vec::new();
    for sample in 0..COLD_SAMPLES {
        // A function of its own for each, because a worker once started stays.
        let name = format!("{function}-{sample}");
        create(emulator, &name, &code)?;
        cold.push(invoke_time(emulator, &name)?);
        if sample == 0 {
            for _ in 0..WARM_SAMPLES {
                warm.push(invoke_time(emulator, &name)?);
            }
        }
    }
    Ok((median(cold), median(warm)))
}

fn create(emulator: &Emulator, name: &str, code: &str) -> Result<(), Error> {
    let body = serde_json::json!({
        "FunctionName": name,
        "Runtime": "provided.al2023",
        "Handler": "bootstrap",
        "Role": "arn:aws:iam::000000000000:role/bench",
        "Timeout": 30,
        "MemorySize": 256,
        "Code": { "ZipFile": code },
    });
    let path = "/2015-03-31/functions";
    let response = call(emulator, path, body.to_string().as_bytes())?;
    if response.status == 201 {
        return Ok(());
    }
    Err(refused(emulator, path, &response))
}

fn invoke_time(emulator: &Emulator, name: &str) -> Result<Duration, Error> {
    let path = format!("/2015-03-31/functions/{name}/invocations");
    let begin = Instant::now();
    let response = call(emulator, &path, b"{\"bench\":true}")?;
    let elapsed = begin.elapsed();
    // A function that refuses the payload still answers 200, with its error.
    if response.status == 200 {
        return Ok(elapsed);
    }
    Err(refused(emulator, &path, &response))
}

fn call(emulator: &Emulator, path: &str, body: &[u8]) -> Result<Response, Error> {
    // The emulator reads service and region from this and checks no signature.
    let authorization = "AWS4-HMAC-SHA256 Credential=test/20200101/eu-west-1/lambda/aws4_request, \
                         SignedHeaders=host, Signature=0";
    let headers = [
        ("Authorization", authorization),
        ("Content-Type", "application/json"),
    ];
    http::request("POST", &emulator.address(), path, &headers, body)
}

fn refused(emulator: &Emulator, path: &str, response: &Response) -> Error {
    Error::Http {
        url: format!("{}{path}", emulator.endpoint()),
        problem: format!(
            "answered {}: {}",
            response.status,
            String::from_utf8_lossy(&response.body)
        ),
    }
}

fn unpacked_size(path: &Path) -> Result<u64, Error> {
    let failed = |source| Error::Zip {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(Error::file(path))?;
    let mut zip = zip::ZipArchive::new(file).map_err(failed)?;
    let entry = zip.by_name("bootstrap").map_err(failed)?;
    Ok(entry.size())
}

fn mb(bytes: u64) -> String {
    format!("{:.2} MB", bytes as f64 / 1_000_000.0)
}
