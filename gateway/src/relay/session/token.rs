//! Resume tokens: what a client shows to go on with its session.
//!
//! A token is 43 characters: the session's id and 128 random bits, in base64url. The registry
//! compares a hash of the bits alone. Never logged: `Debug` shows nothing of the secret.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use registry::{SessionId, TokenHash};
use sha2::{Digest, Sha256};

const SECRET_BYTES: usize = 16;

/// The capability to resume one session.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    session: SessionId,
    secret: [u8; SECRET_BYTES],
}

impl Token {
    /// A token that nobody can guess.
    pub fn random(session: SessionId) -> Self {
        Self { session, secret: rand::random() }
    }

    /// Reads what [`Token::to_text`] writes; none when it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = BASE64.decode(text).ok()?;
        let (session, secret) = bytes.split_first_chunk::<16>()?;
        let secret = secret.try_into().ok()?;
        Some(Self { session: SessionId::from_bytes(*session), secret })
    }

    /// The session it resumes.
    pub fn session(&self) -> SessionId {
        self.session
    }

    /// What a client is given.
    pub fn to_text(&self) -> String {
        let mut bytes = Vec::with_capacity(16 + SECRET_BYTES);
        bytes.extend_from_slice(self.session.as_uuid().as_bytes());
        bytes.extend_from_slice(&self.secret);
        BASE64.encode(bytes)
    }

    /// What the registry keeps of it.
    pub fn hash(&self) -> TokenHash {
        TokenHash(Sha256::digest(self.secret).into())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("session", &self.session).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        let token = Token::random(SessionId::random());
        let text = token.to_text();
        assert_eq!((text.len(), Token::parse(&text).as_ref()), (43, Some(&token)));
        let (shorter, longer) = (&text[..42], format!("{text}A"));
        for bad in ["", "x", shorter, &longer, &text.replace(&text[..1], "!"), &format!("{text}=")]
        {
            assert_eq!(Token::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn shows_no_secret() {
        let token = Token::random(SessionId::random());
        let shown = format!("{token:?}");
        assert!(!shown.contains(&token.to_text()), "{shown}");
        assert_ne!(token.hash(), Token::random(token.session()).hash());
    }
}
