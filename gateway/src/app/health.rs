//! When a node is ready, and which of its promises it cannot keep: what is checked, and the words
//! for it.

use std::sync::Arc;

use crate::{
    bus::Trouble,
    readiness::{Component, Health, Readiness},
    relay::Relay,
};

/// What a node needs to take requests, and what it promises beside that: one line for each way to
/// look at it. What it reads has its own, in `readers`.
pub(super) fn readiness(relay: &Arc<Relay>) -> Readiness {
    let (draining, membership) = (Arc::clone(relay), Arc::clone(&relay.membership));
    Readiness::default()
        .with(Component::Node, move || Health::unready_if(draining.gate.is_draining(), "draining"))
        .with(Component::Registry, move || {
            match (membership.is_announced(), membership.trouble()) {
                (true, None) => Health::Well,
                // What this node holds is served on without a registry.
                (true, Some(error)) => Health::Degraded(error.to_string()),
                (false, None) => Health::Unready("not announced in the registry yet".to_owned()),
                (false, Some(error)) => {
                    Health::Unready(format!("not announced in the registry yet: {error}"))
                }
            }
        })
}

/// Requests cannot be recorded, or their replies not be read. A broker that cannot be reached matters
/// where there is no other: else it only says why there is none.
pub(crate) fn kafka_health(is_available: bool, troubles: &[Trouble]) -> Health {
    let is_connection = |trouble: &&Trouble| matches!(trouble, Trouble::Unreachable(_));
    let reading = troubles.iter().filter(|trouble| !is_connection(trouble));
    let mut reasons: Vec<String> = reading.map(ToString::to_string).collect();
    if !is_available {
        let why = troubles.iter().find(is_connection);
        reasons.insert(
            0,
            match why {
                Some(why) => format!("kafka cannot be reached: {why}"),
                None => "kafka cannot be reached".to_owned(),
            },
        );
    }
    if reasons.is_empty() { Health::Well } else { Health::Unready(reasons.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_is_away_matters_where_there_is_no_other() {
        let away = Trouble::Unreachable("kafka-1:9092 cannot be resolved: no such host".to_owned());
        let missing = Trouble::MissingTopic("replies".to_owned());
        assert_eq!(kafka_health(true, &[]), Health::Well);
        assert_eq!(kafka_health(true, std::slice::from_ref(&away)), Health::Well);
        let unready = |reason: &str| Health::Unready(reason.to_owned());
        assert_eq!(kafka_health(false, &[]), unready("kafka cannot be reached"));
        assert_eq!(
            kafka_health(false, std::slice::from_ref(&away)),
            unready("kafka cannot be reached: kafka-1:9092 cannot be resolved: no such host")
        );
        assert_eq!(
            kafka_health(true, &[away, missing]),
            unready("topic replies does not exist: `roundtrip topics` creates it")
        );
    }
}
