//! Processor time and memory, of the measured processes and of the rest of the machine.

use std::{collections::BTreeMap, fmt, fs, time::Instant};

use anyhow::{Context, Result};
use serde::Serialize;

/// Processes with the names they have in a report.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    pids: Vec<(String, u32)>,
}

/// One reading.
#[derive(Clone, Debug)]
pub struct Reading {
    at: Instant,
    /// Ticks by process.
    processes: BTreeMap<String, u64>,
    machine: MachineTicks,
}

#[derive(Clone, Copy, Debug)]
struct MachineTicks {
    /// User, nice and system time.
    busy: u64,
    /// Interrupts, hard and soft: network traffic over the loopback is in here.
    interrupts: u64,
    steal: u64,
    total: u64,
}

/// What was used between two readings.
#[derive(Clone, Debug, Serialize)]
pub struct Usage {
    pub seconds: f64,
    /// Processor time by process.
    pub cpu_micros: BTreeMap<String, f64>,
    pub machine: Machine,
}

/// The machine, in percent of all its processors' time.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Machine {
    pub busy_percent: f64,
    pub interrupts_percent: f64,
    pub steal_percent: f64,
    /// What processes other than the measured ones burned: noise.
    pub rest_percent: f64,
}

/// Ticks per second of `/proc`; the kernel's interface to user space fixes it.
const TICKS_PER_SECOND: f64 = 100.0;

impl Meter {
    /// Measures this process too, under that name.
    #[must_use]
    pub fn with_self(mut self, name: &str) -> Self {
        self.add(name, std::process::id());
        self
    }

    /// Measures one more process.
    pub fn add(&mut self, name: &str, pid: u32) {
        self.pids.push((name.to_owned(), pid));
    }

    /// Reads everything once.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn read(&self) -> Result<Reading> {
        let mut processes = BTreeMap::new();
        for (name, pid) in &self.pids {
            *processes.entry(name.clone()).or_default() += process_ticks(*pid)?;
        }
        Ok(Reading { at: Instant::now(), processes, machine: machine_ticks()? })
    }

    /// Resident memory in bytes, by name.
    ///
    /// # Errors
    /// When a process has ended.
    pub fn resident_bytes(&self) -> Result<BTreeMap<String, u64>> {
        let mut resident = BTreeMap::new();
        for (name, pid) in &self.pids {
            *resident.entry(name.clone()).or_default() += resident_bytes(*pid)?;
        }
        Ok(resident)
    }
}

impl Reading {
    /// What was used from this reading to a later one.
    pub fn until(&self, later: &Self) -> Usage {
        let mut ours = 0;
        let mut cpu_micros = BTreeMap::new();
        for (name, ticks) in &later.processes {
            let ticks = ticks - self.processes.get(name).copied().unwrap_or_default();
            ours += ticks;
            cpu_micros.insert(name.clone(), ticks as f64 / TICKS_PER_SECOND * 1e6);
        }
        let (from, to) = (self.machine, later.machine);
        let percent = |ticks: u64| 100.0 * ticks as f64 / (to.total - from.total).max(1) as f64;
        let (busy, interrupts) = (to.busy - from.busy, to.interrupts - from.interrupts);
        let machine = Machine {
            busy_percent: percent(busy),
            interrupts_percent: percent(interrupts),
            steal_percent: percent(to.steal.saturating_sub(from.steal)),
            // Interrupts while a process runs may count as its time or not: here as anybody's.
            rest_percent: percent((busy + interrupts).saturating_sub(ours)),
        };
        Usage { seconds: (later.at - self.at).as_secs_f64(), cpu_micros, machine }
    }
}

impl Usage {
    /// How much of one core a process used, 1 for all of it.
    pub fn share(&self, name: &str) -> f64 {
        self.cpu_micros.get(name).map_or(0.0, |micros| micros / 1e6 / self.seconds)
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { busy_percent, interrupts_percent, steal_percent, rest_percent } = self;
        write!(
            f,
            "machine    {busy_percent:.1} % busy, {interrupts_percent:.1} % interrupts, \
             {steal_percent:.1} % stolen; {rest_percent:.1} % burned by others"
        )
    }
}

/// User and system time of all threads, the ended ones among them (proc(5), fields 14 and 15).
fn process_ticks(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} has ended"))?;
    // The name, in parentheses, may hold anything.
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let mut fields = fields.split_whitespace().skip(11);
    let mut next = || fields.next().and_then(|field| field.parse::<u64>().ok());
    Ok(next().context("no utime")? + next().context("no stime")?)
}

fn machine_ticks() -> Result<MachineTicks> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("empty /proc/stat")?;
    let ticks: Vec<u64> =
        line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
    // user nice system idle iowait irq softirq steal; guest time is in user time.
    let at = |index: usize| ticks.get(index).copied().unwrap_or_default();
    Ok(MachineTicks {
        busy: at(0) + at(1) + at(2),
        interrupts: at(5) + at(6),
        steal: at(7),
        total: ticks.iter().take(8).sum(),
    })
}

/// Resident memory of a process.
///
/// # Errors
/// When it has ended.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} has ended"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kibibytes: u64 = line.split_whitespace().nth(1).context("no VmRSS")?.parse()?;
    Ok(kibibytes * 1024)
}
