//! SIGINT and SIGTERM during a comparison: the first ends it in good order, the second at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use evring_cli_common::SIGNALS;
use evring_cli_common::failure::Failure;
use signal_hook::flag;

/// Why a comparison does not go on.
#[derive(Debug)]
pub enum Stop {
    /// A signal asked for it.
    Interrupted,
    /// Something does not work.
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// How long to sleep between two looks at a condition.
const PAUSE: Duration = Duration::from_millis(2);

/// Whether a signal has come.
#[derive(Debug, Clone)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Watches for the signals. Unlike the servers' way it leaves them unblocked, since children
    /// inherit what is blocked.
    ///
    /// # Errors
    /// When the kernel refuses a handler.
    pub fn watch() -> Result<Self, Failure> {
        let came = Arc::new(AtomicBool::new(false));
        for signal in SIGNALS {
            // The order matters: the first signal finds the flag still down.
            flag::register_conditional_shutdown(signal, 128 + signal, came.clone())
                .and_then(|_| flag::register(signal, came.clone()))
                .map_err(|error| Failure::new("cannot watch for signals", error))?;
        }
        Ok(Self(came))
    }

    /// Whether one has come.
    pub fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails once one has come.
    ///
    /// # Errors
    /// [`Stop::Interrupted`].
    pub fn check(&self) -> Result<(), Stop> {
        match self.came() {
            true => Err(Stop::Interrupted),
            false => Ok(()),
        }
    }

    /// Asks for a value again and again until there is one, for `limit` at most.
    ///
    /// # Errors
    /// When a signal has come, or asking fails. `None` when the time is up.
    pub fn wait_for<T>(
        &self,
        limit: Duration,
        mut ask: impl FnMut() -> Result<Option<T>, Failure>,
    ) -> Result<Option<T>, Stop> {
        let start = Instant::now();
        loop {
            if let Some(value) = ask()? {
                return Ok(Some(value));
            }
            self.check()?;
            if start.elapsed() > limit {
                return Ok(None);
            }
            std::thread::sleep(PAUSE);
        }
    }
}
