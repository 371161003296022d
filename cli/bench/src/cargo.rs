//! Where the peers' binaries are; under `cargo run` they are built first.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use evring_cli_common::console::Console;
use evring_cli_common::failure::Failure;

/// The packages that hold the peers.
const PACKAGES: [&str; 2] = ["evring-peers", "evring-evbuffer-peer"];

/// The packages with this comparison in a program: `cargo run` says which it is running.
const OWN_PACKAGES: [&str; 2] = ["evring-cli", env!("CARGO_PKG_NAME")];

/// The folder of the peers beside the binary `evring`. Builds them there when `cargo run` started
/// this, so that they are never older than what they are compared with.
///
/// # Errors
/// When the build fails.
pub fn peers(evring: &Path, console: &Console) -> Result<PathBuf, Failure> {
    let folder = evring.parent().unwrap_or(Path::new("."));
    let Some(build) = Build::of(env::var_os("CARGO"), env::var_os("CARGO_MANIFEST_DIR")) else {
        return Ok(folder.to_owned());
    };
    let target = folder.parent().unwrap_or(folder);
    console.say(&format!(
        "building the peers: cargo build --release -p {}",
        PACKAGES.join(" -p ")
    ));
    let status = build.command(target).status();
    match status {
        Ok(status) if status.success() => Ok(target.join("release")),
        Ok(_) => Err(Failure::line(
            "the peers cannot be built, see above (--peers DIR takes binaries as they are)",
        )),
        Err(error) => Err(Failure::new("cannot run cargo to build the peers", error)),
    }
}

/// A build by the cargo that started this.
struct Build {
    cargo: PathBuf,
    manifest: PathBuf,
}

impl Build {
    /// What cargo's variables tell, if it is this package that it runs.
    fn of(
        cargo: Option<impl Into<PathBuf>>,
        manifest_dir: Option<impl Into<PathBuf>>,
    ) -> Option<Self> {
        let running = env::var_os("CARGO_PKG_NAME")?;
        if !OWN_PACKAGES.iter().any(|package| running == *package) {
            return None;
        }
        Some(Self {
            cargo: cargo?.into(),
            manifest: manifest_dir?.into().join("Cargo.toml"),
        })
    }

    fn command(&self, target: &Path) -> Command {
        let mut command = Command::new(&self.cargo);
        command
            .args(["build", "--release"])
            .args(PACKAGES.iter().flat_map(|package| ["-p", package]))
            .arg("--manifest-path")
            .arg(&self.manifest)
            .arg("--target-dir")
            .arg(target)
            .stdin(Stdio::null())
            // Its messages go to standard error; nothing of it may come between the results.
            .stdout(Stdio::null());
        command
    }
}
