//! What a [`crate::tables::RequestTable`] promises.

use std::sync::Arc;

use tokio::time::Instant;

use super::{eventually, good, request, route, same};
use crate::{
    ids::{RequestId, SessionId},
    tables::{Registry, Route},
};

pub(super) async fn come_back_as_they_were_written(registry: &impl Registry) {
    let http = route("gw-1");
    let mut socket = route("a.very-long_name.0123456789.0123456789.0123456789.0123456789.012");
    socket.node.incarnation = u64::MAX;
    socket.session = Some(SessionId::random());
    socket.client_id = Some(r#""42""#.into());
    for written in [http, socket] {
        let id = request();
        put(registry, &[(id, written.clone())]).await;
        same(&find(registry, &[id]).await, &vec![Some(written)], "a route comes back whole");
    }
}

pub(super) async fn keep_every_client_id(registry: &impl Registry) {
    let longest = format!("\"{}\"", "x".repeat(126));
    let ids = [
        "",
        "7",
        "-9007199254740993",
        "\"\"",
        "\" two  spaces \"",
        r#""a\"b\\c\u0000\n""#,
        "\"日本語 🦀 é\"",
        "\"- | 1 2 3\"",
        "-",
        "raw\nline\r\nends and \0 zero",
        &longest,
    ];
    for client_id in ids {
        for session in [None, Some(SessionId::random())] {
            let id = request();
            let written = Route { session, client_id: Some(client_id.into()), ..route("gw-1") };
            put(registry, &[(id, written.clone())]).await;
            let found = find(registry, &[id]).await;
            same(&found, &vec![Some(written)], "a client's id is kept byte for byte");
        }
    }
}

pub(super) async fn are_found_in_the_order_asked(registry: &impl Registry) {
    let ids: Vec<_> = std::iter::repeat_with(request).take(5).collect();
    let written: Vec<_> = ["a", "b", "c"].into_iter().map(route).collect();
    let batch: Vec<_> = ids.iter().copied().zip(written.iter().cloned()).collect();
    put(registry, &batch).await;
    let asked = [ids[4], ids[2], ids[0], ids[3], ids[1], ids[2]];
    let [a, b, c] = [0, 1, 2].map(|index| Some(written[index].clone()));
    let expected = vec![None, c.clone(), a, None, b, c];
    same(&find(registry, &asked).await, &expected, "routes come in the order asked for");
}

pub(super) async fn may_come_in_no_and_in_large_numbers(registry: &impl Registry) {
    put(registry, &[]).await;
    same(&find(registry, &[]).await, &Vec::new(), "nothing asked, nothing found");
    good(registry.remove_routes(&[]).await, "remove_routes of nothing");

    let batch: Vec<_> = (0..1000).map(|n| (request(), route(&format!("gw-{n}")))).collect();
    let ids: Vec<_> = batch.iter().map(|(id, _)| *id).collect();
    put(registry, &batch).await;
    let expected: Vec<_> = batch.into_iter().map(|(_, route)| Some(route)).collect();
    assert!(find(registry, &ids).await == expected, "1000 routes come back, in order");
    good(registry.remove_routes(&ids).await, "remove_routes of 1000");
    let left = find(registry, &ids).await.into_iter().flatten().count();
    same(&left, &0, "1000 routes are removed");
}

pub(super) async fn replace_those_of_the_same_request(registry: &impl Registry) {
    let id = request();
    put(registry, &[(id, route("first"))]).await;
    put(registry, &[(id, route("second"))]).await;
    let found = find(registry, &[id]).await;
    same(&found[0].as_ref().map(node), &Some("second"), "a route is replaced");

    let batch: Vec<_> = (0..100).map(|n| (id, route(&format!("gw-{n}")))).collect();
    put(registry, &batch).await;
    let found = find(registry, &[id]).await;
    same(&found[0].as_ref().map(node), &Some("gw-99"), "the last of a batch stays");
}

pub(super) async fn are_removed_alone(registry: &impl Registry) {
    let [kept, removed, absent] = [request(), request(), request()];
    put(registry, &[(kept, route("gw-1")), (removed, route("gw-1"))]).await;
    for _ in 0..2 {
        let outcome = registry.remove_routes(&[removed, absent, removed]).await;
        good(outcome, "remove_routes, also of what is not there");
        let found = find(registry, &[kept, removed]).await;
        same(&found.iter().map(Option::is_some).collect(), &vec![true, false], "one is removed");
    }
}

pub(super) async fn expire_with_their_deadline(registry: &impl Registry) {
    let [over, open, endless] = [request(), request(), request()];
    let of = |deadline_ms| Route { deadline_ms, ..route("gw-1") };
    let before = Instant::now();
    put(registry, &[(over, of(0)), (open, route("gw-1")), (endless, of(u64::MAX))]).await;
    let found = find(registry, &[over]).await;
    let in_time = before.elapsed() < Route::TTL_MIN;
    assert!(found[0].is_some() || !in_time, "a route stays a second, even after its deadline");
    let gone = async || find(registry, &[over]).await[0].is_none();
    eventually("a route expires after its deadline and the grace", gone).await;
    let found = find(registry, &[open, endless]).await;
    assert!(found.iter().all(Option::is_some), "a route whose deadline is ahead stays");
}

async fn put(registry: &impl Registry, routes: &[(RequestId, Route)]) {
    let shared: Vec<_> = routes.iter().map(|(id, route)| (*id, Arc::new(route.clone()))).collect();
    good(registry.put_routes(&shared).await, "put_routes");
}

async fn find(registry: &impl Registry, requests: &[RequestId]) -> Vec<Option<Route>> {
    let found = good(registry.find_routes(requests).await, "find_routes");
    assert_eq!(found.len(), requests.len(), "one answer for each request");
    found
}

fn node(route: &Route) -> &str {
    route.node.id.as_str()
}
