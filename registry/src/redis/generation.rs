//! The generation of the table, which follows from the runs of the servers that hold it.
//!
//! Remembers what each server has told, for as long as nobody can have got anything from another
//! run of it. Never asks by itself.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use redis::{Cmd, Value};

use super::link::Told;
use crate::{error::RegistryError, tables::Generation};

/// The runs of all servers, as each was last told.
#[derive(Debug, Default)]
pub(super) struct Runs {
    known: Mutex<HashMap<Box<str>, Run>>,
}

#[derive(Clone, Debug)]
struct Run {
    id: Box<str>,
    /// The connection through which it was told.
    connection: u64,
}

impl Runs {
    /// What every server is asked.
    pub(super) fn question() -> Cmd {
        let mut question = Cmd::new();
        question.arg("INFO").arg("server");
        question
    }

    /// The generation of which these answers tell. A server that cannot be reached is of the run
    /// that it was of, as long as there was no other connection to it: nothing can have been read
    /// since that this run has not answered.
    ///
    /// # Errors
    /// Why the run of a server is not known.
    pub(super) fn generation(&self, told: Vec<Told>) -> Result<Option<Generation>, RegistryError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut runs: HashMap<Box<str>, Run> = HashMap::with_capacity(told.len());
        for Told { at, connections: (before, after), answer } in told {
            let run = match answer {
                Ok(answer) => run_of(&answer).map(|id| Run { id, connection: before }),
                // Whoever may not ask can do without: the epochs of sessions tell too, only later.
                Err(RegistryError::Refused(_)) => return Ok(None),
                Err(error) => {
                    let known = known.get(&at).filter(|run| run.connection == after);
                    Some(known.ok_or(error)?.clone())
                }
            };
            runs.extend(run.map(|run| (at, run)));
        }
        let generation = hash(runs.values().map(|run| &*run.id));
        *known = runs;
        Ok(generation)
    }
}

/// A hash over the runs of all servers, in any order; none when no server names any.
fn hash<'r>(runs: impl Iterator<Item = &'r str>) -> Option<Generation> {
    let mut runs: Vec<&str> = runs.collect();
    if runs.is_empty() {
        return None;
    }
    runs.sort_unstable();
    // FNV-1a: short, and the same in every version of every node.
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let bytes = runs.iter().flat_map(|run| run.as_bytes());
    Some(Generation(bytes.fold(0xcbf2_9ce4_8422_2325, mix)))
}

fn run_of(answer: &Value) -> Option<Box<str>> {
    let text = match answer {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok()?,
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text,
        _ => return None,
    };
    text.lines().find_map(|line| line.strip_prefix("run_id:")).map(|id| id.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(run: &str) -> Value {
        Value::BulkString(format!("# Server\r\nredis_version:7\r\nrun_id:{run}\r\n").into_bytes())
    }

    /// What servers tell: each its run, through this connection.
    fn told(runs: &[(&str, u64)]) -> Vec<Told> {
        let answer = |(at, (run, number)): (usize, &(&str, u64))| Told {
            at: at.to_string().into(),
            connections: (*number, *number),
            answer: match *run {
                "" => Err(RegistryError::Unreachable("away".into())),
                run => Ok(info(run)),
            },
        };
        runs.iter().enumerate().map(answer).collect()
    }

    fn of(runs: &[(&str, u64)]) -> Option<Generation> {
        Runs::default().generation(told(runs)).unwrap()
    }

    #[test]
    fn a_generation_is_of_the_servers_there_are_whatever_their_order() {
        assert!(of(&[("a", 1)]).is_some());
        assert_ne!(of(&[("a", 1)]), of(&[("b", 1)]));
        let three = of(&[("a", 1), ("b", 1), ("c", 1)]);
        assert_eq!(three, of(&[("c", 1), ("a", 2), ("b", 3)]));
        for other in [&[("a", 1), ("b", 1)][..], &[("a", 1), ("b", 1), ("d", 1)]] {
            assert_ne!(three, of(other));
        }
        for silent in [Value::Nil, Value::Okay, Value::BulkString(b"redis_version:7".into())] {
            assert_eq!(run_of(&silent), None);
        }
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_server_that_is_away_is_of_the_run_it_was_of_until_it_is_back() {
        let runs = Runs::default();
        let generation = |servers: &[(&str, u64)]| runs.generation(told(servers));
        assert!(generation(&[("a", 1), ("", 0)]).is_err(), "nobody knows that one's run");
        let first = generation(&[("a", 1), ("b", 1)]);
        for _ in 0..2 {
            assert_eq!(generation(&[("a", 1), ("", 1)]), first);
        }
        assert!(generation(&[("a", 1), ("", 2)]).is_err(), "it was back, and may have answered");
        assert_eq!(generation(&[("a", 1), ("b", 2)]), first);
        assert_ne!(generation(&[("a", 1), ("c", 3)]), first);
    }

    #[test]
    fn of_an_answer_on_a_second_connection_nobody_knows_whose_it_was() {
        let runs = Runs::default();
        let mut asked = told(&[("a", 1)]);
        asked[0].connections = (1, 2);
        assert!(runs.generation(asked).is_ok());
        assert!(runs.generation(told(&[("", 2)])).is_err());
    }

    #[test]
    fn without_leave_to_ask_there_is_no_generation() {
        let mut asked = told(&[("a", 1), ("b", 1)]);
        asked[1].answer = Err(RegistryError::Refused("no".into()));
        assert_eq!(Runs::default().generation(asked), Ok(None));
    }
}
