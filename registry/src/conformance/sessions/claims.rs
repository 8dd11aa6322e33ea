//! Claims: who may take a session over, and what that changes.

use std::collections::BTreeSet;

use futures_util::future::join_all;

use super::{
    LONG, ROOMY, Subject, TOKEN, ask, claim, entry, find, one, park, record, submitted, taken,
    timeless, write,
};
use crate::{
    conformance::{good, node_ref, request, same},
    ids::{NodeRef, SessionId},
    tables::{
        Registry,
        sessions::{
            CheckpointUpdate, Checkpointed, Claim, Claimed, Holding, Progress, Recorded,
            SessionRecord, TokenHash, Written,
        },
    },
};

/// A token by its number.
fn token(number: u8) -> TokenHash {
    let mut bytes = [0; 32];
    bytes[31] = number;
    TokenHash(bytes)
}

pub(crate) async fn need_a_token(registry: &impl Registry) {
    let unknown = SessionId::random();
    let told = ask(registry, &claim(unknown, TOKEN, TOKEN)).await;
    same(&told, &Claimed::Refused, "a session that is not there is refused");
    same(&find(registry, unknown).await, &None, "a claim creates nothing");

    for (present, former, shown, takes) in [
        (1, None, 1, true),
        (1, None, 2, false),
        (1, None, 0, false),
        (1, Some(2), 2, true),
        (1, Some(2), 1, true),
        (1, Some(2), 3, false),
    ] {
        let session = SessionId::random();
        let former_token = former.map(token);
        let written = SessionRecord { token: token(present), former_token, ..record(session) };
        write(registry, &written, LONG).await;
        let told = ask(registry, &claim(session, token(shown), token(9))).await;
        let was_taken = matches!(told, Claimed::Taken(_));
        same(&was_taken, &takes, &format!("token {shown} of {present} and {former:?}"));
        if !takes {
            same(&told, &Claimed::Refused, "a wrong token is refused");
            let found = find(registry, session).await;
            same(&found, &Some(entry(&written)), "a refused claim changes nothing");
            let told = ask(registry, &claim(session, token(9), token(9))).await;
            same(&told, &Claimed::Refused, "nor does it set a token");
        }
    }
}

pub(crate) async fn can_be_tried_without_a_change(registry: &impl Registry) {
    let session = SessionId::random();
    let opens = async |number| {
        let told = registry.try_token(&session, &token(number)).await;
        good(told, "try_token")
    };
    same(&opens(1).await, &None, "what is not there is opened by nothing");
    let written =
        SessionRecord { token: token(1), former_token: Some(token(2)), ..record(session) };
    write(registry, &written, LONG).await;
    for (number, expected) in [(1, true), (2, true), (3, false), (0, false)] {
        let expected = expected.then(|| entry(&written));
        same(&opens(number).await, &expected, "the present and the former token open a session");
    }
    same(&find(registry, session).await, &Some(entry(&written)), "a look changes nothing");
    write(registry, &SessionRecord { former_token: None, ..written }, LONG).await;
    same(&opens(2).await, &None, "no token is not any token");
    assert!(opens(1).await.is_some(), "the present one stays");
}

pub(crate) async fn need_the_same_user(registry: &impl Registry) {
    let users = [None, Some(""), Some("ann"), Some("Ann"), Some("ann ")];
    for owner in users {
        for user in users {
            let session = SessionId::random();
            let written = SessionRecord { user: owner.map(Into::into), ..record(session) };
            write(registry, &written, LONG).await;
            let of = |token| Claim { user: user.map(Into::into), ..claim(session, token, TOKEN) };
            let told = ask(registry, &of(token(3))).await;
            same(&told, &Claimed::Refused, "a wrong token is refused, whosever it is");
            let told = ask(registry, &of(TOKEN)).await;
            if owner == user {
                assert!(matches!(told, Claimed::Taken(_)), "{owner:?} takes over: {told:?}");
            } else {
                let why = format!("{user:?} is not {owner:?}");
                same(&told, &Claimed::OtherUser, &why);
                let found = find(registry, session).await;
                same(&found, &Some(entry(&written)), "another user changes nothing");
            }
        }
    }
}

pub(crate) async fn change_tokens(registry: &impl Registry) {
    let session = SessionId::random();
    let tokens = SessionRecord { token: token(1), former_token: Some(token(0)), ..record(session) };
    write(registry, &tokens, LONG).await;
    taken(registry, &claim(session, token(1), token(2))).await;
    let told = ask(registry, &claim(session, token(0), token(9))).await;
    same(&told, &Claimed::Refused, "the token before the one shown is of no use any more");
    let again = taken(registry, &claim(session, token(1), token(3))).await;
    same(&again.epoch, &3, "a claim that is repeated with the token shown succeeds");
    let told = ask(registry, &claim(session, token(2), token(9))).await;
    same(&told, &Claimed::Refused, "a token nobody has shown gives way to the next one");
    taken(registry, &claim(session, token(3), token(4))).await;

    let renewed = SessionRecord { epoch: 4, token: token(5), ..record(session) };
    same(&write(registry, &renewed, LONG).await, &Recorded::Refreshed, "the owner's record");
    for former in [3, 4] {
        let told = ask(registry, &claim(session, token(former), token(9))).await;
        same(&told, &Claimed::Refused, "a record replaces both tokens");
    }
    taken(registry, &claim(session, token(5), token(6))).await;
}

pub(crate) async fn change_the_owner(registry: &impl Registry) {
    for (reliable, attached) in [(true, true), (true, false), (false, true), (false, false)] {
        let session = SessionId::random();
        let user = Some("ann".into());
        let written = SessionRecord { epoch: 7, user, reliable, attached, ..record(session) };
        write(registry, &written, LONG).await;
        let user = written.user.clone();
        let claim = Claim { user, node: node_ref("gw-3", 9), ..claim(session, TOKEN, token(1)) };
        let expected = Holding {
            epoch: 8,
            former: entry(&written),
            written: Written { epoch: 7, node: Some(written.node.clone()) },
            requests: Vec::new(),
            mailbox: Vec::new(),
            is_whole: true,
        };
        same(
            &taken(registry, &claim).await,
            &expected,
            "the claimer is told of the session before",
        );

        let node = claim.node.clone();
        let held = SessionRecord { epoch: 8, node, attached: true, ..written.clone() };
        let found = find(registry, session).await;
        same(&found, &Some(entry(&held)), "the session is the claimer's, and has a connection");
        let told = write(registry, &written, LONG).await;
        same(&told, &Recorded::Superseded, "its former owner has lost it");
        let former = Subject { registry, session, epoch: 7 };
        let told = former.checkpoint_within(ROOMY, vec![park(1, "frame")]).await;
        same(&told, &Checkpointed::Superseded, "nor may the former owner write its checkpoint");
    }
}

/// A claimer that has not heard of its claim has not had the session.
pub(crate) async fn tell_who_wrote_last(registry: &impl Registry) {
    let session = SessionId::random();
    write(registry, &record(session), LONG).await;
    let claim_by = async |node: &NodeRef| {
        let claim = Claim { node: node.clone(), ..claim(session, TOKEN, TOKEN) };
        let Holding { former, written, .. } = taken(registry, &claim).await;
        (former.epoch, former.node, written.epoch, written.node)
    };
    let [first, second, third] = ["gw-1", "gw-2", "gw-3"].map(|id| node_ref(id, 5));
    let told = claim_by(&second).await;
    same(&told, &(1, Some(first.clone()), 1, Some(first.clone())), "the first owner wrote it");
    let told = claim_by(&third).await;
    same(&told, &(2, Some(second), 1, Some(first.clone())), "a claim is not a record");
    let written = SessionRecord { epoch: 3, node: third.clone(), ..record(session) };
    write(registry, &written, LONG).await;
    let told = claim_by(&first).await;
    same(&told, &(3, Some(third.clone()), 3, Some(third)), "a record is");

    let orphaned = CheckpointUpdate { session, epoch: 4, orphan: true, steps: Vec::new() };
    let told = registry.update_checkpoints(&[orphaned], ROOMY).await;
    same(&one(good(told, "update_checkpoints")), &Checkpointed::Done, "a session loses its owner");
    same(&claim_by(&first).await, &(5, None, 5, None), "nobody's writing is one too");
    let told = claim_by(&first).await;
    same(&told, &(6, Some(first), 5, None), "and stays the last one after a claim");
}

pub(crate) async fn leave_the_checkpoint(registry: &impl Registry) {
    let mut subject = Subject::begin(registry).await;
    let mut ids = [request(), request()];
    ids.sort_unstable();
    subject.done(vec![submitted(ids[0], "a"), submitted(ids[1], "b"), park(1, "frame")]).await;
    let first = subject.held().await;
    let requests = [(ids[0], Progress::Submitted), (ids[1], Progress::Submitted)];
    let held: Vec<_> = first.requests.iter().map(|held| (held.request, held.progress)).collect();
    same(&held, &requests.to_vec(), "the claimer is told what is in flight");
    same(&first.mailbox.len(), &1, "the claimer is given the mailbox");
    let second = subject.held().await;
    same(&timeless(&second), &timeless(&first), "the requests stay after a claim");
    same(&second.mailbox, &first.mailbox, "the mailbox stays after a claim");
    subject.done(vec![park(2, "more")]).await;
    same(&subject.mailbox().await.len(), &2, "the new owner goes on with the checkpoint");
}

pub(crate) async fn count_whole_epochs(registry: &impl Registry) {
    let carries = [
        9,
        (1 << 53) - 1,
        1 << 53,
        (1 << 53) + 1,
        9_999_999_999,
        19_999_999_999,
        99_999_999_999_999_999,
        9_999_999_999_999_999_999,
        u64::MAX - 1,
    ];
    for epoch in carries {
        let session = SessionId::random();
        write(registry, &SessionRecord { epoch, ..record(session) }, LONG).await;
        let holding = taken(registry, &claim(session, TOKEN, TOKEN)).await;
        let epochs = (holding.former.epoch, holding.epoch);
        same(&epochs, &(epoch, epoch + 1), "an epoch is counted as a whole number");
        let found = find(registry, session).await.map(|found| found.epoch);
        same(&found, &Some(epoch + 1), "and so it is kept");
    }
    let session = SessionId::random();
    let last = SessionRecord { epoch: u64::MAX, ..record(session) };
    write(registry, &last, LONG).await;
    let told = ask(registry, &claim(session, TOKEN, TOKEN)).await;
    same(&told, &Claimed::Refused, "there is no epoch after the largest");
    same(&find(registry, session).await, &Some(entry(&last)), "and nothing has changed");
}

pub(crate) async fn of_one_time_raise_the_epoch_each(registry: &impl Registry) {
    const CLAIMS: u8 = 50;
    let subject = Subject::begin(registry).await;
    let claims: Vec<_> = (0..CLAIMS)
        .map(|n| Claim {
            node: node_ref(&format!("gw-{n}"), 1),
            ..claim(subject.session, TOKEN, token(n))
        })
        .collect();
    let holdings = join_all(claims.iter().map(|claim| taken(registry, claim))).await;
    let epochs: BTreeSet<_> = holdings.iter().map(|holding| holding.epoch).collect();
    let expected: BTreeSet<_> = (2..=u64::from(CLAIMS) + 1).collect();
    same(&epochs, &expected, "each claim raises the epoch by one");
    for holding in &holdings {
        same(&holding.former.epoch, &(holding.epoch - 1), "each claim has the one before");
    }
    let last = holdings.iter().zip(&claims).max_by_key(|(holding, _)| holding.epoch);
    let found = find(registry, subject.session).await.and_then(|found| found.node);
    same(&found, &last.map(|(_, claim)| claim.node.clone()), "the last claimer holds it");
}
