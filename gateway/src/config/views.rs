//! Views, and services whose requests they answer, as they are configured.

/// Which event answers a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RespondOnConfig {
    /// A view that is configured.
    pub view: String,
    /// JSON pointer into the request's payload, to the key in the view.
    pub key: String,
    /// The states, any of which answers; at least one.
    pub until: Vec<String>,
}

/// A view of a topic of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewConfig {
    /// The topic whose events it follows.
    pub topic: String,
    /// JSON pointer into an event, to the state of its key.
    pub state: String,
}
