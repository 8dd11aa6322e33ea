//! The sessions on this node, by their ids: those with a connection, and those that wait for their
//! client.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use registry::SessionId;
use tokio::time::Instant;

use super::{ConnectionId, Session};
use crate::{error::CloseCode, tasks::locked};

/// All sessions that this node holds, and those of which something is still left here.
#[derive(Debug, Default)]
pub struct Sessions {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sessions: HashMap<SessionId, Arc<Session>>,
    /// Sessions that are about to be held here, so that everything for them has to wait; with the
    /// epoch for which they have been claimed, or 0 while that is not known.
    arriving: HashMap<SessionId, u64>,
    /// Sessions to look at later, for each reason in the order of their times.
    windows: VecDeque<(Instant, ConnectionId, Arc<Session>)>,
    fences: VecDeque<(Instant, Arc<Session>)>,
    watches: VecDeque<(Instant, Arc<Session>)>,
}

/// Sessions that something has to be done for now.
#[derive(Debug, Default)]
pub struct Due {
    /// Their client has not come back in time.
    pub over: Vec<Arc<Session>>,
    /// Another node holds them, and has not asked for what is left here.
    pub left: Vec<Arc<Session>>,
    /// They have frames that nobody has acknowledged in time.
    pub unparked: Vec<Arc<Session>>,
}

/// While this lives, a session is about to be held here.
#[derive(Debug)]
pub struct Arrival<'h> {
    all: &'h Sessions,
    session: SessionId,
}

impl Sessions {
    /// A session has begun.
    pub fn add(&self, session: &Arc<Session>) {
        locked(&self.state).sessions.insert(session.id(), Arc::clone(session));
    }

    /// A session has ended; another one under its id, which came back meanwhile, stays.
    pub fn remove(&self, session: &Session) {
        let mut state = locked(&self.state);
        if state.sessions.get(&session.id()).is_some_and(|held| std::ptr::eq(&**held, session)) {
            state.sessions.remove(&session.id());
        }
    }

    /// The session of this id.
    pub fn get(&self, id: SessionId) -> Option<Arc<Session>> {
        locked(&self.state).sessions.get(&id).cloned()
    }

    /// A session is about to come; `None` if that is known already.
    pub fn expect(&self, session: SessionId) -> Option<Arrival<'_>> {
        let mut state = locked(&self.state);
        let is_first = !state.arriving.contains_key(&session);
        if is_first {
            state.arriving.insert(session, 0);
        }
        drop(state);
        // Made only for the first: if a second one were made here, its drop would end the first
        // one's wait.
        is_first.then(|| Arrival { all: self, session })
    }

    /// Whether a session is about to come.
    pub fn is_expected(&self, session: SessionId) -> bool {
        locked(&self.state).arriving.contains_key(&session)
    }

    /// Whether a session is about to come that was claimed before `epoch`, or may have been.
    pub fn is_expected_before(&self, session: SessionId, epoch: u64) -> bool {
        locked(&self.state).arriving.get(&session).is_some_and(|claimed| *claimed < epoch)
    }

    /// How many sessions there are.
    pub fn len(&self) -> usize {
        locked(&self.state).sessions.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many sessions have a connection.
    pub fn attached(&self) -> usize {
        locked(&self.state).sessions.values().filter(|session| session.is_attached()).count()
    }

    /// Closes every connection now.
    pub fn close(&self, code: CloseCode) {
        self.all().iter().for_each(|session| session.close(code));
    }

    /// Every session, in the order of their ids.
    pub fn all(&self) -> Vec<Arc<Session>> {
        let mut all: Vec<_> = locked(&self.state).sessions.values().cloned().collect();
        all.sort_unstable_by_key(|session| *session.id().as_uuid());
        all
    }

    /// A session waits for its client, for `window`.
    pub fn wait_for_client(&self, session: &Arc<Session>, window: Duration) {
        let entry = (Instant::now() + window, session.connection(), Arc::clone(session));
        locked(&self.state).windows.push_back(entry);
    }

    /// A session is held by another node, which may ask for what is left here for as long as this.
    pub fn wait_for_owner(&self, session: &Arc<Session>, patience: Duration) {
        let entry = (Instant::now() + patience, Arc::clone(session));
        locked(&self.state).fences.push_back(entry);
    }

    /// A session has a frame that has to be parked unless it is acknowledged until then.
    pub fn watch(&self, session: &Arc<Session>, until: Instant) {
        locked(&self.state).watches.push_back((until, Arc::clone(session)));
    }

    /// The sessions that are due at this turn, out of so many turns.
    pub fn turn(&self, turn: u64, turns: u64) -> Vec<Arc<Session>> {
        let state = locked(&self.state);
        let turn_of = |id: &SessionId| id.as_uuid().as_u64_pair().1 % turns;
        state
            .sessions
            .iter()
            .filter(|(id, _)| turn_of(id) == turn)
            .map(|(_, s)| s.clone())
            .collect()
    }

    /// Everything that is due. If more than `waiting_max` sessions have no connection, the oldest
    /// of them count as having waited long enough.
    pub fn due(&self, now: Instant, waiting_max: usize) -> Due {
        let mut state = locked(&self.state);
        let mut due = Due::default();
        if state.windows.len() > waiting_max {
            state
                .windows
                .retain(|(_, connection, session)| session.on(*connection).is_waiting_since());
        }
        let excess = state.windows.len().saturating_sub(waiting_max);
        let excess: Vec<_> = state.windows.drain(..excess).collect();
        let on_time = std::iter::from_fn(|| take_due(&mut state.windows, |w| w.0 <= now));
        for (_, connection, session) in excess.into_iter().chain(on_time) {
            if session.on(connection).is_waiting_since() {
                due.over.push(session);
            }
        }
        while let Some((_, session)) = take_due(&mut state.fences, |w| w.0 <= now) {
            due.left.push(session);
        }
        while let Some((_, session)) = take_due(&mut state.watches, |w| w.0 <= now) {
            due.unparked.push(session);
        }
        due
    }
}

fn take_due<T>(queue: &mut VecDeque<T>, is_due: impl Fn(&T) -> bool) -> Option<T> {
    is_due(queue.front()?).then(|| queue.pop_front())?
}

impl Arrival<'_> {
    /// The session has been claimed, for this epoch.
    pub fn claimed(&self, epoch: u64) {
        locked(&self.all.state).arriving.insert(self.session, epoch);
    }

    /// The session that is about to come.
    pub fn session(&self) -> SessionId {
        self.session
    }
}

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        locked(&self.all.state).arriving.remove(&self.session);
    }
}

#[cfg(test)]
mod tests;
