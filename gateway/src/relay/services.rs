//! A backend service as the relay knows it: a topic, its time limits and what may pass.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use crate::{
    config::{Config, Dialect, RespondOnConfig, ServiceConfig},
    deletable::{SUFFIX_BYTES, compaction::Compaction, wire_key},
    error::{ErrorCode, Failure},
    telemetry::{Edge, ReplyPath, ServiceMetrics, Telemetry},
};

/// Headers that pass whatever a service's allow-list says.
const ALWAYS_ALLOWED: [&str; 3] = ["content-type", "traceparent", "tracestate"];

/// All configured services.
#[derive(Debug)]
pub struct Services {
    by_name: HashMap<String, Arc<Service>>,
    /// Counts requests and replies for services that are not configured.
    unknown: ServiceMetrics,
}

impl Services {
    /// The services as configured.
    pub fn new(config: &Config, telemetry: &Telemetry) -> Self {
        let service = |(name, config): (&String, &ServiceConfig)| {
            (name.clone(), Arc::new(Service::new(name, config, telemetry)))
        };
        let by_name = config.services.iter().map(service).collect();
        Self { by_name, unknown: telemetry.service("-") }
    }

    /// The service of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Service>> {
        self.by_name.get(name)
    }

    /// The service of this name, for a request.
    ///
    /// # Errors
    /// [`ErrorCode::UnknownService`].
    pub fn find(&self, name: &str) -> Result<&Arc<Service>, Failure> {
        self.get(name).ok_or_else(|| {
            let shown: String = name.chars().take(64).collect();
            Failure::new(ErrorCode::UnknownService, format!("no service is called {shown:?}"))
        })
    }

    /// The topics of which single messages can be deleted, and their times.
    pub fn deletable_topics(&self) -> BTreeMap<Arc<str>, Compaction> {
        let topic =
            |service: &Arc<Service>| Some((Arc::clone(&service.topic), service.compaction?));
        self.by_name.values().filter_map(topic).collect()
    }

    /// The names of all services, in order.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.by_name.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// Whether a service gets this header (a name in lower case) of its callers' requests. For an
    /// unknown service the answer is yes, because the request is refused for that reason anyway.
    pub fn allows_header(&self, service: &str, name: &str) -> bool {
        self.get(service).is_none_or(|service| service.passes_to_service(name))
    }

    /// Counts the refusal of a request, under the named service if there is one.
    pub fn refused(&self, service: &str, edge: Edge, failure: Failure) -> Failure {
        let metrics = self.get(service).map_or(&self.unknown, |known| &known.metrics);
        metrics.ended(edge, Err(&failure));
        failure
    }

    /// Counts a reply for which nobody on this node waits, by what became of it.
    pub fn count_reply(&self, path: ReplyPath) {
        self.unknown.replied(path);
    }
}

/// One configured service.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: Arc<str>,
    /// Where its requests are written.
    pub topic: Arc<str>,
    /// What its framework understands.
    pub dialect: Dialect,
    /// The events that answer its requests, where replies do not.
    pub respond_on: Option<RespondOnConfig>,
    /// It is none: these wait for states of a view.
    pub is_view: bool,
    /// Handles of its metrics.
    pub metrics: ServiceMetrics,
    /// The times of its topic, if a single message of it can be deleted.
    pub compaction: Option<Compaction>,
    /// How long the next part of a streamed reply may take.
    pub stream_idle_timeout: Duration,
    timeout: Duration,
    timeout_max: Duration,
    allowed_headers: Vec<String>,
}

impl Service {
    /// The service as configured.
    pub fn new(name: &str, config: &ServiceConfig, telemetry: &Telemetry) -> Self {
        Self {
            name: name.into(),
            topic: config.request_topic.as_str().into(),
            dialect: config.dialect,
            respond_on: config.respond_on.clone(),
            is_view: false,
            metrics: telemetry.service(name),
            compaction: config.deleted_within().map(Compaction::within),
            stream_idle_timeout: config.stream_idle_timeout,
            timeout: config.timeout,
            timeout_max: config.timeout_max,
            allowed_headers: config.allowed_headers.clone(),
        }
    }

    /// Whether a single message of its topic can be deleted.
    pub const fn is_deletable(&self) -> bool {
        self.compaction.is_some()
    }

    /// The key of a record, and how many bytes at its end do not count for its partition.
    pub fn record_key<'a>(&self, key: &'a [u8], guid: &[u8]) -> (Cow<'a, [u8]>, usize) {
        match self.is_deletable() {
            true => (Cow::Owned(wire_key(key, guid)), SUFFIX_BYTES),
            false => (Cow::Borrowed(key), 0),
        }
    }

    /// What stands in the place of a service for those who wait for states of a view. No service can be
    /// called so.
    pub fn of_view(
        view: &str,
        (timeout, timeout_max): (Duration, Duration),
        telemetry: &Telemetry,
    ) -> Self {
        let name = format!("view:{view}");
        Self {
            metrics: telemetry.service(&name),
            name: name.into(),
            topic: "".into(),
            dialect: Dialect::Plain,
            respond_on: None,
            is_view: true,
            compaction: None,
            stream_idle_timeout: timeout_max,
            timeout,
            timeout_max,
            allowed_headers: Vec::new(),
        }
    }

    /// Whether a record that says nothing about it may be one part of several.
    pub fn may_be_part(&self) -> bool {
        self.dialect == Dialect::Nest
    }

    /// How long a request may take in all.
    pub fn timeout_max(&self) -> Duration {
        self.timeout_max
    }

    /// How long a request waits: what the client wants, up to the service's maximum.
    pub fn timeout(&self, wanted: Option<Duration>) -> Duration {
        wanted.unwrap_or(self.timeout).min(self.timeout_max)
    }

    /// Whether a client's header is handed to the service. Headers with our own prefix never are:
    /// clients must not set them.
    pub fn passes_to_service(&self, name: &str) -> bool {
        self.passes(name) && !name.starts_with("roundtrip-")
    }

    /// Whether a service's header is handed to the client.
    pub fn passes_to_client(&self, name: &str) -> bool {
        name == "content-type" || self.allowed_headers.iter().any(|allowed| allowed == name)
    }

    fn passes(&self, name: &str) -> bool {
        ALWAYS_ALLOWED.contains(&name) || self.allowed_headers.iter().any(|allowed| allowed == name)
    }
}
