//! The options of both listeners.

use std::net::SocketAddr;

use super::super::{
    InternalConfig, PublicConfig, checks,
    kinds::{Hidden, LISTEN, List, Text},
    places,
    reader::{Preset, Section},
};

pub(super) fn public(section: &mut Section<'_>) -> PublicConfig {
    PublicConfig {
        listen: section.defaulted(
            "listen",
            &LISTEN,
            SocketAddr::from(([127, 0, 0, 1], 8080)),
            "Address to listen on: an IP address or `localhost`, and a port. Port 0: any free \
             port, which the log names.",
        ),
        allowed_origins: section.option(
            "allowed_origins",
            &List(Text { name: "`scheme://host[:port]` or `*`", check: places::origin }),
            Preset::Absent("none"),
            "Web pages that may connect, by their origin. A caller without an `Origin` header and \
             one whose origin is the `Host` may always; any other is refused with HTTP 403. `*` \
             allows every page there is.",
        ),
        loopback_origins: false,
    }
}

pub(super) fn internal(section: &mut Section<'_>) -> InternalConfig {
    InternalConfig {
        listen: section.defaulted(
            "listen",
            &LISTEN,
            SocketAddr::from(([127, 0, 0, 1], 9080)),
            "Address to listen on, as `public.listen`.",
        ),
        advertise: section.option(
            "advertise",
            &Text { name: "URL, `http://host:port`", check: places::advertise },
            Preset::Absent("the bound address, or the host name"),
            "Where the other nodes reach this one. With port 0: the bound port. Where it is not \
             set and `internal.listen` is a wildcard such as 0.0.0.0, the others are told the \
             host's name, which they must be able to resolve.",
        ),
        secret: section.required(
            "secret",
            &Hidden {
                name: "string, 16 to 1024 characters",
                check: checks::shared_secret,
                is_url: false,
            },
            "Shared by all nodes of the cluster; a call between nodes without it is answered with \
             HTTP 401. Visible ASCII without spaces; at least 32 characters where `internal.listen` \
             is no loopback address. Make it long and random, as `openssl rand -hex 32` does: \
             whoever guesses it may call the node as its peers do. Never shown.",
        ),
    }
}
