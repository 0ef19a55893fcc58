//! Gives the compiler an id of its own build, made of everything that decides
//! what it says about a project: its code and that of its dependencies. A
//! version number would not do, because builds between two releases share one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

fn main() -> io::Result<()> {
    let mut files = Vec::new();
    for path in ["src", "catalogue", "../contract/src", "../Cargo.lock"] {
        let path = Path::new(path);
        println!("cargo::rerun-if-changed={}", path.display());
        collect(path, &mut files)?;
    }
    files.sort();
    let mut hasher = DefaultHasher::new();
    for path in files {
        path.hash(&mut hasher);
        std::fs::read(&path)?.hash(&mut hasher);
    }
    println!(
        "cargo::rustc-env=LOOPY_COMPILER_BUILD={:016x}",
        hasher.finish()
    );
    Ok(())
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}
