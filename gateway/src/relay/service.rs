//! A backend service as the relay knows it: a topic, its time limits and what may pass.

use std::{sync::Arc, time::Duration};

use crate::{
    config::{Dialect, ServiceConfig},
    telemetry::{ServiceMetrics, Telemetry},
};

/// Headers that pass whatever a service's allow-list says.
const ALWAYS_ALLOWED: [&str; 3] = ["content-type", "traceparent", "tracestate"];

/// One configured service.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: Arc<str>,
    /// Where its requests are written.
    pub topic: Arc<str>,
    /// What its framework understands.
    pub dialect: Dialect,
    /// Its metrics' handles.
    pub metrics: ServiceMetrics,
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
            metrics: telemetry.service(name),
            timeout: config.timeout,
            timeout_max: config.timeout_max,
            allowed_headers: config.allowed_headers.clone(),
        }
    }

    /// How long a request waits: what the client wants, up to the service's maximum.
    pub fn timeout(&self, wanted: Option<Duration>) -> Duration {
        wanted.unwrap_or(self.timeout).min(self.timeout_max)
    }

    /// Whether a client's header is handed to the service. Our own prefix is never a client's.
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
