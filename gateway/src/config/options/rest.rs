//! The options of responses that are stored for their callers.

use std::time::Duration;

use super::{
    super::{
        RestConfig,
        kinds::{Period, Size},
        reader::Section,
    },
    HOUR,
};

const WEEK: u64 = 7 * 24 * HOUR;
const MIB: u32 = 1 << 20;

pub(super) fn rest(section: &mut Section<'_>) -> RestConfig {
    section.accept_unused(&["idempotency_retention"]);
    RestConfig {
        response_retention: section.defaulted(
            "response_retention",
            &Period { ms_min: 100, ms_max: WEEK },
            Duration::from_secs(600),
            "How long the response to a call with `Prefer: respond-async` can be fetched. For as \
             long again it is answered with `gone`. A reply may also be so much later than the \
             request's own time.",
        ),
        response_bytes_max: section.defaulted(
            "response_bytes_max",
            &Size { bytes_max: 256 * MIB },
            MIB as usize,
            "Bytes of one such response, payload and headers. Redis has to hold them all. In place \
             of a larger one the caller gets `too_large`, counted by \
             `roundtrip_limit_hits_total{limit=\"response_bytes_max\"}`.",
        ),
    }
}
