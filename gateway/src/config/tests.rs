//! Loading as a whole: what the sources give together, and what is said of what is wrong.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    Config, ConfigProblems, Dialect, IsolationLevel, LogFormat, Source, reference::EXAMPLE,
};

/// The least that loads.
const LEAST: &str = "
node_id = 'n'
kafka.bootstrap_servers = 'k:9092'
internal.secret = '0123456789abcdef0123456789abcdef'
services.echo.request_topic = 'echo'
";

fn load(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigProblems> {
    Config::parse(text, pairs(variables))
}

fn pairs(variables: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
    variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
}

/// The problems of [`LEAST`] with `more` after it, one a line.
fn problems_with(more: &str) -> String {
    load(&format!("{LEAST}{more}"), &[]).unwrap_err().to_string()
}

/// The problem of [`LEAST`] with one variable.
fn problem_of(name: &str, text: &str) -> String {
    load(LEAST, &[(name, text)]).unwrap_err().to_string()
}

#[test]
fn defaults_are_those_of_the_reference() {
    let config = load(LEAST, &[]).unwrap();
    assert_eq!(config.public.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.public.allowed_origins, None);
    assert_eq!(config.internal.listen.to_string(), "127.0.0.1:9080");
    assert_eq!(config.internal.advertise, None);
    assert_eq!(config.kafka.reply_topic, "roundtrip.replies");
    assert_eq!(config.kafka.group_id, "roundtrip");
    assert_eq!(config.kafka.isolation_level, IsolationLevel::ReadCommitted);
    assert_eq!(config.kafka.reply_partitions, 12);
    assert_eq!(config.kafka.replication_factor, None);
    assert!(config.kafka.properties.is_empty());
    assert_eq!(config.registry.url.expose(), "redis://127.0.0.1:6379");
    assert_eq!(config.registry.prefix, "rt:");
    assert_eq!(config.session.ping_interval, Duration::from_secs(25));
    assert_eq!(config.session.pong_timeout, Duration::from_secs(10));
    assert_eq!(config.session.outbox_bytes_max, 1 << 20);
    assert_eq!(config.limits.message_bytes_max, 900 << 10);
    assert_eq!(config.limits.frame_bytes_max, 2 << 20);
    assert_eq!(config.limits.requests_per_second_max, 0);
    assert_eq!(config.limits.in_flight_per_connection_max, 256);
    assert_eq!(config.limits.in_flight_max, 100_000);
    assert_eq!(config.limits.connections_max, 100_000);
    assert_eq!(config.shutdown.grace, Duration::from_secs(30));
    assert_eq!(config.log.format, LogFormat::Text);
    let echo = &config.services["echo"];
    assert_eq!(echo.timeout, Duration::from_secs(5));
    assert_eq!(echo.timeout_max, Duration::from_secs(60));
    assert_eq!(echo.dialect, Dialect::Plain);
    assert!(echo.allowed_headers.is_empty());
    assert_eq!((echo.deletable, echo.deleted_within()), (false, None));
    assert_eq!(echo.gone_within, Duration::from_secs(24 * 60 * 60));
}

#[test]
fn the_example_loads() {
    let config = load(EXAMPLE, &[]).unwrap();
    assert_eq!(config.node_id.as_str(), "gw-1");
    assert_eq!(config.kafka.properties["security.protocol"], "SASL_SSL");
    assert_eq!(config.services["orders"].dialect, Dialect::Spring);
}

#[test]
fn the_environment_alone_is_enough() {
    let config = Config::load(
        None,
        pairs(&[
            ("ROUNDTRIP_NODE_ID", "n"),
            ("ROUNDTRIP_KAFKA__BOOTSTRAP_SERVERS", "k:9092"),
            ("ROUNDTRIP_INTERNAL__SECRET", "0123456789abcdef0123456789abcdef"),
            ("ROUNDTRIP_SERVICES__ECHO__REQUEST_TOPIC", "echo"),
        ]),
        None,
    );
    assert_eq!(config.unwrap(), load(LEAST, &[]).unwrap());
}

#[test]
fn the_environment_goes_over_the_file() {
    let config = load(
        &format!("{LEAST}\n[services.my-service]\nrequest_topic = 'a'\ntimeout = '1s'"),
        &[
            ("ROUNDTRIP_SERVICES__MY_SERVICE__TIMEOUT", "2s"),
            ("ROUNDTRIP_SERVICES__ECHO__ALLOWED_HEADERS", "['X-A', 'x-a', 'x-b']"),
            ("ROUNDTRIP_PUBLIC__LISTEN", "0.0.0.0:80"),
            ("ROUNDTRIP_LIMITS__IN_FLIGHT_MAX", "7"),
            ("ROUNDTRIP_LIMITS__MESSAGE_BYTES_MAX", "1000"),
            ("ROUNDTRIP_INTERNAL__SECRET", "00000000000000001234"),
            ("ROUNDTRIP_KAFKA__PROPERTIES__SASL_PASSWORD", "1_2"),
            ("ROUNDTRIP_NODE_ID", "12345"),
        ],
    )
    .unwrap();
    assert_eq!(config.services["my-service"].timeout, Duration::from_secs(2));
    assert_eq!(config.services["my-service"].request_topic, "a");
    assert_eq!(config.services["echo"].allowed_headers, ["x-a", "x-b"]);
    assert_eq!(config.public.listen.to_string(), "0.0.0.0:80");
    assert_eq!(config.limits.in_flight_max, 7);
    assert_eq!(config.limits.message_bytes_max, 1000);
    assert_eq!(config.internal.secret.expose(), "00000000000000001234");
    assert_eq!(config.kafka.properties["sasl.password"], "1_2");
    assert_eq!(config.node_id.as_str(), "12345");
}

#[test]
fn takes_numbers_of_properties_from_the_file() {
    let config = load(
        &format!("{LEAST}\n[kafka.properties]\n'linger.ms' = 1_0\nsocket.keepalive.enable = true"),
        &[],
    );
    let properties = config.unwrap().kafka.properties;
    assert_eq!(properties["linger.ms"], "10");
    assert_eq!(properties["socket.keepalive.enable"], "true");
}

#[test]
fn reports_all_problems_at_once() {
    let text = "\
kafka = { reply_partitions = 0, reply_topic = 5 }
[limits]
in_flight_max = 'many'
frame_bytes_mx = 1
[services.orders]
timeout = '5'
made_up = '1h'
[services.'a b']
request_topic = '..'
[auth]
jwt = { keys = 'x' }
";
    let problems = load(text, &[("ROUNDTRIP_LOG__FORMAT", "xml"), ("ROUNDTRIP_LOG__COLOR", "1")]);
    let expected = "\
kafka.bootstrap_servers: required: set it in the file or as ROUNDTRIP_KAFKA__BOOTSTRAP_SERVERS (<text>:1)
kafka.reply_topic: expected a string, found an integer; text needs quotes (<text>:1)
kafka.reply_partitions: must be 1 to 10000, is 0 (<text>:1)
limits.in_flight_max: expected an integer, found a string (<text>:3)
limits.frame_bytes_mx: unknown key; did you mean limits.frame_bytes_max? (<text>:4)
services.orders.request_topic: required: set it in the file or as ROUNDTRIP_SERVICES__ORDERS__REQUEST_TOPIC (<text>:5)
services.orders.timeout: \"5\": expected a whole number and a unit (ms, s, m, h), as in \"25s\" (<text>:6)
services.orders.made_up: unknown key (<text>:7)
services.\"a b\": a service's name is 1 to 64 characters out of A-Z a-z 0-9 . _ - (<text>:8)
services.\"a b\".request_topic: \"..\": a topic's name is 1 to 249 characters out of A-Z a-z 0-9 . _ -, but not . or .. (<text>:9)
auth: unknown key (<text>:10)
log.color: unknown key (ROUNDTRIP_LOG__COLOR)
log.format: \"xml\": expected \"text\" or \"json\" (ROUNDTRIP_LOG__FORMAT)
internal.secret: required: set it in the file or as ROUNDTRIP_INTERNAL__SECRET";
    assert_eq!(problems.unwrap_err().to_string(), expected);
}

#[test]
fn tells_of_tuning_that_has_no_effect_yet() {
    let set = ["kafka.push_topic = 'x'", "rest.idempotency_retention = '1s'"];
    let unused = load(&format!("{LEAST}{}", set.join("\n")), &[]).unwrap().unused;
    assert_eq!(unused.len(), set.len(), "{unused:?}");
    for key in ["kafka.push_topic", "rest.idempotency_retention"] {
        assert!(unused.iter().any(|unused| unused.key == key), "{key} not in {unused:?}");
    }
}

#[test]
fn refuses_options_of_later_days() {
    for key in [
        "auth.anonymous = true",
        "channels.news.history = 1",
        "push.allow = []",
        "public.tls = {}",
        "services.echo.allow = []",
    ] {
        assert!(problems_with(key).contains("unknown key"), "{key}");
    }
}

#[test]
fn names_the_variable_of_an_unknown_key() {
    for name in ["ROUNDTRIP_AUTH__JWT__KEYS", "ROUNDTRIP_", "ROUNDTRIP___", "ROUNDTRIP_KAFKA____X"]
    {
        let problem = problem_of(name, "x");
        assert!(problem.contains("unknown key"), "{problem}");
        assert!(problem.ends_with(&format!("({name})")), "{problem}");
    }
    let meant = "kafka.group: unknown key; did you mean kafka.group_id? (ROUNDTRIP_KAFKA__GROUP)";
    assert_eq!(problem_of("ROUNDTRIP_KAFKA__GROUP", "x"), meant);
    let link = problem_of("ROUNDTRIP_SERVICE_HOST", "10.0.0.1");
    assert!(link.contains("enableServiceLinks"), "{link}");
}

#[test]
fn finds_a_key_in_another_table() {
    let problem = problems_with("[public]\nmessage_bytes_max = 1");
    assert!(problem.contains("did you mean limits.message_bytes_max?"), "{problem}");
}

#[test]
fn tells_the_lines_of_syntax_errors_and_the_variables_that_are_wrong() {
    let variables = [("ROUNDTRIP_KAFKA__REPLY_PARTITIONS", "x"), ("ROUNDTRIP_X", "1")];
    let problems = load("a = [\nb = 'x", &variables).unwrap_err();
    let sources: Vec<_> = problems.as_slice().iter().map(|p| p.source.to_string()).collect();
    assert!(sources[0].starts_with("<text>:"), "{sources:?}");
    let last = &sources[sources.len() - 2..];
    assert_eq!(last, ["ROUNDTRIP_KAFKA__REPLY_PARTITIONS", "ROUNDTRIP_X"]);
    assert!(!problems.to_string().contains("required"), "{problems}");
}

#[test]
fn tells_a_file_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("none.toml");
    let problems = Config::load(Some(&path), std::iter::empty(), None).unwrap_err();
    let problem = &problems.as_slice()[0];
    assert_eq!(problem.source, Source::File { path: path.clone(), line: None });
    assert!(problem.reason.starts_with("cannot be read: "), "{problem}");
    std::fs::write(&path, LEAST).unwrap();
    assert_eq!(Config::load(Some(&path), std::iter::empty(), None), load(LEAST, &[]));
}

#[test]
fn checks_what_options_are_to_each_other() {
    for (more, reason) in [
        ("services.echo.timeout = '61s'", "timeout must not be over timeout_max: 61s against 1m"),
        ("services.echo.timeout_max = '1s'", "timeout must not be over timeout_max: 5s against 1s"),
        ("services.x.request_topic = 'roundtrip.replies'", "must not be kafka.reply_topic"),
        ("limits.message_bytes_max = '2MiB'", "must be over limits.message_bytes_max: 2MiB"),
        ("limits.frame_bytes_max = '900KiB'", "must be over limits.message_bytes_max: 900KiB"),
        ("public.listen = '127.0.0.1:9080'", "overlap: 127.0.0.1:9080 and 127.0.0.1:9080"),
        ("internal.listen = '0.0.0.0:8080'", "overlap: 127.0.0.1:8080 and 0.0.0.0:8080"),
    ] {
        let problems = problems_with(more);
        assert!(problems.contains(reason), "{problems}");
        assert!(problems.ends_with("(<text>:6)"), "{problems}");
    }
}

#[test]
fn dead_letters_have_a_topic_of_their_own() {
    let with = |topic: &str| problems_with(&format!("services.echo.dead_letter_topic = '{topic}'"));
    let requests = with("echo");
    assert!(requests.contains("must not be services.echo.request_topic"), "{requests}");
    let replies = with("roundtrip.replies");
    assert!(replies.contains("must not be kafka.reply_topic"), "{replies}");
    assert!(with("roundtrip_replies").contains("are one name to Kafka"));
    let shared = "services.echo.dead_letter_topic = 'dead'\n\
                  [services.other]\nrequest_topic = 'other'\ndead_letter_topic = 'dead'";
    let config = load(&format!("{LEAST}{shared}"), &[]).unwrap();
    assert_eq!(config.services["other"].dead_letter_topic.as_deref(), Some("dead"));
}

#[test]
fn refuses_topics_that_are_one_to_kafka() {
    let alike = "services.b.request_topic: \"a_b\" and \"a.b\", which services.a.request_topic is, \
                 are one name to Kafka, which takes . and _ for the same: it refuses to create the \
                 second (<text>:7)";
    let both = "services.a.request_topic = 'a.b'\nservices.b.request_topic = 'a_b'";
    assert_eq!(problems_with(both), alike);
    let reply = problems_with("services.a.request_topic = 'roundtrip_replies'");
    assert!(reply.starts_with("services.a.request_topic: \"roundtrip_replies\" and "), "{reply}");
    assert!(reply.contains("which kafka.reply_topic is"), "{reply}");
    let set = problems_with("kafka.reply_topic = 'ec_ho'\nservices.a.request_topic = 'ec.ho'");
    assert!(set.contains("\"ec.ho\" and \"ec_ho\""), "{set}");
    let three =
        format!("{both}\nservices.c.request_topic = 'a.b'\nservices.d.request_topic = 'a_b'");
    assert_eq!(problems_with(&three).lines().count(), 2, "each that is not the first's");
    for more in [
        "services.a.request_topic = 'a.b'\nservices.b.request_topic = 'a.b'",
        "services.a.request_topic = 'a.b'\nservices.b.request_topic = 'a-b'",
        "services.a.request_topic = 'a.b'\nservices.b.request_topic = 'A_b'",
    ] {
        assert!(load(&format!("{LEAST}{more}"), &[]).is_ok(), "{more}");
    }
}

#[test]
fn accepts_what_only_looks_wrong() {
    for more in [
        "services.b.request_topic = 'echo'",
        "internal = { listen = '0.0.0.0:0', advertise = 'http://10.0.0.5:0' }",
        "internal.listen = '0.0.0.0:9080'",
        "internal.listen = '[::]:0'",
        "internal.listen = '127.0.0.1:0'\npublic.listen = '127.0.0.1:0'",
        "public.allowed_origins = []",
        "session.pong_timeout = '26s'",
        "session.ping_interval = '5s'",
        "limits.frame_bytes_max = 921601",
    ] {
        let least = match more.starts_with("internal = {") {
            true => LEAST.replace("internal.secret = '0123456789abcdef0123456789abcdef'", ""),
            false => LEAST.to_owned(),
        };
        let more = more.replace("}", ", secret = '0123456789abcdef0123456789abcdef' }");
        let loaded = load(&format!("{least}{more}"), &[]);
        assert!(loaded.is_ok(), "{more}: {loaded:?}");
    }
}

#[test]
fn refuses_what_the_registrys_client_would_refuse() {
    for (url, reason) in [
        ("redis://u:hunter2@h:6379/abc", "Invalid database number"),
        ("redis://h:6379/?protocol=hunter2", "Invalid protocol version"),
        ("redis://0.0.0.0:6379", "Cannot connect to"),
        ("rediss://h/0#insecure", "expected rediss://"),
        ("redis+cluster://u:hunter2@a:1,b:2/3", "it has no databases"),
        ("redis+cluster://a:1?hunter2", "a list of servers has no query"),
        ("redis+sentinel://u:hunter2@a:1", "a sentinel URL ends with /<master name>"),
        ("redis+sentinel://u:hunter2@a:1/main/db", "Invalid database number"),
    ] {
        let problems = problems_with(&format!("registry.url = '{url}'"));
        assert!(problems.starts_with("registry.url: "), "{url}: {problems}");
        assert!(problems.contains(reason), "{url}: {problems}");
        assert!(problems.ends_with("(<text>:6)"), "{url}: {problems}");
        assert!(!problems.contains("hunter2"), "{url}: {problems}");
    }
    let problem = problem_of("ROUNDTRIP_REGISTRY__URL", "redis://h/abc");
    assert!(problem.ends_with("(ROUNDTRIP_REGISTRY__URL)"), "{problem}");
}

#[test]
fn a_node_needs_no_services() {
    let none = LEAST.replace("services.echo.request_topic = 'echo'", "");
    assert!(load(&none, &[]).unwrap().services.is_empty());
    assert!(load(&format!("{none}[services]"), &[]).unwrap().services.is_empty());
}

#[test]
fn refuses_a_secret_that_can_be_guessed() {
    let with = |secret: &str, more: &str| {
        let least = LEAST.replace("0123456789abcdef0123456789abcdef", secret);
        load(&format!("{least}{more}"), &[]).map_err(|problems| problems.to_string())
    };
    let short =
        "internal.secret: must be 16 to 1024 characters, is 15; openssl rand -hex 32 makes one";
    assert_eq!(with("0123456789abcde", ""), Err(format!("{short} (<text>:4)")));
    assert!(with("0123456789abcdef", "").is_ok());
    assert!(with("0123456789abcdef", "internal.listen = '127.0.0.9:1'").is_ok());
    assert!(with("0123456789abcdef", "internal.listen = '[::1]:1'").is_ok());
    for listen in ["0.0.0.0:9080", "10.0.0.5:9080", "[::]:9080"] {
        let remote = format!("internal.listen = '{listen}'");
        let problem = with(&"x".repeat(31), &remote).unwrap_err();
        assert!(
            problem.starts_with("internal.secret: must be at least 32 characters"),
            "{problem}"
        );
        assert!(problem.contains(listen) && problem.contains("is 31"), "{problem}");
        assert!(with(&"x".repeat(32), &remote).is_ok());
    }
}

#[test]
fn tells_of_options_that_have_no_effect_beside_others() {
    for (more, key) in [
        ("registry = { url = 'memory:', prefix = 'x:' }", "registry.prefix"),
        ("registry.url = 'memory:'\ninternal.advertise = 'http://a'", "internal.advertise"),
        ("public.allowed_origins = ['*', 'http://a']", "public.allowed_origins"),
        (
            "limits.in_flight_max = 1\nlimits.in_flight_per_connection_max = 2",
            "limits.in_flight_per_connection_max",
        ),
        ("limits.message_bytes_max = '1MiB'", "limits.message_bytes_max"),
        ("services.echo.gone_within = '1h'", "services.echo.gone_within"),
    ] {
        let unused = load(&format!("{LEAST}{more}"), &[]).unwrap().unused;
        let keys: Vec<&str> = unused.iter().map(|unused| &*unused.key).collect();
        assert_eq!(keys, [key], "{more}");
    }
    for more in [
        "",
        "registry.url = 'memory:'",
        "limits.in_flight_max = 1",
        "services.echo.deletable = true\nservices.echo.gone_within = '1h'",
        "public.allowed_origins = ['*']",
        "limits.message_bytes_max = '1MiB'\nkafka.properties.message.max.bytes = 2000000",
    ] {
        let unused = load(&format!("{LEAST}{more}"), &[]).unwrap().unused;
        assert_eq!(unused, [], "{more}");
    }
}

#[test]
fn what_can_be_deleted_is_on_or_off_and_has_bounds() {
    let config = load(LEAST, &[("ROUNDTRIP_SERVICES__ECHO__DELETABLE", "true")]).unwrap();
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(config.services["echo"].deleted_within(), Some(day));
    for (more, problem) in [
        ("deletable = 'true'", "services.echo.deletable: expected true or false, found a string"),
        ("deletable = 1", "services.echo.deletable: expected true or false, found an integer"),
        ("gone_within = '9s'", "services.echo.gone_within: must be 10s to 8760h, is 9s"),
        ("gone_within = '8761h'", "services.echo.gone_within: must be 10s to 8760h, is 8761h"),
    ] {
        let problems = problems_with(&format!("services.echo.{more}"));
        assert!(problems.starts_with(problem), "{problems}");
    }
}

#[test]
fn services_on_one_topic_agree_on_what_can_be_deleted() {
    let with = |one: &str, other: &str| {
        let one = format!("services.echo = {{ request_topic = 'echo'{one} }}");
        let other = format!("services.other = {{ request_topic = 'echo'{other} }}");
        load(
            &LEAST.replace("services.echo.request_topic = 'echo'", &format!("{one}\n{other}")),
            &[],
        )
    };
    assert!(with(", deletable = true", ", deletable = true, gone_within = '24h'").is_ok());
    assert!(with("", ", gone_within = '1h'").is_ok(), "without effect");
    for (one, other, problem) in [
        ("", ", deletable = true", "services.other.deletable: must be false as for services.echo"),
        (", deletable = true", "", "services.echo.deletable: must be true as for services.echo"),
        (
            ", deletable = true",
            ", deletable = true, gone_within = '1h'",
            "services.other.gone_within: must be 24h as for services.echo",
        ),
    ] {
        let problems = with(one, other).unwrap_err().to_string();
        assert!(problems.starts_with(problem), "{problems}");
    }
}

#[test]
fn explains_what_has_no_effect() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.toml");
    std::fs::write(&path, format!("{LEAST}rest.idempotency_retention = '1s'")).unwrap();
    let text = Config::explain(Some(&path), std::iter::empty(), None).unwrap();
    let end = "\n\n# Set, and without effect:\n# rest.idempotency_retention: it tunes what this version does not have\n";
    assert!(text.ends_with(end), "{text}");
}

#[test]
fn checks_properties_beside_all_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.toml");
    let more = "kafka.properties.linger.ms = 'hunter2'\nlimits.in_flight_max = 0";
    std::fs::write(&path, format!("{LEAST}{more}")).unwrap();
    let check = |name: &str, _: &str| (name == "linger.ms").then(|| "refused".to_owned());
    let problems = Config::load(Some(&path), std::iter::empty(), Some(check)).unwrap_err();
    let problems: Vec<String> = problems.as_slice().iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("kafka.properties.\"linger.ms\": refused ("), "{problems:?}");
    assert!(problems[1].starts_with("limits.in_flight_max: must be "), "{problems:?}");
}

#[test]
fn suggests_the_variable_with_the_right_underscores() {
    for (name, meant) in [
        ("ROUNDTRIP_KAFKA_BOOTSTRAP_SERVERS", "ROUNDTRIP_KAFKA__BOOTSTRAP_SERVERS"),
        ("ROUNDTRIP_KAFKA__BOOTSTRAP__SERVERS", "ROUNDTRIP_KAFKA__BOOTSTRAP_SERVERS"),
        ("ROUNDTRIP_NODE__ID", "ROUNDTRIP_NODE_ID"),
        ("ROUNDTRIP_SERVICES_ECHO_TIMEOUT_MAX", "ROUNDTRIP_SERVICES__ECHO__TIMEOUT_MAX"),
        ("ROUNDTRIP_SERVICES__NEW_ONE_REQUEST_TOPIC", "ROUNDTRIP_SERVICES__NEW_ONE__REQUEST_TOPIC"),
        ("ROUNDTRIP_KAFKA_PROPERTIES_SASL_PASSWORD", "ROUNDTRIP_KAFKA__PROPERTIES__SASL_PASSWORD"),
    ] {
        let problem = problem_of(name, "x");
        assert!(problem.contains(&format!("did you mean {meant}?")), "{problem}");
    }
}

#[test]
fn advertises_what_peers_can_call() {
    let told = |advertise: Option<&str>, bound: &str| {
        let mut internal = load(LEAST, &[]).unwrap().internal;
        internal.advertise = advertise.map(str::to_owned);
        internal.advertised(bound.parse().unwrap())
    };
    for (advertise, bound, url) in [
        (Some("http://10.0.0.5:9080"), "0.0.0.0:1234", "http://10.0.0.5:9080"),
        (Some("http://gw-1"), "127.0.0.1:1234", "http://gw-1"),
        (Some("http://gw-1:0"), "0.0.0.0:1234", "http://gw-1:1234"),
        (Some("http://[::1]:0"), "[::]:1234", "http://[::1]:1234"),
        (Some("http://[::]"), "[::]:1234", "http://[::]"),
        (None, "127.0.0.1:1234", "http://127.0.0.1:1234"),
        (None, "[::1]:1234", "http://[::1]:1234"),
    ] {
        assert_eq!(told(advertise, bound), url);
    }
    let host = super::kernel_host_name();
    let host = host.as_ref().map_or("localhost", registry::NodeId::as_str);
    for bound in ["0.0.0.0:1234", "[::]:1234"] {
        let url = told(None, bound);
        assert_eq!(url, format!("http://{host}:1234"));
        assert_eq!(super::places::advertise(&url), Ok(url));
    }
}

#[test]
fn refuses_properties_the_promises_depend_on() {
    let problem = problem_of("ROUNDTRIP_KAFKA__PROPERTIES__GROUP_ID", "x");
    assert_eq!(
        problem,
        "kafka.properties.\"group.id\": must not be set: set kafka.group_id instead \
         (ROUNDTRIP_KAFKA__PROPERTIES__GROUP_ID)"
    );
    let twice = problems_with("[kafka.properties]\n'a.b' = 1\na.b = 2");
    assert!(twice.starts_with("kafka.properties.\"a.b\": set twice"), "{twice}");
    assert!(problems_with("kafka.properties.acks = 1").contains("must stay all"));
}

#[test]
fn explains_values_and_their_sources() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gateway.toml");
    let more = "registry.url = 'redis://u:pass@host/1'\nkafka.properties.sasl.password = 'pass'";
    std::fs::write(&path, format!("{LEAST}{more}")).unwrap();
    let variables = [("ROUNDTRIP_SHUTDOWN__GRACE", "60s"), ("ROUNDTRIP_LOG__FORMAT", "json")];
    let text = Config::explain(Some(&path), pairs(&variables), None).unwrap();
    for line in [
        &format!("node_id = \"n\" # {}:2", path.display()),
        "\n[public]\nlisten = \"127.0.0.1:8080\" # default\n# allowed_origins: none\n",
        "secret = \"***\" #",
        "\n[kafka.properties]\n\"sasl.password\" = \"***\" #",
        "url = \"redis://***@host/1\" #",
        "grace = \"1m\" # ROUNDTRIP_SHUTDOWN__GRACE\n",
        "format = \"json\" # ROUNDTRIP_LOG__FORMAT\n",
        "\n[services.echo]\nrequest_topic = \"echo\" #",
        "timeout = \"5s\" # default\n",
        "outbox_bytes_max = \"1MiB\" # default\n",
        "allowed_headers = [] # default\n",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("# properties"), "{text}");
    assert!(!text.contains("pass\"") && !text.contains("0123456789abcdef"), "{text}");
}

#[test]
fn what_is_explained_loads_again() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("1"), directory.path().join("2"));
    std::fs::write(&first, EXAMPLE).unwrap();
    let text = Config::explain(Some(&first), std::iter::empty(), None).unwrap();
    std::fs::write(&second, text.replace("\"***\"", "\"0123456789abcdef0123456789abcdef\""))
        .unwrap();
    let again = Config::explain(Some(&second), std::iter::empty(), None).unwrap();
    let values = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split(" # ").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(values(&again), values(&text));
}

#[test]
fn the_process_environment_has_our_path() {
    assert!(super::process_environment().any(|(name, _)| name == "PATH"));
}

/// What must never be shown, wherever a secret may stand.
const MARK: &str = "Xyzzy-Plugh-Xyzzy";

fn secretive(timeout: &str) -> String {
    format!(
        "
[internal]
secret = \"{MARK}\"
[registry]
url = \"redis://user:{MARK}@host:1/0?password={MARK}\"
[kafka]
bootstrap_servers = \"k:9092\"
[kafka.properties]
sasl.password = \"{MARK}\"
\"ssl.key.pem\" = \"{MARK}\"
[services.echo]
request_topic = \"echo\"
timeout = {timeout}
"
    )
}

/// Everything that may reach a log or a screen.
fn shown(text: &str, variables: &[(&str, &str)]) -> String {
    match load(text, variables) {
        Ok(config) => format!("{config:?} {config:#?} {}", config.registry.redacted_url()),
        Err(problems) => format!("{problems} {problems:?}"),
    }
}

#[test]
fn no_secret_of_the_environment_is_shown() {
    let url = format!("http://u:{MARK}@host");
    for text in [MARK.to_owned(), format!("[{MARK:?}]"), format!("{{ a = {MARK:?} }}"), url] {
        for name in [
            "ROUNDTRIP_INTERNAL__SECRET",
            "ROUNDTRIP_REGISTRY__URL",
            "ROUNDTRIP_KAFKA__PROPERTIES__SASL_PASSWORD",
            "ROUNDTRIP_KAFKA__PROPERTIES__GROUP_ID",
            "ROUNDTRIP_KAFKA__PROPERTIES",
            "ROUNDTRIP_INTERNAL",
            "ROUNDTRIP_REGISTRY",
            "ROUNDTRIP_SECRET",
        ] {
            assert!(!shown(LEAST, &[(name, &text)]).contains(MARK), "{name}={text}");
        }
    }
}

proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}") {
        let _loaded = load(&text, &[]);
    }

    #[test]
    fn no_toml_panics(text in r#"([a-z._]{1,9} ?= ?("[^"]{0,5}"|[0-9a-z.+_-]{0,9}|\[1, "a"\]|\{ ?a = 1 ?\})\n|\[{1,2}[a-z."]{1,9}\]{1,2}\n){0,8}"#) {
        let _loaded = load(&text, &[]);
    }

    #[test]
    fn no_variable_panics(
        name in "ROUNDTRIP_(KAFKA|SERVICES|LOG|kafka__properties)?[A-Z_]{0,20}",
        text in ".{0,40}",
    ) {
        let _loaded = load(LEAST, &[(&name, &text)]);
    }

    #[test]
    fn no_secret_is_shown(timeout in "\"[0-9]{1,3}(s|ms|h)\"|[a-z0-9\"]{1,5}") {
        prop_assert!(!shown(&secretive(&timeout), &[]).contains(MARK));
    }

    /// A slip of the pen anywhere in the file does not show a secret either.
    #[test]
    fn no_secret_is_shown_of_a_damaged_file(at in any::<prop::sample::Index>(), instead in "[\"'=\\[\\]{}.#\n a]?") {
        let text = secretive("\"5s\"");
        let at = at.index(text.len());
        let damaged = format!("{}{instead}{}", &text[..at], &text[at + 1..]);
        prop_assert!(!shown(&damaged, &[]).contains(MARK), "{}", damaged);
    }
}
