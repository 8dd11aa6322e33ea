// A page that uses the client which PROTOCOL.md prints: `node printed_client.mjs CLIENT WS STORY URL…`.
// WS is a module with WebSocket for a Node.js without one of its own. Each line of output is an observation;
// the process ends by itself once the client has left nothing behind.

const [client, ws, story, ...urls] = process.argv.slice(2);
globalThis.WebSocket ??= (await import(ws)).WebSocket;
// Node.js 18, which Debian 12 has, knows it as a module alone.
globalThis.crypto ??= (await import("node:crypto")).webcrypto;
// Pages that come over plain http have no `randomUUID`.
delete Object.getPrototypeOf(crypto).randomUUID;
delete crypto.randomUUID;
const { connect } = await import(client);

/** What becomes of a promise, as a line. */
function told(name, promise) {
  return promise.then(
    (frame) => console.log(`${name}: ${frame.type} ${JSON.stringify(frame.payload)}`),
    (error) => console.log(`${name}: rejected, ${error.code ?? error.message}`),
  );
}

/** Waits for a line on standard input. */
function asked() {
  return new Promise((resolve) => process.stdin.once("data", resolve));
}

const stories = {
  // Asks, waits while its node is killed, and is answered by another one.
  async survives() {
    const it = connect(urls);
    await told("first", it.request("echo", { n: 1 }));
    const held = told("held", it.request("held", "late"));
    await held;
    await told("unknown", it.request("nobody", 1));
    await told("huge", it.request("echo", "x".repeat(3 * 1024 * 1024)));
    await told("small", it.request("echo", 3));
    it.close();
    await told("after", it.request("echo", 2));
  },
  // Closes while nobody answers its handshake.
  async connecting() {
    const it = connect(urls);
    const one = told("one", it.request("echo", 1));
    console.log("asked");
    await asked();
    it.close();
    await one;
  },
  // Closes while it waits for its next try.
  async waiting() {
    const it = connect(urls);
    const one = told("one", it.request("echo", 1));
    const WebSocketOf = globalThis.WebSocket;
    let tries = 0;
    globalThis.WebSocket = class extends WebSocketOf {
      constructor(...given) {
        super(...given);
        tries += 1;
        // Behind the client's own handler: so a delay has begun.
        this.addEventListener("close", () => tries === 2 && setTimeout(closes));
      }
    };
    function closes() {
      it.close();
      globalThis.WebSocket = class {
        constructor() { console.log("tries again"); }
      };
    }
    await one;
  },
};

await stories[story]();
process.stdin.destroy();
