//! What came of a load, for people and for programs.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::Serialize;
use tests::meter::Usage;

use crate::plan::Plan;

/// The stretch of time that is measured.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub start: Instant,
    pub end: Instant,
}

/// Collects latencies. Time counts from when a request was to be sent, not from when it was: a
/// stall delays all requests it holds up, and each of them shows it.
#[derive(Debug)]
pub struct Recorder {
    window: Window,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    latency: Histogram<u64>,
    lag: Histogram<u64>,
    answered: u64,
    failed: u64,
}

/// Microseconds below which so many percent lie.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Quantiles {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub target: String,
    pub plan: Plan,
    /// Answers within the measured time.
    pub answered: u64,
    /// Answers that were errors.
    pub failed: u64,
    /// Requests the generator itself had no room for.
    pub unsent: u64,
    pub per_second: f64,
    pub latency_micros: Quantiles,
    /// How late the generator was; should be far below the latency.
    pub lag_micros: Quantiles,
    pub usage: Usage,
}

impl Window {
    /// A window that opens after the warm-up.
    pub fn of(plan: &Plan) -> Self {
        let start = Instant::now() + plan.warm_up();
        Self { start, end: start + plan.measured() }
    }

    /// How long an asker is busy, from now on.
    pub fn remaining(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Whether an instant is in it.
    pub fn contains(&self, at: Instant) -> bool {
        (self.start..self.end).contains(&at)
    }
}

impl Recorder {
    /// An empty recorder.
    pub fn new(window: Window) -> Self {
        // From a microsecond to ten minutes.
        let empty = || Histogram::new_with_bounds(1, 600_000_000, 3).expect("lawful bounds");
        let inner = Inner { latency: empty(), lag: empty(), answered: 0, failed: 0 };
        Self { window, inner: Mutex::new(inner) }
    }

    /// The measured stretch of time.
    pub fn window(&self) -> Window {
        self.window
    }

    /// A request was sent, this late.
    pub fn sent(&self, intended: Instant) {
        if self.window.contains(intended) {
            self.with(|inner| inner.lag.saturating_record(micros(intended.elapsed())));
        }
    }

    /// A request was answered.
    pub fn answered(&self, intended: Instant, ok: bool) {
        let now = Instant::now();
        self.with(|inner| {
            if self.window.contains(now) {
                inner.answered += 1;
                inner.failed += u64::from(!ok);
            }
            if self.window.contains(intended) {
                inner.latency.saturating_record(micros(now - intended));
            }
        });
    }

    /// What has been collected.
    pub fn report(&self, target: &str, plan: &Plan, unsent: u64, usage: Usage) -> Report {
        self.with(|inner| Report {
            target: target.to_owned(),
            plan: plan.clone(),
            answered: inner.answered,
            failed: inner.failed,
            unsent,
            per_second: inner.answered as f64 / plan.seconds,
            latency_micros: Quantiles::of(&inner.latency),
            lag_micros: Quantiles::of(&inner.lag),
            usage,
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Inner) -> T) -> T {
        act(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

impl Quantiles {
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999), max: histogram.max() }
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p90, p99, p999, max] =
            [self.p50, self.p90, self.p99, self.p999, self.max].map(|us| us as f64 / 1000.0);
        write!(f, "p50 {p50:.2}  p90 {p90:.2}  p99 {p99:.2}  p99.9 {p999:.2}  max {max:.2} ms")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plan = &self.plan;
        let load = match plan.rate {
            Some(rate) => format!("{rate}/s over {} sockets", plan.sockets),
            None => format!("{} sockets x {} in flight", plan.sockets, plan.depth),
        };
        let kind = if plan.reliable { ", reliable" } else { "" };
        writeln!(f, "{}: {load}{kind}, {} bytes, {} s", self.target, plan.bytes, plan.seconds)?;
        let Self { answered, failed, unsent, per_second, .. } = self;
        writeln!(
            f,
            "  answered   {answered} ({per_second:.0}/s), {failed} failed, {unsent} unsent"
        )?;
        writeln!(f, "  latency    {}", self.latency_micros)?;
        if plan.rate.is_some() {
            writeln!(f, "  send lag   {}", self.lag_micros)?;
        }
        for (name, micros) in &self.usage.cpu_micros {
            let each = micros / (*answered).max(1) as f64;
            writeln!(f, "  cpu        {each:8.2} us per round trip  {name}")?;
        }
        write!(f, "  {}", self.usage.machine)
    }
}
