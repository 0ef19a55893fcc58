//! Installs Debian packages: only those whose program is missing.

use crate::error::Error;
use crate::process;
use std::process::Command;

/// A program the tests need, and the packages that bring it.
pub(crate) struct Need {
    /// What it is called in messages.
    pub(crate) name: &'static str,
    /// Succeeds when it is there.
    pub(crate) check: &'static [&'static str],
    /// The Debian packages.
    pub(crate) packages: &'static [&'static str],
}

impl Need {
    fn met(&self) -> bool {
        let [program, args @ ..] = self.check else {
            return false;
        };
        process::succeeds(Command::new(program).args(args))
    }
}

/// Makes sure of all `needs`.
///
/// # Errors
/// [`Error::Missing`] when something is missing and apt-get, root or sudo is too;
/// or when apt-get fails.
pub(crate) fn ensure(needs: &[Need]) -> Result<(), Error> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !need.met()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing
        .iter()
        .map(|need| need.name)
        .collect::<Vec<_>>()
        .join(", ");
    let packages: Vec<&str> = missing
        .iter()
        .flat_map(|need| need.packages.iter().copied())
        .collect();
    let by_hand = format!("apt-get install {}", packages.join(" "));
    let mut apt = apt_get().ok_or_else(|| Error::Missing {
        missing: names.clone(),
        remedy: format!(
            "Run this again as root or where there is sudo, or install it yourself (on Debian: {by_hand})."
        ),
    })?;
    eprintln!("installing {} for {names}", packages.join(" "));
    process::run_beside(apt().arg("update"))?;
    process::run_beside(
        apt()
            .args(["install", "--yes", "--no-install-recommends"])
            .args(&packages),
    )?;
    match missing.iter().find(|need| !need.met()) {
        None => Ok(()),
        Some(need) => Err(Error::Missing {
            missing: format!("{}, even after `{by_hand}`,", need.name),
            remedy: format!("`{}` must succeed.", need.check.join(" ")),
        }),
    }
}

/// How this user may run apt-get, if at all.
fn apt_get() -> Option<impl FnMut() -> Command> {
    if !process::succeeds(Command::new("apt-get").arg("--version")) {
        return None;
    }
    let root = rustix::process::geteuid().is_root();
    if !root && !process::succeeds(Command::new("sudo").arg("--version")) {
        return None;
    }
    Some(move || {
        let mut command = Command::new(if root { "env" } else { "sudo" });
        command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
        command
    })
}
