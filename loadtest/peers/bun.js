// Bun's publish, as its documentation shows it. Updates come over TCP: length (u32, little-endian, of what follows),
// symbol (u16, little-endian), text. Clients name their symbols in the path: /?s=0.17.
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request, server) {
    const symbols = new URL(request.url).searchParams.get("s") ?? "";
    if (server.upgrade(request, { data: symbols.split(".") })) return undefined;
    return new Response("a WebSocket is wanted", { status: 426 });
  },
  websocket: {
    idleTimeout: 0,
    open(socket) {
      for (const symbol of socket.data) socket.subscribe(symbol);
      socket.send("ready");
    },
    message() {},
  },
});

let rest = Buffer.alloc(0);

const feed = Bun.listen({
  hostname: "127.0.0.1",
  port: 0,
  socket: {
    data(_, chunk) {
      rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
      let at = 0;
      while (rest.length >= at + 4) {
        const end = at + 4 + rest.readUInt32LE(at);
        if (rest.length < end) break;
        server.publish(String(rest.readUInt16LE(at + 4)), rest.subarray(at + 6, end));
        at = end;
      }
      rest = Buffer.from(rest.subarray(at));
    },
    close() {
      process.exit(0);
    },
  },
});

console.log(JSON.stringify({ ws: server.port, feed: feed.port, version: Bun.version }));
