//! What compacts topics on each broker, and how often it looks for something to do.

use std::{collections::BTreeMap, time::Duration};

use rdkafka::{admin::OwnedResourceSpecifier, consumer::Consumer as _};

use super::{
    super::KafkaSettings, ANSWER_PATIENCE, AdminContext, AdminError, StartError, administer, ask,
    configuration,
};

/// How long it pauses when it finds nothing to compact.
const BACKOFF: &str = "log.cleaner.backoff.ms";
/// Whether it runs at all.
const ENABLED: &str = "log.cleaner.enable";

/// The brokers whose cleaners look for work less often than this, one sentence each. A broker that
/// does not show its configuration, as to those who may not see it, is none of them.
///
/// # Errors
/// The client cannot be set up, or the cluster does not answer at all.
pub async fn slow_cleaners(
    settings: &KafkaSettings,
    pause_max: Duration,
) -> Result<Vec<String>, AdminError> {
    let brokers = |asking: &super::Asking| {
        let metadata = asking.fetch_metadata(None, ANSWER_PATIENCE)?;
        Ok(metadata.brokers().iter().map(|broker| broker.id()).collect::<Vec<i32>>())
    };
    let brokers = ask(settings, AdminContext::new(false), brokers).await?;
    let admin = administer(settings).map_err(|error: StartError| AdminError::from(error))?;
    let mut found = Vec::new();
    for broker in brokers {
        match configuration(&admin, OwnedResourceSpecifier::Broker(broker)).await {
            Ok(config) => found.extend(trouble(broker, &config, pause_max)),
            Err(error) => tracing::warn!(broker, %error, "its log.cleaner.… cannot be looked at"),
        }
    }
    Ok(found)
}

fn trouble(broker: i32, config: &BTreeMap<String, String>, pause_max: Duration) -> Option<String> {
    if config.get(ENABLED).is_some_and(|enabled| enabled == "false") {
        return Some(format!("broker {broker}: {ENABLED} is false: it compacts nothing"));
    }
    let backoff: u64 = config.get(BACKOFF)?.parse().ok()?;
    let max = pause_max.as_millis();
    (u128::from(backoff) > max)
        .then(|| format!("broker {broker}: {BACKOFF} is {backoff}, should be {max} at most"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cleaner_that_is_known_to_be_slow_is_named() {
        let with = |entries: &[(&str, &str)]| {
            let config = entries.iter().map(|(name, value)| ((*name).into(), (*value).into()));
            trouble(3, &config.collect(), Duration::from_secs(2))
        };
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[(BACKOFF, "2000"), (ENABLED, "true")]), None);
        let slow = "broker 3: log.cleaner.backoff.ms is 2001, should be 2000 at most";
        assert_eq!(with(&[(BACKOFF, "2001")]).as_deref(), Some(slow));
        let off = "broker 3: log.cleaner.enable is false: it compacts nothing";
        assert_eq!(with(&[(BACKOFF, "1"), (ENABLED, "false")]).as_deref(), Some(off));
    }
}
