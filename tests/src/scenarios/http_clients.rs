//! Situation: one node, a service that echoes.
//! Action: the HTTP clients that come with Python and Node.js do what they do in their own ways.
//! Must hold: they understand every answer, also an early one, and their connections go on.

use std::{fs, net::SocketAddr};

use anyhow::{Result, ensure};
use tests::{cluster::Cluster, process::run_dir, terminal::Terminal};

/// Writes everything first, reads the answer later, and keeps its connection.
const PYTHON: &str = r#"
import http.client, json, socket, sys

host, port = sys.argv[1].rsplit(":", 1)

def connect():
    return http.client.HTTPConnection(host, int(port), timeout=20)

kept = connect()
for method, body in [("POST", b'{"a":1}'), ("PUT", b"text"), ("GET", None), ("HEAD", None)]:
    kept.request(method, "/v1/services/echo/path?q", body=body)
    answer = kept.getresponse()
    assert answer.status == 200, (method, answer.status)
    assert answer.read() == (body or b""), method
kept.request("GET", "/v1/services")
listed = json.load(kept.getresponse())
assert listed == [{"name": "echo"}], listed
kept.request("HEAD", "/v1/services")
answer = kept.getresponse()
assert (answer.status, answer.read()) == (200, b""), answer.status
assert int(answer.headers["content-length"]) > 10

# Far too much, all of it before the first look at the answer.
early = connect()
early.request("POST", "/v1/services/echo", body=b"x" * 20_000_000)
answer = early.getresponse()
problem = json.load(answer)
assert (answer.status, problem["code"]) == (413, "too_large"), (answer.status, problem)

chunks = connect()
chunks.request("POST", "/v1/services/echo", body=iter([b"1", b"2" * 70_000]), encode_chunked=True,
               headers={"Transfer-Encoding": "chunked"})
answer = chunks.getresponse()
assert (answer.status, answer.read()) == (200, b"1" + b"2" * 70_000), answer.status

# As a shell's `nc -N` does: nothing more to say, and all ears.
half = socket.create_connection((host, int(port)), timeout=20)
half.sendall(b"POST /v1/services/echo HTTP/1.0\r\nContent-Length: 2\r\n\r\n42")
half.shutdown(socket.SHUT_WR)
answer = half.makefile("rb").read()
assert answer.startswith(b"HTTP/1.0 200 ") and answer.endswith(b"\r\n\r\n42"), answer
print("python is content")
"#;

/// Reads while it writes, and waits to be told to go on.
const NODE: &str = r#"
import assert from "node:assert";
import http from "node:http";

const base = `http://${process.argv[2]}`;
const echo = `${base}/v1/services/echo`;

for (const [method, body] of [["POST", '{"a":1}'], ["PUT", "text"], ["GET", undefined]]) {
  const answer = await fetch(`${echo}/path?q`, { method, body });
  assert.deepEqual([answer.status, await answer.text()], [200, body ?? ""]);
}
const head = await fetch(`${base}/v1/services`, { method: "HEAD" });
assert.deepEqual([head.status, await head.text()], [200, ""]);
assert.deepEqual(await (await fetch(`${base}/v1/services`)).json(), [{ name: "echo" }]);

const tooLarge = await fetch(echo, { method: "POST", body: "x".repeat(20_000_000) });
assert.deepEqual([tooLarge.status, (await tooLarge.json()).code], [413, "too_large"]);

function ask(options, write) {
  return new Promise((resolve, reject) => {
    const request = http.request(echo, { method: "POST", ...options }, (answer) => {
      let text = "";
      answer.on("data", (data) => (text += data));
      answer.on("end", () => resolve({ status: answer.statusCode, text }));
    });
    request.on("error", reject);
    write(request);
  });
}

let told = 0;
const expecting = (body) => (request) => {
  request.on("continue", () => {
    told += 1;
    request.end(body);
  });
  request.flushHeaders();
};
const small = { headers: { expect: "100-continue", "content-length": 2 } };
assert.deepEqual(await ask(small, expecting("42")), { status: 200, text: "42" });
const large = { headers: { expect: "100-continue", "content-length": 20_000_000 } };
assert.equal((await ask(large, expecting("never"))).status, 413);
assert.equal(told, 1);

const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
for (const body of ["1", "2", "3"]) {
  const answer = await ask({ agent }, (request) => request.end(body));
  assert.deepEqual(answer, { status: 200, text: body });
}
agent.destroy();
console.log("node is content");
"#;

async fn run(program: &str, file: &str, script: &str, address: SocketAddr) -> Result<()> {
    let path = run_dir().join(file);
    fs::write(&path, script)?;
    let shown = Terminal::run(&format!("{program} {} {address}", path.display()))?.ends().await?;
    ensure!(shown.contains("is content"), "{shown}");
    Ok(())
}

#[tokio::test]
async fn the_clients_of_python_and_node_understand_every_answer() -> Result<()> {
    let cluster = Cluster::builder().service("echo").start().await?;
    let _echo = cluster.worker("echo").echo()?;
    let address = cluster.node(0).public();
    run("python3", "client.py", PYTHON, address).await?;
    run("node", "client.mjs", NODE, address).await?;
    cluster.finish().await
}
