//! `DELETE /v1/services/{service}/messages/{key}/{guid}`: deletes one message of a service of which
//! messages can be deleted. The same path of any other service is the service's own.

use std::borrow::Cow;

use http::Method;
use percent_encoding::percent_decode_str;
use warp::reply::Response as WarpResponse;

use super::{Call, Edge, EdgeKind, Rate, Refusal, refused};
use crate::{
    deletable::is_guid,
    error::{ErrorCode, Failure},
    relay::requests::{deletion::Deletion, submission::Submission},
};

/// What such paths begin with, after the service's name.
const MESSAGES: &str = "/messages/";
const METHODS: [Method; 1] = [Method::DELETE];
const ALLOW: &str = "DELETE, OPTIONS";

/// A message, as a path names it.
struct Named<'a> {
    key: Cow<'a, [u8]>,
    guid: Cow<'a, [u8]>,
    query: Option<&'a str>,
}

impl<'a> Named<'a> {
    /// Of the path and query that a service would see; `None` if they are no message's. The key is
    /// what is before the last segment, whatever is in it: a slash in it need not be encoded.
    fn read(path: &'a str) -> Option<Self> {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path, None),
        };
        let path = path.strip_prefix(MESSAGES)?;
        let (key, guid) = path.rsplit_once('/').unwrap_or((path, ""));
        let decoded = |text: &'a str| Cow::from(percent_decode_str(text));
        Some(Self { key: decoded(key), guid: decoded(guid), query })
    }

    fn is_whole(&self) -> bool {
        is_guid(&self.guid)
    }

    fn deletion(&self) -> Result<Deletion<'_>, Failure> {
        let bad = |message: &'static str| Failure::new(ErrorCode::BadRequest, message);
        let guid =
            str::from_utf8(&self.guid).ok().filter(|_| self.is_whole()).ok_or_else(|| {
                bad("this takes /messages/{key}/{guid}, where the guid is that of the receipt: 36 \
                 characters, a UUID in lower case")
            })?;
        let partition = match self.query {
            None | Some("") => None,
            Some(query) => Some(partition(query).ok_or_else(|| {
                bad("this takes no query but partition=<number>, as the receipt has it")
            })?),
        };
        Ok(Deletion { key: &self.key, guid, partition })
    }
}

fn partition(query: &str) -> Option<i32> {
    let number = query.strip_prefix("partition=")?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| number.parse().ok())?
}

impl Edge {
    /// Deletes the message that this call names; `None` if it is the service's own.
    pub(super) async fn delete_message(
        &self,
        call: &Call,
        rate: &Rate,
    ) -> Option<Result<WarpResponse, Refusal>> {
        let (service, path) = call.target().ok()?;
        let is_deletable = |service: &str| {
            self.relay.requests.services.get(service).is_some_and(|found| found.is_deletable())
        };
        let named = Named::read(&path).filter(|_| is_deletable(&service))?;
        // Other methods of other paths are the service's, which may have messages of its own.
        let is_ours = named.is_whole() || call.method == Method::DELETE;
        match is_ours {
            true => Some(self.delete(call, rate, &service, &named).await),
            false => None,
        }
    }

    async fn delete(
        &self,
        call: &Call,
        rate: &Rate,
        service: &str,
        named: &Named<'_>,
    ) -> Result<WarpResponse, Refusal> {
        call.check_method(&METHODS, ALLOW)?;
        let count = |failure| {
            refused(&self.relay.requests.services.refused(service, EdgeKind::Rest, failure))
        };
        self.is_open().map_err(count)?;
        rate.take(&self.relay).map_err(count)?;
        let deletion = named.deletion().map_err(count)?;
        let submission = Submission {
            service,
            key: None,
            payload: &[],
            headers: &[],
            method: call.method.as_str(),
            path: None,
            timeout: call.wait(),
        };
        let waiting = self.relay.requests.delete(&submission, &deletion);
        let waiting = waiting.map_err(|failure| refused(&failure))?;
        Ok(self.answered(waiting, &call.headers).await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUID: &str = "01a21ade-b982-7135-90af-3503dff3d7e4";

    type Read = Result<(Vec<u8>, Option<i32>), Failure>;

    fn read(path: &str) -> Option<Read> {
        let named = Named::read(path)?;
        let read = named.deletion().map(|deletion| {
            assert_eq!(deletion.guid, GUID, "{path}");
            (deletion.key.to_vec(), deletion.partition)
        });
        Some(read)
    }

    #[test]
    fn the_last_segment_is_the_guid_and_all_before_it_the_key() {
        let keys: [(&str, &[u8]); 7] = [
            ("order-7", b"order-7"),
            ("a%2Fb%23c", b"a/b#c"),
            ("a/b", b"a/b"),
            ("%FF%00", b"\xff\0"),
            ("", b""),
            ("%", b"%"),
            (GUID, GUID.as_bytes()),
        ];
        for (text, key) in keys {
            assert_eq!(read(&format!("/messages/{text}/{GUID}")), Some(Ok((key.to_vec(), None))));
        }
        let encoded = GUID.replace('-', "%2D");
        assert_eq!(read(&format!("/messages/k/{encoded}")), Some(Ok((b"k".to_vec(), None))));
    }

    #[test]
    fn a_partition_may_be_named() {
        let with = |query| read(&format!("/messages/k/{GUID}?{query}")).unwrap();
        assert_eq!(with("partition=12"), Ok((b"k".to_vec(), Some(12))));
        assert_eq!(with(""), Ok((b"k".to_vec(), None)));
        for bad in ["partition=", "partition=-1", "partition=+1", "partition=99999999999", "x=1"] {
            assert_eq!(with(bad).unwrap_err().code, ErrorCode::BadRequest, "{bad}");
        }
    }

    #[test]
    fn what_names_no_message_is_refused_or_not_ours() {
        for bad in [
            "/messages/",
            "/messages/k",
            "/messages/k/",
            &format!("/messages/{GUID}"),
            &format!("/messages/k/{}", GUID.to_uppercase()),
            &format!("/messages/k/{GUID}/"),
            &format!("/messages/k%2F{GUID}"),
        ] {
            assert_eq!(read(bad).unwrap().unwrap_err().code, ErrorCode::BadRequest, "{bad}");
        }
        for other in ["", "/", "/messages", "/message/k", &format!("/x/messages/k/{GUID}")] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
