//! What a [`crate::tables::views::ViewTable`] promises.

use std::time::Duration;

use tokio::time::sleep;

use super::{eventually, good, request, same};
use crate::{
    ids::RequestId,
    tables::{
        Registry,
        views::{After, Event, EventPlace, Latest, StateWait, ViewKey, Waiting},
    },
};

const TTL: Duration = Duration::from_secs(60);

/// Runs every check of views.
pub(super) async fn run_all<R: Registry>(make: &impl AsyncFn() -> R) {
    the_latest_event_is_found(&make().await).await;
    a_lower_offset_never_takes_a_view_back(&make().await).await;
    a_tombstone_removes_a_key_for_good(&make().await).await;
    a_key_that_has_moved_goes_by_time(&make().await).await;
    events_find_who_waits_until_that_is_forgotten(&make().await).await;
    only_what_is_newer_than_the_wait_counts(&make().await).await;
    a_state_that_is_reached_ends_a_wait_at_once(&make().await).await;
    a_wait_begins_again_where_it_was(&make().await).await;
    events_that_are_too_old_do_not_count(&make().await).await;
    views_expire(&make().await).await;
    marks_are_of_one_partition(&make().await).await;
    no_wake_up_is_lost(&make().await).await;
}

fn key(key: &[u8]) -> ViewKey {
    ViewKey { view: "orders".into(), key: key.to_vec().into() }
}

fn place(offset: i64) -> EventPlace {
    EventPlace { topic: "AAAAAAAAAAAAAAAAAAAAAA".into(), partition: 3, offset, at_ms: 1_000 }
}

fn event(at: &ViewKey, offset: i64, state: &str) -> Event {
    let content = Some(format!("{state} at {offset}\0").into_bytes().into());
    Event { key: at.clone(), place: place(offset), state: Some(state.into()), content }
}

fn latest(event: &Event) -> Latest {
    let Event { place, state, content, .. } = event.clone();
    Latest { place, state, content: content.expect("no tombstone") }
}

fn wait(key: &ViewKey, until: &[&str], after: After) -> StateWait {
    let until = until.iter().map(|state| (*state).into()).collect();
    let (key, request) = (key.clone(), request());
    StateWait { key, request, until, after, not_before_ms: 0, ttl: TTL }
}

async fn write(registry: &impl Registry, event: &Event) -> Vec<RequestId> {
    let mut found = good(registry.write_events(std::slice::from_ref(event), TTL).await, "write");
    let mut found = found.pop().expect("one answer for each");
    found.sort_unstable();
    found
}

async fn begin(registry: &impl Registry, wait: &StateWait) -> Waiting {
    let mut begun = good(registry.begin_waits(std::slice::from_ref(wait)).await, "begin_waits");
    begun.pop().expect("one answer for each")
}

async fn find(registry: &impl Registry, key: &ViewKey) -> Option<Latest> {
    let mut found = good(registry.find_latest(std::slice::from_ref(key)).await, "find_latest");
    found.pop().expect("one answer for each")
}

async fn the_latest_event_is_found(registry: &impl Registry) {
    let keys = [key(b""), key(b"1"), key(b"a}{b:w \xff\0")];
    same(&find(registry, &keys[0]).await, &None, "nothing is there");
    for (number, key) in (5..).zip(&keys) {
        write(registry, &event(key, number, "NEW")).await;
        let of_another = ViewKey { view: "others".into(), ..key.clone() };
        same(&find(registry, &of_another).await, &None, "views are apart");
    }
    let found = good(registry.find_latest(&keys).await, "find_latest");
    let events = (5..).zip(&keys).map(|(number, key)| Some(latest(&event(key, number, "NEW"))));
    same(&found, &events.collect(), "each key has its event, byte for byte, in the order asked");
    let bare = Event { state: None, ..event(&keys[0], 9, "") };
    write(registry, &bare).await;
    same(&find(registry, &keys[0]).await, &Some(latest(&bare)), "an event may say no state");
    let empty = Event { content: Some(Vec::new().into()), ..event(&keys[0], 10, "") };
    write(registry, &empty).await;
    same(&find(registry, &keys[0]).await, &Some(latest(&empty)), "an empty event is one");
    good(registry.find_latest(&[]).await, "find_latest of nothing");
}

async fn a_lower_offset_never_takes_a_view_back(registry: &impl Registry) {
    let key = key(b"1");
    for offset in [7, 9, 8, 3, 9] {
        write(registry, &event(&key, offset, &format!("S{offset}"))).await;
    }
    let nine = event(&key, 9, "S9");
    same(&find(registry, &key).await, &Some(latest(&nine)), "the highest offset stays");
    let anew = Event {
        place: EventPlace { topic: "BBBBBBBBBBBBBBBBBBBBBB".into(), ..place(0) },
        ..event(&key, 0, "ANEW")
    };
    write(registry, &anew).await;
    same(&find(registry, &key).await, &Some(latest(&anew)), "another topic begins anew");
}

async fn a_tombstone_removes_a_key_for_good(registry: &impl Registry) {
    let key = key(b"1");
    write(registry, &event(&key, 1, "NEW")).await;
    let removed = Event { state: None, content: None, ..event(&key, 2, "") };
    same(&write(registry, &removed).await, &Vec::new(), "nobody waits for a removal");
    same(&find(registry, &key).await, &None, "a tombstone removes the key");
    write(registry, &event(&key, 1, "NEW")).await;
    same(&find(registry, &key).await, &None, "what is read again does not bring it back");
    let next = event(&key, 3, "NEW");
    write(registry, &next).await;
    same(&find(registry, &key).await, &Some(latest(&next)), "the next event does");
}

async fn a_key_that_has_moved_goes_by_time(registry: &impl Registry) {
    let key = key(b"1");
    let at = |partition, offset, at_ms| {
        let place = EventPlace { partition, at_ms, ..place(offset) };
        Event { place, ..event(&key, offset, "NEW") }
    };
    let (before, after) = (at(0, 900, 1_000), at(5, 1, 2_000));
    write(registry, &before).await;
    write(registry, &after).await;
    same(&find(registry, &key).await, &Some(latest(&after)), "the later event stays");
    write(registry, &before).await;
    same(&find(registry, &key).await, &Some(latest(&after)), "whatever is read again");
}

async fn events_find_who_waits_until_that_is_forgotten(registry: &impl Registry) {
    let key = key(b"a}\xff");
    let waits = [
        wait(&key, &["DONE", "FAILED"], After::Present),
        wait(&key, &["FAILED"], After::Nothing),
        wait(&key, &["DONE", "é \"\n"], After::Nothing),
    ];
    for wait in &waits {
        same(&begin(registry, wait).await, &Waiting::Begun(None), "there is no event yet");
    }
    let ids = |of: &[usize]| {
        let mut ids: Vec<_> = of.iter().map(|index| waits[*index].request).collect();
        ids.sort_unstable();
        ids
    };
    same(&write(registry, &event(&key, 1, "NEW")).await, &ids(&[]), "nobody waits for this");
    let done = event(&key, 2, "DONE");
    same(&write(registry, &done).await, &ids(&[0, 2]), "two wait for this state");
    same(&write(registry, &done).await, &ids(&[0, 2]), "and when it is read again, they still do");
    write(registry, &event(&key, 3, "NEW")).await;
    same(&write(registry, &done).await, &ids(&[0, 2]), "although there is a newer one");
    let odd = event(&key, 4, "é \"\n");
    same(&write(registry, &odd).await, &ids(&[2]), "a state is any text");
    let told = [(key.clone(), waits[0].request), (key.clone(), request())];
    good(registry.forget_waits(&told).await, "forget_waits");
    same(&write(registry, &event(&key, 5, "DONE")).await, &ids(&[2]), "one is forgotten");
    good(registry.forget_waits(&[(key.clone(), waits[2].request)]).await, "forget_waits");
    same(&write(registry, &event(&key, 6, "DONE")).await, &ids(&[]), "both are");
    same(&write(registry, &event(&key, 7, "FAILED")).await, &ids(&[1]), "the third waits");
}

async fn only_what_is_newer_than_the_wait_counts(registry: &impl Registry) {
    let key = key(b"1");
    write(registry, &event(&key, 5, "DONE")).await;
    let new = wait(&key, &["DONE"], After::Present);
    let begun = begin(registry, &new).await;
    same(&begun, &Waiting::Begun(Some(place(5))), "the present state is not what it waits for");
    same(&write(registry, &event(&key, 5, "DONE")).await, &vec![], "also when it is read again");
    same(&write(registry, &event(&key, 4, "DONE")).await, &vec![], "nor an earlier one");
    same(&write(registry, &event(&key, 6, "DONE")).await, &vec![new.request], "the next one is");
    let moved = EventPlace { partition: 4, at_ms: 1_001, ..place(0) };
    let moved = Event { place: moved, ..event(&key, 0, "DONE") };
    same(&write(registry, &moved).await, &vec![new.request], "a later one elsewhere, too");
}

async fn a_state_that_is_reached_ends_a_wait_at_once(registry: &impl Registry) {
    let key = key(b"1");
    let done = event(&key, 5, "DONE");
    write(registry, &done).await;
    let any = wait(&key, &["FAILED", "DONE"], After::Nothing);
    same(&begin(registry, &any).await, &Waiting::Over(latest(&done)), "it is reached");
    same(&write(registry, &event(&key, 6, "DONE")).await, &vec![], "nothing was begun");
    let removed = Event { state: None, content: None, ..event(&key, 7, "") };
    write(registry, &removed).await;
    let begun = Waiting::Begun(Some(place(7)));
    same(&begin(registry, &any).await, &begun, "what is removed has no state");
    same(
        &write(registry, &done).await,
        &vec![],
        "nor the one that it had, when that is read again",
    );
}

async fn a_wait_begins_again_where_it_was(registry: &impl Registry) {
    let key = key(b"1");
    write(registry, &event(&key, 5, "DONE")).await;
    let again = wait(&key, &["DONE"], After::Place(place(5)));
    let begun = begin(registry, &again).await;
    same(&begun, &Waiting::Begun(Some(place(5))), "there is nothing newer");
    let six = event(&key, 6, "DONE");
    same(&write(registry, &six).await, &vec![again.request], "and then there is");
    same(&begin(registry, &again).await, &Waiting::Over(latest(&six)), "also for who comes late");
}

async fn events_that_are_too_old_do_not_count(registry: &impl Registry) {
    let key = key(b"1");
    let wait = StateWait { not_before_ms: 1_001, ..wait(&key, &["DONE"], After::Nothing) };
    write(registry, &event(&key, 1, "DONE")).await;
    let begun = Waiting::Begun(Some(place(1)));
    same(&begin(registry, &wait).await, &begun, "the latest is too old");
    same(&write(registry, &event(&key, 2, "DONE")).await, &vec![], "so is this");
    for at_ms in [0, 1_001] {
        let place = EventPlace { at_ms, ..place(3) };
        let found = write(registry, &Event { place, ..event(&key, 3, "DONE") }).await;
        same(&found, &vec![wait.request], "this is not, or does not say so");
    }
}

async fn views_expire(registry: &impl Registry) {
    let (short, key) = (Duration::from_millis(200), key(b"1"));
    let brief = StateWait { ttl: short, ..wait(&key, &["DONE"], After::Nothing) };
    begin(registry, &brief).await;
    let long = wait(&key, &["DONE"], After::Nothing);
    begin(registry, &long).await;
    good(registry.write_events(&[event(&key, 1, "NEW")], short).await, "write_events");
    good(registry.put_marks(&[("orders".into(), 1, "x".into())], short).await, "put_marks");
    eventually("an event expires", async || find(registry, &key).await.is_none()).await;
    eventually("a mark expires", async || marks(registry, &[1]).await == [None]).await;
    // By the server's clock it is over as well.
    sleep(short).await;
    let found = write(registry, &event(&key, 2, "DONE")).await;
    same(&found, &vec![long.request], "a wait whose time is over does not wait");
    good(registry.write_events(&[event(&key, 2, "DONE")], short).await, "write_events");
    write(registry, &event(&key, 2, "DONE")).await;
    sleep(short * 2).await;
    assert!(find(registry, &key).await.is_some(), "an event that is written again lives on");
}

async fn marks(registry: &impl Registry, partitions: &[i32]) -> Vec<Option<Box<str>>> {
    let of: Vec<_> = partitions.iter().map(|partition| ("orders".into(), *partition)).collect();
    good(registry.find_marks(&of).await, "find_marks")
}

async fn marks_are_of_one_partition(registry: &impl Registry) {
    same(&marks(registry, &[0, 1]).await, &vec![None, None], "nothing is noted");
    let of = |partition, mark: &str| ("orders".into(), partition, mark.into());
    good(registry.put_marks(&[of(1, "a"), of(2, "b"), of(1, "c d=\n")], TTL).await, "put_marks");
    let expected = vec![None, Some("c d=\n".into()), Some("b".into())];
    same(&marks(registry, &[0, 1, 2]).await, &expected, "the last of each is");
}

/// Waits that begin while the event is written for which they wait: each is found by the event, or is told
/// that it is there, and those that want a newer one are never told of this.
async fn no_wake_up_is_lost(registry: &impl Registry) {
    const KEYS: usize = 10_000;
    const BATCH: usize = 100;
    let keys: Vec<ViewKey> = (0..KEYS).map(|number| key(number.to_string().as_bytes())).collect();
    for (round, keys) in keys.chunks(BATCH).enumerate() {
        let events: Vec<Event> = keys.iter().map(|key| event(key, 1, "DONE")).collect();
        let any: Vec<_> = keys.iter().map(|key| wait(key, &["DONE"], After::Nothing)).collect();
        let newer: Vec<_> = keys.iter().map(|key| wait(key, &["DONE"], After::Present)).collect();
        // In different orders, so that some of each come first.
        let begin = async {
            let (early, late) = any.split_at(round * 37 % BATCH);
            let late_begun = good(registry.begin_waits(late).await, "begin_waits");
            let new_begun = good(registry.begin_waits(&newer).await, "begin_waits");
            let early_begun = good(registry.begin_waits(early).await, "begin_waits");
            ([early_begun, late_begun].concat(), new_begun)
        };
        let write = async {
            let (early, late) = events.split_at(round * 61 % BATCH);
            let late_found = good(registry.write_events(late, TTL).await, "write_events");
            let early_found = good(registry.write_events(early, TTL).await, "write_events");
            [early_found, late_found].concat()
        };
        let ((begun, new_begun), found) = tokio::join!(begin, write);
        let again = good(registry.write_events(&events, TTL).await, "write_events");
        for index in 0..keys.len() {
            let (any, newer) = (any[index].request, newer[index].request);
            let is_told = matches!(begun[index], Waiting::Over(_));
            let is_found = found[index].contains(&any);
            assert!(is_told != is_found, "once: told {is_told}, found {is_found}");
            assert!(
                is_told != again[index].contains(&any),
                "and found again when it is read again"
            );
            let has_seen = matches!(&new_begun[index], Waiting::Begun(Some(_)));
            assert!(has_seen != found[index].contains(&newer), "newer than what it has seen");
        }
    }
}
