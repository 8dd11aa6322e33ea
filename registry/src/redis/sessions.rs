//! Sessions in Redis: each call is one script per session, or one plain read.
//!
//! Owns what the scripts are given and what their answers mean. Never decides about a session by
//! itself: what is compared and changed together is in the scripts.

use std::time::Duration;

use async_trait::async_trait;
use redis::{Cmd, Pipeline, Value};
use uuid::Uuid;

use super::{
    RedisRegistry,
    entries::{self, sessions as text},
    keys::SessionKeys,
    link::Answer,
    malformed, scripts,
};
use crate::{
    error::RegistryError,
    ids::SessionId,
    tables::{
        Answers, millis,
        sessions::{
            CheckpointStep, CheckpointUpdate, Checkpointed, Claim, Claimed, Holding, MailboxLimits,
            Recorded, SESSION_TTL_MAX, SESSION_TTL_MIN, SessionEntry, SessionRecord, SessionTable,
            TokenHash,
        },
    },
    unreadable::{EntryKind, Unreadable},
};

/// What is read of a record for a session's entry.
const ENTRY_FIELDS: [&str; 6] = ["e", "f", "n", "u", "o", "g"];

#[async_trait]
impl SessionTable for RedisRegistry {
    async fn record(&self, records: &[SessionRecord], ttl: Duration) -> Answers<Recorded> {
        let (call, ttl) = (Uuid::new_v4(), life(ttl));
        let mut room = SessionKeys::default();
        let mut batch = Pipeline::with_capacity(records.len());
        for record in records {
            let keys = self.shared.keys.session(&record.session, &mut room);
            let mut cmd = scripts::RECORD.call(&keys, 9, 340);
            let former = record.former_token.as_ref().map_or(&[][..], |token| &token.0);
            cmd.arg(ttl).arg(&call.as_bytes()[..]);
            cmd.arg(entries::write_number(record.epoch)).arg(text::write_owner(Some(&record.node)));
            cmd.arg(text::write_user(record.user.as_deref()));
            cmd.arg(&text::write_flags(record.reliable, record.attached)[..]);
            cmd.arg(&record.token.0[..]).arg(former);
            cmd.arg(text::write_generation(record.generation));
            batch.add_command(cmd);
        }
        let answers = self.shared.servers.scripts(&scripts::RECORD, &batch).await;
        answers.into_iter().map(|answer| read_recorded(&answer?)).collect()
    }

    async fn update_checkpoints(
        &self,
        checkpoints: &[CheckpointUpdate],
        limits: MailboxLimits,
    ) -> Answers<Checkpointed> {
        let call = Uuid::new_v4();
        let (mut room, mut value) = (SessionKeys::default(), Vec::new());
        let mut batch = Pipeline::with_capacity(checkpoints.len());
        for checkpoint in checkpoints {
            let keys = self.shared.keys.session(&checkpoint.session, &mut room);
            let (args, bytes) = checkpoint
                .steps
                .iter()
                .fold((5, 81), |(args, bytes), step| (args + 4, bytes + 64 + payload_len(step)));
            let mut cmd = scripts::CHECKPOINT.call(&keys, args, bytes);
            cmd.arg(entries::write_number(checkpoint.epoch));
            cmd.arg(limits.frames_max).arg(limits.bytes_max);
            let parks =
                checkpoint.steps.iter().any(|step| matches!(step, CheckpointStep::Park { .. }));
            cmd.arg(if parks || checkpoint.orphan { &call.as_bytes()[..] } else { &[] });
            cmd.arg(if checkpoint.orphan { "1" } else { "" });
            for step in &checkpoint.steps {
                add_step(&mut cmd, step, &mut value);
            }
            batch.add_command(cmd);
        }
        let answers = self.shared.servers.scripts(&scripts::CHECKPOINT, &batch).await;
        answers.into_iter().map(|answer| read_checkpointed(&answer?)).collect()
    }

    async fn find_sessions(&self, sessions: &[SessionId]) -> Answers<Option<SessionEntry>> {
        let mut room = SessionKeys::default();
        let mut batch = Pipeline::with_capacity(sessions.len());
        for session in sessions {
            let [record, ..] = self.shared.keys.session(session, &mut room);
            let mut cmd = Cmd::with_capacity(8, record.len() + 17);
            cmd.arg("HMGET").arg(record).arg(&ENTRY_FIELDS);
            batch.add_command(cmd);
        }
        let found = self.shared.servers.batch(&batch).await;
        let read = |(answer, id): (Answer, _)| Ok(self.read_found(&answer?, id));
        found.into_iter().zip(sessions).map(read).collect()
    }

    async fn try_token(
        &self,
        session: &SessionId,
        token: &TokenHash,
    ) -> Result<Option<SessionEntry>, RegistryError> {
        let mut room = SessionKeys::default();
        let [record, ..] = self.shared.keys.session(session, &mut room);
        let mut batch = Pipeline::with_capacity(1);
        let mut cmd = Cmd::with_capacity(10, record.len() + 19);
        cmd.arg("HMGET").arg(record).arg(&ENTRY_FIELDS).arg(&["t", "p"]);
        batch.add_command(cmd);
        let found = self.shared.servers.batch(&batch).await.pop().transpose()?;
        let Some(Value::Array(mut fields)) = found else { return Ok(None) };
        let tokens = fields.split_off(ENTRY_FIELDS.len().min(fields.len()));
        let opens = tokens.iter().any(|known| word(known) == token.0);
        Ok(opens.then(|| self.read_found(&Value::Array(fields), session)).flatten())
    }

    async fn claim(&self, claim: &Claim) -> Result<Claimed, RegistryError> {
        let mut room = SessionKeys::default();
        let keys = self.shared.keys.session(&claim.session, &mut room);
        let mut cmd = scripts::CLAIM.call(&keys, 6, 320);
        cmd.arg(life(claim.ttl)).arg(&Uuid::new_v4().as_bytes()[..]).arg(&claim.token.0[..]);
        cmd.arg(text::write_user(claim.user.as_deref())).arg(text::write_owner(Some(&claim.node)));
        cmd.arg(&claim.next_token.0[..]);
        match self.shared.servers.script(&scripts::CLAIM, cmd).await? {
            Value::BulkString(word) if word == b"refused" => Ok(Claimed::Refused),
            Value::BulkString(word) if word == b"other user" => Ok(Claimed::OtherUser),
            // A key of another type is no session.
            Value::ServerError(_) => {
                self.shared.unreadable.add(EntryKind::Session, || claim.session.to_string());
                Ok(Claimed::Refused)
            }
            // Without the answer itself: it is of any size, and clients' own.
            answer => read_holding(answer, &claim.session, &self.shared.unreadable)
                .map(|holding| Claimed::Taken(Box::new(holding)))
                .ok_or_else(|| RegistryError::Malformed(format!("session {}", claim.session))),
        }
    }

    async fn end_sessions(&self, sessions: &[(SessionId, u64)]) -> Answers<()> {
        let mut room = SessionKeys::default();
        let mut batch = Pipeline::with_capacity(sessions.len());
        for (session, epoch) in sessions {
            let keys = self.shared.keys.session(session, &mut room);
            let mut cmd = scripts::END_SESSION.call(&keys, 1, 20);
            cmd.arg(entries::write_number(*epoch));
            batch.add_command(cmd);
        }
        let answers = self.shared.servers.scripts(&scripts::END_SESSION, &batch).await;
        answers.into_iter().map(|answer| answer.map(drop)).collect()
    }
}

impl RedisRegistry {
    /// A session's entry out of the fields of its record; none, and counted, where they are none.
    fn read_found(&self, answer: &Value, session: &SessionId) -> Option<SessionEntry> {
        let entry = read_found(answer);
        let is_there = match answer {
            Value::Array(fields) => fields.iter().any(|field| *field != Value::Nil),
            // A key of another type.
            _ => true,
        };
        if entry.is_none() && is_there {
            self.shared.unreadable.add(EntryKind::Session, || session.to_string());
        }
        entry
    }
}

fn life(ttl: Duration) -> u64 {
    millis(ttl.clamp(SESSION_TTL_MIN, SESSION_TTL_MAX))
}

fn payload_len(step: &CheckpointStep) -> usize {
    match step {
        CheckpointStep::Request { detail, .. } => detail.len(),
        CheckpointStep::Park { frame, .. } => frame.len(),
        CheckpointStep::Trim { .. } | CheckpointStep::Reset | CheckpointStep::Forget { .. } => 0,
    }
}

/// The words of one step, as `checkpoint.lua` lists them.
fn add_step(cmd: &mut Cmd, step: &CheckpointStep, value: &mut Vec<u8>) {
    match step {
        CheckpointStep::Request { request, progress, detail } => {
            text::write_request(*progress, detail, value);
            cmd.arg("r").arg(request.encode(&mut [0; 36])).arg(&value[..]);
        }
        CheckpointStep::Park { seq, request, frame } => {
            let mut id = [0; 36];
            let id = request.as_ref().map_or(text::NO_REQUEST, |request| request.encode(&mut id));
            cmd.arg("p").arg(entries::write_number(*seq)).arg(id).arg(&frame[..]);
        }
        CheckpointStep::Trim { seq } => {
            cmd.arg("t").arg(entries::write_number(*seq));
        }
        CheckpointStep::Reset => {
            cmd.arg("c");
        }
        CheckpointStep::Forget { request } => {
            cmd.arg("f").arg(request.encode(&mut [0; 36]));
        }
    }
}

fn bytes_of(value: Value) -> Vec<u8> {
    match value {
        Value::BulkString(bytes) => bytes,
        _ => Vec::new(),
    }
}

fn word(answer: &Value) -> &[u8] {
    match answer {
        Value::BulkString(bytes) => bytes,
        _ => &[],
    }
}

fn read_recorded(answer: &Value) -> Result<Recorded, RegistryError> {
    match word(answer) {
        b"created" => Ok(Recorded::Created),
        b"refreshed" => Ok(Recorded::Refreshed),
        b"superseded" => Ok(Recorded::Superseded),
        _ => Err(malformed("a session's record", answer)),
    }
}

fn read_checkpointed(answer: &Value) -> Result<Checkpointed, RegistryError> {
    match word(answer) {
        // A key of another type: its owner writes the session anew.
        _ if matches!(answer, Value::ServerError(_)) => Ok(Checkpointed::Missing),
        b"done" => Ok(Checkpointed::Done),
        b"superseded" => Ok(Checkpointed::Superseded),
        b"missing" => Ok(Checkpointed::Missing),
        b"overflowed" => Ok(Checkpointed::Overflowed),
        _ => Err(malformed("a session's checkpoint", answer)),
    }
}

fn read_found(answer: &Value) -> Option<SessionEntry> {
    let Value::Array(fields) = answer else { return None };
    let [epoch, flags, owner, user, overflowed, generation] = fields.as_slice() else {
        return None;
    };
    // A field that is not there is not the same as an empty one: an anonymous user is empty.
    let Value::BulkString(user) = user else { return None };
    let entry =
        text::read_entry(word(epoch), word(flags), word(owner), user, word(overflowed) == b"1")?;
    Some(SessionEntry { generation: text::read_generation(word(generation)), ..entry })
}

/// Takes the answer apart, so that no frame is copied. Requests and frames that cannot be read are
/// counted, and left out. It is not whole either where there is less than the record says.
fn read_holding(answer: Value, session: &SessionId, unreadable: &Unreadable) -> Option<Holding> {
    let Value::Array(parts) = answer else { return None };
    let [
        epoch,
        former,
        user,
        overflowed,
        generation,
        now,
        requests,
        mailbox,
        written,
        bytes,
        count,
    ] = <[Value; 11]>::try_from(parts).ok()?;
    let (Value::Array(requests), Value::Array(mailbox)) = (requests, mailbox) else { return None };
    let now_ms = text::read_millis(word(&now))?;
    let mut is_whole = true;
    let mut unread = |kind| {
        is_whole = false;
        unreadable.add(kind, || session.to_string());
    };
    let mut held = Vec::with_capacity(requests.len() / 2);
    let mut words = requests.into_iter();
    while let (Some(id), Some(value)) = (words.next(), words.next()) {
        match text::read_request(word(&id), bytes_of(value), now_ms) {
            Some(request) => held.push(request),
            None => unread(EntryKind::Request),
        }
    }
    let mut parked = Vec::with_capacity(mailbox.len());
    for member in mailbox {
        match text::read_parked(bytes_of(member)) {
            Some(frame) => parked.push(frame),
            None => unread(EntryKind::Frame),
        }
    }
    let parked_bytes = parked.iter().map(|(_, parked)| parked.frame.len()).sum();
    is_whole &= is_so_much(&count, held.len()) && is_so_much(&bytes, parked_bytes);
    parked.sort_unstable_by_key(|(index, _)| *index);
    let former = text::read_former(word(&former), word(&user), word(&overflowed) == b"1")?;
    let written = text::read_written(word(&written), &former);
    Some(Holding {
        written,
        epoch: text::read_number(word(&epoch))?,
        former: SessionEntry { generation: text::read_generation(word(&generation)), ..former },
        requests: held,
        mailbox: parked.into_iter().map(|(_, frame)| frame).collect(),
        is_whole,
    })
}

/// Whether there is as much as there should be, where that is known.
fn is_so_much(expected: &Value, there: usize) -> bool {
    let expected = std::str::from_utf8(word(expected)).ok().and_then(|count| count.parse().ok());
    expected.is_none_or(|expected: usize| expected == there)
}
