//! The commands of the `roundtrip` binary and their exit codes.

use std::{
    convert::Infallible,
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Once,
    thread,
    time::Duration,
};

use clap::{Parser, Subcommand, error::ErrorKind};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    app::{Adapters, App, kafka_settings},
    bus::kafka::refusal_of_property,
    config::{self, Config, PropertyCheck, Unused, process_environment},
    descriptors::{self, Budget},
    dev,
    samples::Samples,
    tasks::Tasks,
    telemetry,
};

mod topics;

/// Ready when the process has been asked to stop.
type Shutdown = WaitForCancellationFutureOwned;

/// Could not start, or lost a task.
const FAILED: u8 = 1;
/// How much longer than `shutdown.grace` a drain may take before the process is ended from outside
/// of the runtime; half as much again, and it is aborted.
const LAST_RESORT: Duration = Duration::from_millis(500);
/// Bad configuration or usage (`EX_USAGE` of `sysexits.h`).
const BAD_USAGE: u8 = 64;

/// A WebSocket push gateway cluster in front of Kafka.
#[derive(Debug, Parser)]
#[command(name = "roundtrip", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run one node of a cluster.
    Serve {
        /// The node's configuration; environment variables ROUNDTRIP_… come over it.
        #[arg(long)]
        config: PathBuf,
    },
    /// Run everything in this process, to try it: nodes, a broker, a registry, sample services.
    Dev {
        /// How many nodes.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
        nodes: u16,
        /// Port of the first node's public listener; the others follow. 0: any free ones.
        #[arg(long, default_value_t = 8080)]
        port: u16,
        /// A web page's origin that may connect, scheme://host[:port]; may come several times. Pages
        /// of this machine may anyway.
        #[arg(long = "allow-origin", value_name = "ORIGIN", value_parser = config::origin)]
        allow_origins: Vec<String>,
    },
    /// Create the topics that the configuration names, and say what differs where they exist.
    Topics {
        /// The configuration of a node.
        #[arg(long)]
        config: PathBuf,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
        /// Change nothing, and fail where a topic is missing or is not as configured.
        #[arg(long, conflicts_with = "dry_run")]
        check: bool,
    },
    /// Say everything that is wrong with a configuration, or show it as it takes effect.
    CheckConfig {
        /// The configuration of a node.
        #[arg(value_name = "FILE", required_unless_present = "config")]
        file: Option<PathBuf>,
        /// The same, as the other commands take it.
        #[arg(long, value_name = "FILE", conflicts_with = "file")]
        config: Option<PathBuf>,
    },
    /// Run the sample services for those of echo, slow, fail and orders that are configured.
    Samples {
        /// The configuration of a node.
        #[arg(long)]
        config: PathBuf,
    },
}

/// Runs the command that the process was started with.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            if !asked {
                // On standard error, where nothing else could be said either.
                drop(error.print());
                return ExitCode::from(BAD_USAGE);
            }
            return end(said(error.print()));
        }
    };
    end(execute(cli.command))
}

/// The end of the process, for the reason that there is.
fn end(result: Result<(), Exit>) -> ExitCode {
    match result {
        Ok(()) => {
            telemetry::flush_log();
            ExitCode::SUCCESS
        }
        Err(exit) => {
            telemetry::last_words(&format!("roundtrip: {}", exit.message.trim_end()));
            ExitCode::from(exit.code)
        }
    }
}

/// Why the process ends with another code than 0.
struct Exit {
    code: u8,
    message: String,
}

impl Exit {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self { code: FAILED, message: error.to_string() }
    }

    fn bad_usage(error: impl std::fmt::Display) -> Self {
        Self { code: BAD_USAGE, message: error.to_string() }
    }
}

fn execute(command: Command) -> Result<(), Exit> {
    match command {
        Command::Serve { config } => {
            let config = load(&config)?;
            telemetry::init_logs(config.log.format);
            descriptors::raise();
            in_runtime(until_signalled(|shutdown| serve(config, shutdown)))
        }
        Command::Dev { nodes, port, allow_origins } => {
            telemetry::init_logs(crate::config::LogFormat::Text);
            descriptors::raise();
            let wish = dev::Wish { nodes, port, allow_origins };
            in_runtime(until_signalled(async |shutdown| {
                let (say, begins) = (say_aside, last_resort);
                dev::run(&wish, shutdown, say, begins).await.map_err(|failure| match failure {
                    dev::DevFailure::Ports(..) => Exit::bad_usage(failure),
                    _ => Exit::failed(failure),
                })
            }))
        }
        Command::Topics { config, dry_run, check } => {
            let config = load(&config)?;
            telemetry::init_logs(config.log.format);
            in_runtime(async move { topics::run(&config, dry_run, check).await })
        }
        Command::CheckConfig { file, config } => {
            let file = file.or(config);
            let check: PropertyCheck = refusal_of_property;
            let shown = Config::explain(file.as_deref(), process_environment(), Some(check))
                .map_err(|problems| Exit { code: BAD_USAGE, message: problems.to_string() })?;
            say(&shown)
        }
        Command::Samples { config } => {
            let config = load(&config)?;
            telemetry::init_logs(config.log.format);
            in_runtime(until_signalled(|shutdown| samples(config, shutdown)))
        }
    }
}

fn load(file: &Path) -> Result<Config, Exit> {
    let check: PropertyCheck = refusal_of_property;
    Config::load(Some(file), process_environment(), Some(check))
        .map_err(|problems| Exit { code: BAD_USAGE, message: problems.to_string() })
}

/// Worker threads on a machine of so many cores: librdkafka's own threads take about half of a busy
/// node's time, and threads that wake each other up cost more than they do. BENCHMARKS.md has what
/// more of them cost, and what they are good for.
fn workers(cores: usize) -> usize {
    cores.div_ceil(2)
}

/// Runs a command to its end; what blocks in the background is left behind, so that a client whose
/// broker is gone cannot keep the process alive.
///
/// One provider of cryptography is chosen here for every TLS connection: the libraries bring none.
fn in_runtime(command: impl Future<Output = Result<(), Exit>>) -> Result<(), Exit> {
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("a provider of cryptography was installed before");
    }
    let mut builder = runtime::Builder::new_multi_thread();
    // tokio reads the variable as well, but panics over a bad value.
    let threads = match process_environment().find(|(name, _)| name == "TOKIO_WORKER_THREADS") {
        Some((name, text)) => text
            .parse()
            .ok()
            .filter(|threads| *threads > 0)
            .ok_or_else(|| Exit::bad_usage(format!("{name}: expected a positive number")))?,
        None => workers(thread::available_parallelism().map_or(1, usize::from)),
    };
    builder.worker_threads(threads);
    let runtime = builder.enable_all().build().map_err(Exit::failed)?;
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

async fn serve(config: Config, shutdown: Shutdown) -> Result<(), Exit> {
    for Unused { key, reason } in &config.unused {
        tracing::warn!(key, reason, "this option has no effect");
    }
    let adapters = Adapters::connect(&config).await.map_err(Exit::failed)?;
    let naming = topics::name_problems(kafka_settings(&config), topics::specs(&config));
    let budget = Budget::of_process(1);
    let app = App::build(config, adapters, budget).map_err(Exit::failed)?;
    say_aside(format!(
        "listening public={}\nlistening internal={}\n",
        app.public_address(),
        app.internal_address()
    ));
    let node = app.start().map_err(Exit::failed)?;
    tokio::select! {
        result = node.run(shutdown, last_resort) => result.map_err(Exit::failed),
        never = async { naming.await; std::future::pending::<Infallible>().await } => match never {},
    }
}

/// Ends the process when it has not ended soon after `grace`, whatever hangs: a thread of the runtime, a
/// client library, or what they do when the process exits. The first of several drains counts.
fn last_resort(grace: Duration) {
    static ARMED: Once = Once::new();
    ARMED.call_once(|| end_after(grace + LAST_RESORT));
}

fn end_after(time: Duration) {
    let wait = move || {
        thread::sleep(time);
        thread::spawn(|| {
            telemetry::last_words("roundtrip: not drained within shutdown.grace; stopped");
            // Which runs what the libraries have to do at an exit, and waits for it.
            std::process::exit(i32::from(FAILED));
        });
        thread::sleep(LAST_RESORT / 2);
        std::process::abort();
    };
    if let Err(error) = thread::Builder::new().name("last-resort".to_owned()).spawn(wait) {
        tracing::warn!(%error, "nobody sees to it that the drain comes to an end");
    }
}

async fn samples(config: Config, shutdown: Shutdown) -> Result<(), Exit> {
    let (tasks, mut lost) = Tasks::new();
    let samples =
        Samples::start(&kafka_settings(&config), &config, &tasks).map_err(Exit::failed)?;
    let answering =
        samples.announce(|names| say_aside(format!("answering {}\n", names.join(", "))));
    let result = tokio::select! {
        () = shutdown => Ok(()),
        never = answering => match never {},
        name = lost.next() => Err(Exit::failed(format!("the task {name} was lost"))),
    };
    tasks.stop_and_wait().await;
    result
}

/// Runs a command that lasts, and tells it of the first SIGTERM or SIGINT. The second one ends it
/// at once.
async fn until_signalled<F>(command: impl FnOnce(Shutdown) -> F) -> Result<(), Exit>
where
    F: Future<Output = Result<(), Exit>>,
{
    let mut terminate = signal(SignalKind::terminate()).map_err(Exit::failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Exit::failed)?;
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let shutdown = CancellationToken::new();
    tokio::select! {
        result = command(shutdown.clone().cancelled_owned()) => result,
        () = async {
            next().await;
            shutdown.cancel();
            next().await;
        } => Err(Exit::failed("stopped at once by a second signal")),
    }
}

/// Prints to standard output.
fn say(text: &str) -> Result<(), Exit> {
    let mut out = std::io::stdout().lock();
    said(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// What was printed, or why nobody can have it. A reader that has gone has read what it wanted.
fn said(written: io::Result<()>) -> Result<(), Exit> {
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Exit::failed(format!("standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// The same, for what goes on meanwhile: a reader that hangs, such as a full pipe, stops nothing. Of
/// several texts the order is anybody's.
fn say_aside(text: String) {
    let write = move || {
        if let Err(Exit { message, .. }) = say(&text) {
            tracing::warn!("not printed: {message}");
        }
    };
    let started = thread::Builder::new().name("stdout".to_owned()).spawn(write);
    if let Err(error) = started {
        tracing::warn!(%error, "nobody writes to standard output");
    }
}
