use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::{ProptestConfig, Strategy, any, prop_assert_eq, prop_oneof, proptest};
use serde_json::{Value, json};

use super::*;
use crate::error::{ErrorCode, Failure};

fn request(text: &str) -> RequestFrame<'_> {
    match ClientFrame::parse(text) {
        Ok(ClientFrame::Request(request)) => request,
        other => panic!("{text}: {other:?}"),
    }
}

fn refusal(text: &str) -> BadFrame {
    ClientFrame::parse(text).expect_err(text)
}

fn some_request() -> RequestId {
    RequestId::from_header(b"01890a5d-ac96-774b-bcce-b302099a8057").unwrap()
}

fn response(payload: &[u8]) -> String {
    let reply = Reply { payload: Bytes::copy_from_slice(payload), ..Reply::default() };
    let id = ClientId::from_json("7").unwrap();
    Frame::Response { id, request: some_request(), reply }.render(3)
}

#[test]
fn a_service_makes_a_frame_a_request() {
    let frame = request(r#"{"service":"echo","payload":"hi"}"#);
    assert_eq!((&*frame.service, frame.payload), ("echo", r#""hi""#));
    assert_eq!(frame.id, None);
    assert!(!frame.receipt);
}

#[test]
fn payload_bytes_are_kept() {
    for payload in [
        "1e400",
        "0.10",
        "-0",
        r#"{"a":1,"a":2}"#,
        r#""\u0041\/\ud800""#,
        "[ 1 ,\t2 ]",
        "123456789012345678901234567890",
    ] {
        let text = format!(r#"{{"service":"s","payload": {payload} }}"#);
        assert_eq!(request(&text).payload, payload);
        let frame = response(payload.as_bytes());
        assert!(frame.ends_with(&format!(r#","payload":{payload}}}"#)), "{frame}");
    }
}

#[test]
fn deep_nesting_is_kept() {
    let payload = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let text = format!(r#"{{"service":"s","payload":{payload}}}"#);
    assert_eq!(request(&text).payload, payload);
    assert!(response(payload.as_bytes()).contains(&payload));
}

#[test]
fn null_counts_as_absent() {
    let frame = request(
        r#"{"type":null,"service":"s","id":null,"key":null,"payload":null,"headers":null,
            "timeout_ms":null,"receipt":null,"extra":1}"#,
    );
    assert_eq!(frame.payload, "null");
    assert!(frame.id.is_none() && frame.key.is_none() && frame.timeout_ms.is_none());
}

#[test]
fn an_absent_payload_is_null() {
    assert_eq!(request(r#"{"service":"s"}"#).payload, "null");
}

#[test]
fn ids_differ_by_type_and_not_by_spelling() {
    let id = |json: &str| ClientId::from_json(json).unwrap();
    assert_ne!(id("1"), id(r#""1""#));
    assert_eq!(id(r#""\u0061""#), id(r#""a""#));
    assert_eq!(id(r#""\"""#).as_json(), r#""\"""#);
    let longest = format!("\"{}\"", "x".repeat(CLIENT_ID_BYTES_MAX));
    assert!(ClientId::from_json(&longest).is_some());
    let too_long = format!("\"{}\"", "x".repeat(CLIENT_ID_BYTES_MAX + 1));
    for bad in ["1.5", "1e3", "true", "[]", "{}", "-", &too_long, r#""\ud800""#] {
        assert!(ClientId::from_json(bad).is_none(), "{bad}");
    }
}

#[test]
fn a_bad_field_is_named_and_the_id_kept() {
    for (field, named) in [
        (r#""service":1"#, "service"),
        (r#""service":"s","key":1"#, "key"),
        (r#""service":"s","headers":[]"#, "headers"),
        (r#""service":"s","headers":{"a":1}"#, "headers"),
        (r#""service":"s","timeout_ms":0"#, "timeout_ms"),
        (r#""service":"s","timeout_ms":-1"#, "timeout_ms"),
        (r#""service":"s","timeout_ms":1.5"#, "timeout_ms"),
        (r#""service":"s","timeout_ms":"5""#, "timeout_ms"),
        (r#""service":"s","receipt":1"#, "receipt"),
        (r#""type":1"#, "type"),
        (r#""type":"ack","seq":18446744073709551616"#, "seq"),
        (r#""type":"ack","seq":-1"#, "seq"),
        (r#""type":"dance""#, "dance"),
        (r#""type":"request""#, "service"),
        (r#""payload":1"#, "service"),
    ] {
        let bad = refusal(&format!(r#"{{"id":"x",{field}}}"#));
        assert_eq!(bad.id, ClientId::from_json(r#""x""#), "{field}");
        assert!(bad.message.contains(named), "{field}: {}", bad.message);
    }
}

#[test]
fn a_bad_id_is_told_what_it_may_be() {
    let told = |id: &str| refusal(&format!(r#"{{"service":"s","id":{id}}}"#)).message.into_owned();
    let kinds = "id is a string or an integer of at most 128 bytes";
    assert_eq!(told("true"), kinds);
    assert_eq!(
        told(&format!("\"{}\"", "x".repeat(129))),
        format!("{kinds}; this one has 131 in JSON")
    );
    assert_eq!(told(&"1".repeat(200)), format!("{kinds}; this one has 200 in JSON"));
}

#[test]
fn what_is_no_object_is_refused() {
    for text in ["", "null", "1", "[]", r#"["request"]"#, "{", "{}x", r#"{"service":"s"} {}"#] {
        assert_eq!(refusal(text).id, None, "{text}");
    }
}

#[test]
fn a_timeout_beyond_all_numbers_is_the_largest() {
    let text = r#"{"service":"s","timeout_ms":99999999999999999999999}"#;
    assert_eq!(request(text).timeout_ms, Some(u64::MAX));
}

#[test]
fn other_bytes_go_as_base64() {
    let frame: Value = serde_json::from_str(&response(&[0xff, 0x00])).unwrap();
    assert_eq!(frame["encoding"], "base64");
    assert_eq!(frame["payload"], "/wA=");
}

#[test]
fn text_that_is_not_json_goes_as_a_string() {
    for text in [
        "plain text",
        "01",
        "\"half a string",
        "a\0b\u{1}\u{1f}\u{7f}\r\n\t\u{8}\u{c}",
        "\u{2028}\u{2029}\u{feff}",
        "\\u0041 \\ / \"",
        "<!--</script>",
        "\u{10ffff}\u{fffd}",
        " ",
    ] {
        let frame = response(text.as_bytes());
        let plain = |c: char| c >= ' ' && c != '\u{2028}' && c != '\u{2029}';
        assert!(frame.chars().all(plain), "one line, whoever reads it: {frame:?}");
        let frame: Value = serde_json::from_str(&frame).unwrap();
        assert_eq!((&frame["payload"], &frame["encoding"]), (&json!(text), &json!("text")));
    }
}

/// The bytes that a service sent, as a client finds them in a frame.
fn decoded(frame: &str) -> Vec<u8> {
    #[derive(serde::Deserialize)]
    struct Read<'a> {
        #[serde(borrow)]
        payload: &'a serde_json::value::RawValue,
        encoding: Option<String>,
    }
    let read: Read<'_> = serde_json::from_str(frame).unwrap();
    let text = || serde_json::from_str::<String>(read.payload.get()).unwrap();
    match read.encoding.as_deref() {
        None if read.payload.get() == "null" => Vec::new(),
        None => read.payload.get().as_bytes().to_vec(),
        Some("text") => text().into_bytes(),
        Some("base64") => STANDARD.decode(text()).unwrap(),
        Some(other) => panic!("{other}"),
    }
}

#[test]
fn an_empty_value_is_null() {
    let frame: Value = serde_json::from_str(&response(b"")).unwrap();
    assert_eq!(frame["payload"], Value::Null);
    assert_eq!(frame.get("encoding"), None);
}

#[test]
fn white_space_around_a_payload_is_no_other_bytes() {
    let frame: Value = serde_json::from_str(&response(b" {\"a\":1}\n")).unwrap();
    assert_eq!(frame["payload"], json!({"a": 1}));
}

#[test]
fn an_error_says_everything() {
    let failure = Failure::new(ErrorCode::RateLimited, "slow \"down\"")
        .retry_after(std::time::Duration::from_millis(250));
    let frame = Frame::Error { id: None, request: None, failure, reply: None }.render(9);
    let frame: Value = serde_json::from_str(&frame).unwrap();
    assert_eq!(
        frame,
        json!({"type":"error","seq":9,"code":"rate_limited","message":"slow \"down\"",
               "retryable":true,"recorded":false,"retry_after_ms":250})
    );
}

/// Any bytes; texts, and what is nearly JSON, often enough.
fn payloads() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<Vec<u8>>(),
        any::<String>().prop_map(String::into_bytes),
        "[\\x00-\\x1f\"\\\\ \u{2028}\u{2029}\u{e2}]{0,8}".prop_map(String::into_bytes),
        r#"[ \n]?[{}\[\]:,"0-9a-enrtu\\.+-]{0,6}[ \n]?"#.prop_map(String::into_bytes),
        any::<String>().prop_map(|text| Value::from(text).to_string().into_bytes()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_breaks_the_reader(text in any::<String>()) {
        drop(ClientFrame::parse(&text));
    }

    #[test]
    fn a_client_decodes_what_the_service_sent(bytes in payloads()) {
        let is_null = bytes == b"null";
        let decoded = decoded(&response(&bytes));
        // White space around JSON may go; nothing else may.
        let json = serde_json::from_slice::<&serde_json::value::RawValue>(&bytes);
        match json {
            Ok(json) if !is_null => prop_assert_eq!(decoded, json.get().as_bytes()),
            _ => prop_assert_eq!(decoded, if is_null { Vec::new() } else { bytes }),
        }
    }

    #[test]
    fn every_string_survives(text in any::<String>()) {
        let mut out = String::new();
        push_string(&mut out, &text);
        prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
    }
}
