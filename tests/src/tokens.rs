//! An issuer of bearer tokens: JWTs signed with ES256 by a key made for one test.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Result, anyhow};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD as BASE64};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use serde_json::{Value, json};

/// A key and its public half.
#[derive(Debug)]
pub struct Issuer {
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Issuer {
    /// An issuer with a fresh key.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new() -> Result<Self> {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).map_err(unspecified)?;
        let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random)
            .map_err(|error| anyhow!("own key refused: {error}"))?;
        Ok(Self { key, random })
    }

    /// Writes the public key as a JWK set.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_jwks(&self, path: &Path) -> Result<()> {
        // Uncompressed point: 0x04, x, y.
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let key = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "test",
            "x": BASE64.encode(x), "y": BASE64.encode(y),
        });
        Ok(std::fs::write(path, json!({ "keys": [key] }).to_string())?)
    }

    /// A token with these claims, and an expiry unless they have one.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn sign(&self, mut claims: Value) -> Result<String> {
        if claims["exp"].is_null() {
            claims["exp"] = expiry(Duration::from_secs(3600))?.into();
        }
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": "test" });
        let signed =
            format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature = self.key.sign(&self.random, signed.as_bytes()).map_err(unspecified)?;
        Ok(format!("{signed}.{}", BASE64.encode(signature)))
    }

    /// A token for that user with these roles.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub fn token(&self, user: &str, roles: &[&str]) -> Result<String> {
        self.sign(json!({ "sub": user, "roles": roles }))
    }
}

/// The claim `exp` of a token that lives so long from now on.
///
/// # Errors
/// When the clock is before 1970.
pub fn expiry(lifetime: Duration) -> Result<u64> {
    Ok((SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)? + lifetime).as_secs())
}

fn unspecified(error: ring::error::Unspecified) -> anyhow::Error {
    anyhow!("cryptography failed: {error}")
}
