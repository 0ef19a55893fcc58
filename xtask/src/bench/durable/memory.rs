//! The memory of this process, as the system counts it.

use super::failed;
use crate::error::Error;
use std::fmt;

/// Resident memory, now and at its highest since [`Memory::forget_peak`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Memory {
    resident_kb: u64,
    peak_kb: u64,
}

impl Memory {
    /// As it is.
    ///
    /// # Errors
    /// When the system does not say.
    pub(super) fn now() -> Result<Self, Error> {
        let status = std::fs::read_to_string("/proc/self/status");
        let status = status.map_err(|why| failed("read the memory in use", why))?;
        Self::parse(&status).ok_or_else(|| failed("read the memory in use", "it is not said"))
    }

    /// Counts the peak anew from here.
    ///
    /// # Errors
    /// When the system does not let it.
    pub(super) fn forget_peak() -> Result<(), Error> {
        std::fs::write("/proc/self/clear_refs", "5").map_err(|why| failed("reset the peak", why))
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().strip_suffix("kB")?.trim().parse().ok()
        };
        Some(Self {
            resident_kb: field("VmRSS:")?,
            peak_kb: field("VmHWM:")?,
        })
    }

    /// In millions of bytes.
    pub(super) fn resident_mb(&self) -> f64 {
        self.resident_kb as f64 * 1.024e-3
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peak = self.peak_kb as f64 * 1.024e-3;
        write!(f, "{:.1} MB, {peak:.1} MB at its peak", self.resident_mb())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_two_figures_are_found() {
        let status = "Name:\tx\nVmHWM:\t  2000 kB\nVmRSS:\t  1000 kB\n";
        let found = Memory::parse(status).map(|memory| memory.to_string());
        assert_eq!(found.as_deref(), Some("1.0 MB, 2.0 MB at its peak"));
        assert_eq!(Memory::parse("VmRSS: 1 kB"), None);
    }
}
