//! Scenarios of sessions that survive. They move to `scenarios.rs` once the gateway offers them.

mod scenarios {
    mod instruments;
    mod resume;
    mod resume_ends;
    mod resume_kills;
    mod resume_requests;
    mod resume_tokens;
    mod survival;
}
