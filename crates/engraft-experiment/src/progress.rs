//! How far the runs are: a bar with the time left, or plain lines when nobody watches.

use std::{
    io::IsTerminal,
    sync::Mutex,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{executor::Progress, pool::Event};

/// Between two plain lines.
const PAUSE: Duration = Duration::from_secs(5);

/// Shows progress on standard error.
pub struct Meter {
    bar: ProgressBar,
    /// When the last plain line was printed; `None` when there is a bar or silence.
    plain: Option<Mutex<Instant>>,
    silent: bool,
}

impl Meter {
    /// A bar on a terminal, plain lines elsewhere.
    #[must_use]
    pub fn new(runs: usize) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(runs as u64), target);
        let style =
            ProgressStyle::with_template("{bar:30} {pos}/{len} {prefix}, {eta} left  {wide_msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_prefix("runs");
        if terminal {
            bar.enable_steady_tick(Duration::from_millis(500));
        }
        Self {
            bar,
            plain: (!terminal).then(|| Mutex::new(Instant::now())),
            silent: false,
        }
    }

    /// Shows nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            plain: None,
            silent: true,
        }
    }

    /// Starts anew with another number and kind of things.
    pub fn restart(&self, length: usize, what: &'static str) {
        self.bar.reset();
        self.bar.set_prefix(what);
        self.bar.set_length(length as u64);
    }

    /// Takes note of things that need not be done after all.
    pub fn skip(&self, count: usize) {
        self.bar.dec_length(count as u64);
        self.bar.reset_eta();
    }

    /// Shows what happens in the pool.
    pub fn observe(&self, event: Event<'_>) {
        match event {
            Event::Progress(spec, Progress { step, steps }) => {
                self.bar
                    .set_message(format!("{}: step {step}/{steps}", spec.label()));
            }
            Event::Ended(spec) => self.advance(&spec.label()),
        }
    }

    /// One thing is done.
    pub fn advance(&self, what: &str) {
        self.bar.inc(1);
        self.bar.set_message(what.to_owned());
        let Some(last) = &self.plain else { return };
        let (done, all) = (self.bar.position(), self.bar.length().unwrap_or(0));
        let Ok(mut last) = last.lock() else { return };
        if last.elapsed() >= PAUSE || done == all {
            *last = Instant::now();
            let left = self.bar.eta().as_secs();
            eprintln!("  {done}/{all} {}, about {left} s left", self.bar.prefix());
        }
    }

    /// Prints a line without disturbing the bar.
    pub fn say(&self, line: &str) {
        if !self.silent {
            self.bar.suspend(|| eprintln!("{line}"));
        }
    }

    /// Removes the bar.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}
