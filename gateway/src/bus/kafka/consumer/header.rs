//! The headers of a record as a slice, whatever they are named.

use std::{
    cell::Cell,
    panic::{self, AssertUnwindSafe, catch_unwind},
    sync::Once,
};

use rdkafka::message::{Header, Headers};

/// A header's name and value, borrowed from the record.
pub(super) type HeaderRef<'a> = (&'a str, Option<&'a [u8]>);

thread_local! {
    static READING: Cell<bool> = const { Cell::new(false) };
}

/// Adds the headers to `into`, but for those whose names are not UTF-8; returns how many those are.
///
/// rdkafka panics on such a name and offers no other way to it, so the panic is caught where it
/// starts, between two reads: a foreign record must not cost the consumer.
pub(super) fn read<'a, H: Headers>(headers: &'a H, into: &mut Vec<HeaderRef<'a>>) -> usize {
    let mut foreign = 0;
    READING.set(true);
    for index in 0..headers.count() {
        match catch_unwind(AssertUnwindSafe(|| headers.try_get(index))) {
            Ok(Some(Header { key, value })) => into.push((key, value)),
            Ok(None) => {}
            Err(_) => foreign += 1,
        }
    }
    READING.set(false);
    foreign
}

/// Keeps the panics that [`read`] catches off the standard error, where each would print a
/// backtrace. All others go to the hook that was there before.
pub(super) fn hide_caught_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !READING.get() {
                previous(info);
            }
        }));
    });
}

/// An empty vector in the memory of another one, for values of another lifetime.
pub(super) fn recycle<'b>(mut headers: Vec<HeaderRef<'_>>) -> Vec<HeaderRef<'b>> {
    headers.clear();
    // Collected in place by the standard library; at worst this allocates.
    headers.into_iter().map(|_| -> HeaderRef<'b> { unreachable!("it was cleared") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_memory_is_used_again() {
        let headers: Vec<HeaderRef<'_>> = vec![("a", None); 7];
        let memory = headers.as_ptr().addr();
        let headers = recycle(headers);
        assert_eq!((headers.len(), headers.capacity()), (0, 7));
        assert_eq!(headers.as_ptr().addr(), memory);
    }

    /// What rdkafka does with headers named `a`, something that is not UTF-8, and `c`.
    struct Foreign;

    impl Headers for Foreign {
        fn count(&self) -> usize {
            3
        }

        fn try_get(&self, index: usize) -> Option<Header<'_, &[u8]>> {
            let names: [&[u8]; 3] = [b"a", b"\xff", b"c"];
            Some(Header { key: std::str::from_utf8(names[index]).unwrap(), value: None })
        }
    }

    #[test]
    fn a_header_with_a_foreign_name_is_left_out() {
        hide_caught_panics();
        let mut headers = Vec::new();
        assert_eq!(read(&Foreign, &mut headers), 1);
        assert_eq!(headers, [("a", None), ("c", None)]);
        assert!(!READING.get());
    }
}
