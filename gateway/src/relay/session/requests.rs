//! The requests in flight for a session, by its client's ids.

use registry::RequestId;

use super::{Digest, InFlight, Known, NotBegun, Session, State};
use crate::{tasks::locked, wire::ClientId};

/// The requests in flight for a session.
#[derive(Clone, Copy, Debug)]
pub struct InFlightRequests<'s>(&'s Session);

impl Session {
    /// Its requests in flight.
    pub fn requests(&self) -> InFlightRequests<'_> {
        InFlightRequests(self)
    }
}

impl InFlightRequests<'_> {
    /// How many requests are in flight, counting those whose answer the client may not have yet.
    pub fn count(&self) -> usize {
        locked(&self.0.state).in_flight.len()
    }

    /// Every request in flight, by the client's id.
    pub fn all(&self) -> Vec<(ClientId, InFlight)> {
        let state = locked(&self.0.state);
        state.in_flight.iter().map(|(id, request)| (id.clone(), request.clone())).collect()
    }

    /// Whether the id is in flight, and for the same request.
    pub fn known(&self, id: &ClientId, digest: Digest) -> Known {
        let mut state = locked(&self.0.state);
        let State { in_flight, outbox, .. } = &mut *state;
        match in_flight.get_mut(id) {
            // A client that did not know the refusal yet has sent it again, and knows it now.
            None if outbox.refuses(id) => Known::Joins,
            None => Known::No,
            Some(known) if known.digest != digest => Known::Conflicts,
            Some(known) if known.is_unconfirmed && !known.has_ended => {
                known.is_unconfirmed = false;
                Known::Unconfirmed(known.request)
            }
            Some(_) => Known::Joins,
        }
    }

    /// The request in flight under an id.
    pub fn get(&self, id: &ClientId) -> Option<RequestId> {
        locked(&self.0.state).in_flight.get(id).map(|known| known.request)
    }

    /// The client's id of a request in flight, and what is known of it.
    pub fn of(&self, request: RequestId) -> Option<(ClientId, InFlight)> {
        let state = locked(&self.0.state);
        let mut all = state.in_flight.iter();
        let (id, known) = all.find(|(_, known)| known.request == request)?;
        Some((id.clone(), known.clone()))
    }

    /// A request is in flight from now on, unless nothing begins here any more. The caller has made
    /// sure that the id is free.
    ///
    /// # Errors
    /// Why it did not begin.
    pub fn begin(&self, id: ClientId, request: InFlight) -> Result<(), NotBegun> {
        let mut state = locked(&self.0.state);
        if state.is_left_behind(self.0.is_reliable) {
            return Err(NotBegun::LeftBehind);
        }
        if state.draining {
            return Err(NotBegun::Draining);
        }
        state.in_flight.insert(id, request);
        Ok(())
    }

    /// A request that began elsewhere goes on here.
    pub fn adopt(&self, id: ClientId, request: InFlight) {
        locked(&self.0.state).in_flight.insert(id, request);
    }

    /// A request was not taken after all.
    pub fn forget(&self, id: &ClientId) {
        let mut state = locked(&self.0.state);
        state.in_flight.remove(id);
        state.close_if_drained();
    }
}
