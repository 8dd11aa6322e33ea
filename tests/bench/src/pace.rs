//! Requests at their intended times, from a thread of its own: a runtime's timers are too coarse.

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tokio::sync::mpsc::{self, Receiver};

/// Requests that may wait for one asker. More means that the generator is the bottleneck.
const WAITING_MAX: usize = 10_000;

/// Starts the thread. Each asker receives the intended times of its requests, in turn with the
/// others; the thread ends with the number of requests for which there was no room.
pub fn start(
    rate: f64,
    askers: usize,
    lasting: Duration,
) -> (Vec<Receiver<Instant>>, JoinHandle<u64>) {
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..askers).map(|_| mpsc::channel(WAITING_MAX)).unzip();
    let senders: Arc<[mpsc::Sender<Instant>]> = senders.into();
    let handle = thread::spawn(move || {
        let started = Instant::now();
        let mut unsent = 0;
        for index in 0_u64.. {
            let at = Duration::from_secs_f64(index as f64 / rate);
            if at >= lasting {
                break;
            }
            let intended = started + at;
            let early = intended.saturating_duration_since(Instant::now());
            if !early.is_zero() {
                thread::sleep(early);
            }
            let asker = usize::try_from(index).unwrap_or_default() % senders.len();
            unsent += u64::from(senders[asker].try_send(intended).is_err());
        }
        unsent
    });
    (receivers, handle)
}
