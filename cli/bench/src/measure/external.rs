//! HAProxy and nginx as TCP proxies of one thread, to compare with.
//!
//! Neither says which port it took, so a free one is picked beforehand, and neither says that it
//! listens, so somebody has to try.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use evring_cli_common::failure::Failure;
use rustix::process::{Resource, Signal, getrlimit};
use tempfile::TempDir;

/// The programs, and the ways in which they are set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum External {
    /// HAProxy as it comes: a buffer of 16 KiB in user space for each direction.
    HaProxy,
    /// HAProxy with `option splice-request` and `splice-response`: bytes go through a pipe in the
    /// kernel. Of `splice-auto`, which leaves it to HAProxy, no use was seen on the loopback.
    HaProxySplice,
    /// nginx's stream module.
    Nginx,
}

/// A program that is installed.
#[derive(Debug, Clone)]
pub struct Installed {
    proxy: External,
    program: PathBuf,
    /// nginx's stream module, where it is a file of its own.
    module: Option<PathBuf>,
}

/// A proxy that is ready to be started: its configuration is written. The directory that holds it
/// goes with this value.
#[derive(Debug)]
pub struct Prepared {
    program: PathBuf,
    arguments: Vec<OsString>,
    /// Where it will listen.
    pub listen: SocketAddr,
    _directory: TempDir,
}

impl Prepared {
    /// The command that serves until it gets SIGTERM. It stays in the foreground.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}

/// Whether a program that was told to end by SIGTERM ended as it should. HAProxy dies of the
/// signal; nginx exits with 0.
pub fn ended_well(status: ExitStatus) -> bool {
    status.success() || status.signal() == Some(Signal::TERM.as_raw())
}

/// System programs may be where only root's PATH leads.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// Looks a program up.
///
/// # Errors
///
/// It, or the part of it that is needed, is not installed; the text says what to install.
pub fn find(proxy: External) -> Result<Installed, Failure> {
    let (name, package) = match proxy {
        External::HaProxy | External::HaProxySplice => ("haproxy", "haproxy"),
        External::Nginx => ("nginx", "nginx libnginx-mod-stream"),
    };
    let missing = |what: &str| {
        Failure::line(format!(
            "{what} is not installed (Debian: apt-get install {package})"
        ))
    };
    let program = program(name).ok_or_else(|| missing(name))?;
    let module = match proxy {
        External::HaProxy | External::HaProxySplice => None,
        External::Nginx => {
            stream_module(&program).ok_or_else(|| missing("nginx's stream module"))?
        }
    };
    Ok(Installed {
        proxy,
        program,
        module,
    })
}

impl Installed {
    /// Picks a free port on the loopback and writes the configuration of a proxy that listens
    /// there, passes connections on to `upstream`, and logs nothing.
    ///
    /// # Errors
    ///
    /// No free port, or no room for a temporary directory.
    pub fn prepare(&self, upstream: SocketAddr) -> Result<Prepared, Failure> {
        let listen = free_port().map_err(|error| Failure::new("a free port", error))?;
        let directory = tempfile::Builder::new()
            .prefix("evring-bench-")
            .tempdir()
            .map_err(|error| Failure::new("a temporary directory", error))?;
        let path = directory.path().join("proxy.conf");
        let text = match self.proxy {
            External::HaProxy => haproxy(listen, upstream, ""),
            External::HaProxySplice => {
                let options = "    option splice-request\n    option splice-response\n";
                haproxy(listen, upstream, options)
            }
            External::Nginx => self.nginx(directory.path(), listen, upstream),
        };
        fs::write(&path, text).map_err(|error| Failure::new(path.display(), error))?;
        let arguments: Vec<OsString> = match self.proxy {
            // In the foreground, and without a word about it.
            External::HaProxy | External::HaProxySplice => {
                vec!["-db".into(), "-q".into(), "-f".into(), path.into()]
            }
            // The log that is open until the configuration is read would otherwise be the system's.
            External::Nginx => vec![
                "-e".into(),
                "stderr".into(),
                "-p".into(),
                directory.path().into(),
                "-c".into(),
                path.into(),
            ],
        };
        Ok(Prepared {
            program: self.program.clone(),
            arguments,
            listen,
            _directory: directory,
        })
    }

    fn nginx(&self, directory: &Path, listen: SocketAddr, upstream: SocketAddr) -> String {
        let module = match &self.module {
            Some(module) => format!("load_module {};\n", module.display()),
            None => String::new(),
        };
        let open_files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        // nginx allocates for all of them beforehand.
        let connections = open_files.clamp(64, 1 << 16);
        let directory = directory.display();
        format!(
            "{module}\
             daemon off;\n\
             master_process off;\n\
             worker_processes 1;\n\
             pid {directory}/pid;\n\
             lock_file {directory}/lock;\n\
             error_log stderr crit;\n\
             events {{\n    \
                 worker_connections {connections};\n\
             }}\n\
             stream {{\n    \
                 access_log off;\n    \
                 server {{\n        \
                     listen {listen} backlog=4096;\n        \
                     proxy_pass {upstream};\n        \
                     proxy_buffer_size 16k;\n        \
                     proxy_timeout 1h;\n        \
                     tcp_nodelay on;\n    \
                 }}\n\
             }}\n"
        )
    }
}

fn haproxy(listen: SocketAddr, upstream: SocketAddr, options: &str) -> String {
    // Without a `log` line it logs nothing; TCP_NODELAY it sets by itself.
    format!(
        "global\n    \
             nbthread 1\n\
         listen proxy\n    \
             mode tcp\n\
         {options}    \
             bind {listen} backlog 4096\n    \
             timeout connect 5s\n    \
             timeout client 1h\n    \
             timeout server 1h\n    \
             server upstream {upstream}\n"
    )
}

/// Waits until `address` accepts. The connection that finds out is closed at once; a proxy may have
/// made one to its upstream for it.
///
/// # Errors
///
/// The process ends first, or `limit` passes.
pub fn wait_until_accepting(
    address: SocketAddr,
    child: &mut Child,
    limit: Duration,
) -> Result<(), Failure> {
    const PAUSE: Duration = Duration::from_millis(5);
    let end = Instant::now() + limit;
    loop {
        let tried = TcpStream::connect_timeout(&address, limit);
        let ended = child.try_wait();
        match (tried, ended) {
            (_, Ok(Some(status))) => {
                return Err(Failure::line(format!(
                    "it ended before it listened, {status}"
                )));
            }
            (Ok(_), _) => return Ok(()),
            (Err(error), _) if Instant::now() >= end => {
                let text = format!("not listening on {address} after {limit:?}");
                return Err(Failure::new(text, error));
            }
            (Err(_), _) => thread::sleep(PAUSE),
        }
    }
}

fn free_port() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}

/// The program of that name, first in PATH and then where system programs are.
pub(super) fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(SYSTEM_FOLDERS.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// nginx's stream module: `Some(None)` where it is part of the program, `None` where there is none.
fn stream_module(program: &Path) -> Option<Option<PathBuf>> {
    let output = Command::new(program)
        .arg("-V")
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let options = String::from_utf8_lossy(&output.stderr);
    let mut words = options.split_whitespace();
    if words.clone().any(|word| word == "--with-stream") {
        return Some(None);
    }
    let folder = words.find_map(|word| word.strip_prefix("--modules-path="))?;
    let module = Path::new(folder).join("ngx_stream_module.so");
    module.is_file().then_some(Some(module))
}
