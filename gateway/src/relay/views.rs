//! The latest event of each key of a topic, and who waits for its state.
//!
//! Owns what a view is ([`View`]), whether all of it is in the registry (`build`), and the waits of
//! this node's requests ([`waits`]). Never reads the log: `replies/events` does, and tells who is
//! answered. Never ends a request.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use registry::{Latest, Registry, ViewKey};
use tokio::time::{Instant, sleep};

use self::build::{Build, Look};
use super::{
    cluster::Membership, environment::Environment, services::Service, surroundings::Surroundings,
};
use crate::{
    bus::ConsumerControl,
    config::{Config, ViewConfig},
    error::{ErrorCode, Failure},
    peer::format as fields,
    telemetry::Telemetry,
    wire::Reply,
};

mod build;
pub mod pointer;
pub mod waits;

pub use waits::Waits;

/// How long an event is in the registry. Its view's topic is read again in half of that time, so what is
/// still in the topic never ends, and what is not any more does.
pub const EVENT_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Between two looks at what is in the registry of a view, and while something is missing.
const LOOK_INTERVALS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_millis(100));
/// How many such looks the registry's generation is waited for.
const GENERATION_LOOKS: u32 = 50;
/// How long a caller waits for a state who does not say; and at most.
const TIMEOUTS: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// All views of this node's configuration.
#[derive(Debug)]
pub struct Views {
    by_name: BTreeMap<String, Arc<View>>,
    registry: Arc<dyn Registry>,
    membership: Arc<Membership>,
    environment: Arc<Environment>,
    telemetry: Arc<Telemetry>,
}

/// One view.
#[derive(Debug)]
pub struct View {
    /// Its name.
    pub name: Arc<str>,
    /// The topic that it follows.
    pub topic: String,
    /// What callers that wait for a state are counted as.
    pub waiting: Arc<Service>,
    state: String,
    build: Build,
    control: OnceLock<Arc<dyn ConsumerControl>>,
}

impl Views {
    /// The views as configured. Nothing is known of them yet.
    pub fn new(config: &Config, around: &Surroundings, membership: &Arc<Membership>) -> Self {
        let view = |(name, config): (&String, &ViewConfig)| {
            (name.clone(), Arc::new(View::new(name, config, &around.telemetry)))
        };
        Self {
            by_name: config.views.iter().map(view).collect(),
            registry: Arc::clone(&around.registry),
            membership: Arc::clone(membership),
            environment: Arc::clone(&around.environment),
            telemetry: Arc::clone(&around.telemetry),
        }
    }

    /// The view of this name.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownService`].
    pub fn find(&self, name: &str) -> Result<&Arc<View>, Failure> {
        self.by_name.get(name).ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            Failure::new(ErrorCode::UnknownService, format!("no view is called {shown:?}"))
        })
    }

    /// The latest event of a key.
    ///
    /// # Errors
    /// [`ErrorCode::NotFound`]; or [`ErrorCode::Unavailable`] while nobody can know.
    pub async fn latest(&self, view: &View, key: &[u8]) -> Result<Reply, Failure> {
        view.check()?;
        let started = Instant::now();
        let mut found = self.registry.find_latest(&[view.key(key)]).await;
        self.telemetry.registry_call("find_latest", started.elapsed());
        self.membership.health.heard(&found);
        match found.pop() {
            Some(Ok(latest)) => latest
                .filter(|latest| view.is_of_its_topic(latest))
                .and_then(|latest| read(&latest))
                .ok_or_else(|| Failure::new(ErrorCode::NotFound, "there is no event for this key")),
            Some(Err(error)) => Err(unavailable(&error.to_string())),
            None => Err(unavailable("it has not answered")),
        }
    }

    /// Sees to it that all of each view is in the registry, for as long as the node lives.
    pub async fn run(&self) {
        if self.by_name.is_empty() {
            return std::future::pending().await;
        }
        let mut looks = 0;
        loop {
            // A mark cannot be judged without it, unless there is none.
            if self.membership.generation().is_none() && looks < GENERATION_LOOKS {
                looks += 1;
                sleep(LOOK_INTERVALS.1).await;
                continue;
            }
            for view in self.by_name.values() {
                if let Some(control) = view.control.get() {
                    let look = Look {
                        registry: &*self.registry,
                        telemetry: &self.telemetry,
                        generation: self.membership.generation(),
                        now_ms: self.environment.unix_ms(),
                    };
                    view.build.look(&view.name, &**control, &look).await;
                }
            }
            let is_whole = self.by_name.values().all(|view| view.build.trouble().is_none());
            sleep(if is_whole { LOOK_INTERVALS.0 } else { LOOK_INTERVALS.1 }).await;
        }
    }
}

impl View {
    fn new(name: &str, config: &ViewConfig, telemetry: &Telemetry) -> Self {
        Self {
            name: name.into(),
            topic: config.topic.clone(),
            waiting: Arc::new(Service::of_view(name, TIMEOUTS, telemetry)),
            state: config.state.clone(),
            build: Build::default(),
            control: OnceLock::new(),
        }
    }

    /// A key of this view.
    pub fn key(&self, key: &[u8]) -> ViewKey {
        ViewKey { view: Arc::clone(&self.name), key: key.to_vec().into() }
    }

    /// The state into which an event brings its key.
    pub fn state_of(&self, event: &[u8]) -> Option<Box<str>> {
        pointer::text_at(event, &self.state)
    }

    /// How far this node has read the topic, and what of the view is in the registry.
    pub(in crate::relay) fn build(&self) -> &Build {
        &self.build
    }

    /// The reader of its topic on this node.
    pub(in crate::relay) fn is_read_by(&self, control: &Arc<dyn ConsumerControl>) {
        self.control.get_or_init(|| Arc::clone(control));
    }

    /// What is missing of it, in words for an operator.
    pub fn trouble(&self) -> Option<String> {
        let why = self.build.trouble()?;
        Some(format!("view {} is not complete: {why}", self.name))
    }

    /// Whether all of it was once there since this node has started.
    pub fn has_been_whole(&self) -> bool {
        self.build.has_been_whole()
    }

    /// Whether all of it is there.
    ///
    /// # Errors
    /// [`ErrorCode::Unavailable`] if it is not.
    pub fn check(&self) -> Result<(), Failure> {
        match self.build.missing() {
            None => Ok(()),
            Some(_) => {
                let message = format!("view {} is being built; try again", self.name);
                Err(Failure::new(ErrorCode::Unavailable, message))
            }
        }
    }

    /// An event of a topic that had the name before says nothing any more.
    pub fn is_of_its_topic(&self, latest: &Latest) -> bool {
        let topic = self.control.get().and_then(|control| control.topic_id());
        topic.is_none_or(|topic| latest.place.topic.is_empty() || *latest.place.topic == topic)
    }
}

fn unavailable(why: &str) -> Failure {
    Failure::new(ErrorCode::Unavailable, format!("the registry does not answer: {why}"))
}

/// An event as the registry keeps it.
pub fn write(reply: &Reply) -> bytes::Bytes {
    fields::encode(&fields::Reply::from(reply))
}

/// An event as its record had it; none where that cannot be read.
pub fn read(latest: &Latest) -> Option<Reply> {
    read_content(&latest.content)
}

/// The same without its place.
pub fn read_content(content: &bytes::Bytes) -> Option<Reply> {
    fields::decode::<fields::Reply>(content).ok().map(Into::into)
}
