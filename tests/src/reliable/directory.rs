//! Where nodes can be reached, as far as clients know; and what was done to them when, so that it
//! can be told which clients had a right to notice.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rand::{RngExt, rngs::StdRng};
use tokio::time::Instant;

use crate::cluster::Node;

/// What happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It ends in good order.
    Drained,
    /// It is killed, or stands still for so long that the others may take it for dead.
    Lost,
}

/// How a client picks the node for its next connection.
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    /// Any of them, the dead ones too.
    Random,
    /// One after the other, the dead ones too.
    Next,
    /// Any that is not in trouble, as a good load balancer would.
    Well,
}

/// The nodes as clients see them.
#[derive(Debug, Default)]
pub struct Directory {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    places: BTreeMap<String, SocketAddr>,
    troubles: Vec<Spell>,
}

/// A stretch of time in which a node was in trouble.
#[derive(Debug)]
struct Spell {
    node: String,
    trouble: Trouble,
    from: Instant,
    until: Option<Instant>,
}

impl Directory {
    /// Lists a node, at the address that it has now.
    pub fn list(&self, node: &Node) {
        self.list_at(node.id(), node.public());
    }

    /// Lists whatever listens there.
    pub fn list_at(&self, id: &str, address: SocketAddr) {
        self.inner().places.insert(id.to_owned(), address);
    }

    /// Clients are not sent there any more.
    pub fn delist(&self, node: &str) {
        self.inner().places.remove(node);
    }

    /// From now on the node is in trouble. To be called before that is so.
    pub fn trouble(&self, node: &str, trouble: Trouble) {
        let (node, from) = (node.to_owned(), Instant::now());
        self.inner().troubles.push(Spell { node, trouble, from, until: None });
    }

    /// From now on it is well again. To be called after that is so.
    pub fn well(&self, node: &str) {
        let mut inner = self.inner();
        for spell in inner.troubles.iter_mut().filter(|spell| spell.node == node) {
            spell.until.get_or_insert_with(Instant::now);
        }
    }

    /// Whether it was in trouble at any time between these two.
    pub fn troubled(&self, node: &str, from: Instant, until: Instant) -> bool {
        let overlaps =
            |spell: &Spell| spell.from <= until && spell.until.is_none_or(|end| end >= from);
        self.inner().troubles.iter().any(|spell| spell.node == node && overlaps(spell))
    }

    /// Whether it was lost at any time since then.
    pub fn lost_since(&self, node: &str, since: Instant) -> bool {
        self.inner().troubles.iter().any(|spell| {
            spell.node == node
                && spell.trouble == Trouble::Lost
                && spell.until.is_none_or(|end| end >= since)
        })
    }

    /// Where to connect for the `attempt`th time in a row; `None` while nothing is listed.
    pub fn choose(&self, choice: Choice, attempt: usize, rng: &mut StdRng) -> Option<SocketAddr> {
        let inner = self.inner();
        let ill = |node: &str| {
            inner.troubles.iter().any(|spell| spell.node == node && spell.until.is_none())
        };
        let listed = inner.places.iter();
        let mut places: Vec<SocketAddr> = match choice {
            Choice::Well => listed.filter(|(id, _)| !ill(id)).map(|(_, at)| *at).collect(),
            Choice::Random | Choice::Next => listed.map(|(_, at)| *at).collect(),
        };
        if places.is_empty() {
            places = inner.places.values().copied().collect();
        }
        if places.is_empty() {
            return None;
        }
        let index = match choice {
            Choice::Next => attempt % places.len(),
            Choice::Random | Choice::Well => rng.random_range(0..places.len()),
        };
        Some(places[index])
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
