//! Durations and sizes as text: a whole number and a unit. Owns both directions; knows no option.

use std::time::Duration;

/// Milliseconds in each unit, smallest first.
const DURATION_UNITS: [(&str, u64); 4] =
    [("ms", 1), ("s", 1_000), ("m", 60 * 1_000), ("h", 60 * 60 * 1_000)];

/// Bytes in each unit, smallest first.
const SIZE_UNITS: [(&str, u64); 4] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Reads `250ms`, `25s`, `5m` or `24h`.
///
/// # Errors
/// What would be right, for any other text and for more than 2^64 - 1 milliseconds.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    parse(text, &DURATION_UNITS)
        .map(Duration::from_millis)
        .ok_or_else(|| "expected a whole number and a unit (ms, s, m, h), as in \"25s\"".to_owned())
}

/// Reads `500B`, `900KiB`, `1MiB` or `1GiB` as bytes.
///
/// # Errors
/// What would be right, for any other text and for more than 2^64 - 1 bytes.
pub(super) fn parse_size(text: &str) -> Result<u64, String> {
    parse(text, &SIZE_UNITS).ok_or_else(|| {
        "expected bytes: an integer, or a whole number and a unit (B, KiB, MiB, GiB), as in \
         \"900KiB\""
            .to_owned()
    })
}

/// The shortest text that [`parse_duration`] reads as `duration`, rounded down to milliseconds.
pub(super) fn format_duration(duration: Duration) -> String {
    format(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &DURATION_UNITS, "s")
}

/// The shortest text that [`parse_size`] reads as `bytes`.
pub(super) fn format_size(bytes: u64) -> String {
    format(bytes, &SIZE_UNITS, "B")
}

fn parse(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

fn format(value: u64, units: &[(&str, u64)], unit_of_zero: &str) -> String {
    match units.iter().rev().find(|(_, factor)| value != 0 && value.is_multiple_of(*factor)) {
        Some((unit, factor)) => format!("{}{unit}", value / factor),
        None => format!("0{unit_of_zero}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_every_unit() {
        for (text, ms) in
            [("250ms", 250), ("25s", 25_000), ("5m", 300_000), ("24h", 86_400_000), ("0s", 0)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)));
        }
        for (text, bytes) in
            [("500B", 500), ("900KiB", 921_600), ("1MiB", 1 << 20), ("2GiB", 2 << 30)]
        {
            assert_eq!(parse_size(text), Ok(bytes));
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in
            ["", "5", "s", "5 s", " 5s", "5s ", "1.5s", "-5s", "+5s", "5S", "5d", "1s5ms", "٣s"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        for text in ["", "5", "B", "5 B", "5b", "5kB", "5MB", "1_000B", "0x10B", "5KiBs"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
        assert!(parse_duration("18446744073709551616ms").is_err());
        assert!(parse_size("18446744073709551615KiB").is_err());
    }

    proptest! {
        #[test]
        fn durations_round_trip(ms in any::<u64>()) {
            let duration = Duration::from_millis(ms);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn sizes_round_trip(bytes in any::<u64>()) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
        }

        #[test]
        fn whole_units_stay_whole(count in 1_u64..60, unit in 0_usize..4) {
            let text = format!("{count}{}", DURATION_UNITS[unit].0);
            prop_assert_eq!(parse_duration(&text).map(format_duration), Ok(text));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _parsed = (parse_duration(&text), parse_size(&text));
        }
    }
}
