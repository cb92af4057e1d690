// Node.js with ws, as its documentation broadcasts. Updates come over TCP: length (u32, little-endian, of what
// follows), symbol (u16, little-endian), text. Clients name their symbols in the path: /?s=0.17.
const net = require("node:net");
const http = require("node:http");
const { createRequire } = require("node:module");
const { join } = require("node:path");

// Where scripts/install-peers puts it.
const { WebSocketServer } = createRequire(join(process.cwd(), "target/peers/"))("ws");

const clients = new Map();
const server = http.createServer();
const sockets = new WebSocketServer({ server });

sockets.on("connection", (socket, request) => {
  const symbols = new URL(request.url, "http://localhost").searchParams.get("s") ?? "";
  for (const symbol of symbols.split(".").map(Number)) {
    if (!clients.has(symbol)) clients.set(symbol, new Set());
    clients.get(symbol).add(socket);
  }
  socket.on("close", () => clients.forEach((of) => of.delete(socket)));
  socket.on("error", () => {});
  socket.send("ready");
});

const feed = net.createServer((line) => {
  let rest = Buffer.alloc(0);
  line.on("data", (chunk) => {
    rest = rest.length === 0 ? chunk : Buffer.concat([rest, chunk]);
    let at = 0;
    while (rest.length >= at + 4) {
      const end = at + 4 + rest.readUInt32LE(at);
      if (rest.length < end) break;
      const text = rest.subarray(at + 6, end);
      for (const socket of clients.get(rest.readUInt16LE(at + 4)) ?? []) socket.send(text, { binary: false });
      at = end;
    }
    rest = Buffer.from(rest.subarray(at));
  });
  line.on("close", () => process.exit(0));
});

server.listen({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => {
  feed.listen({ host: "127.0.0.1", port: 0 }, () => {
    const announcement = { ws: server.address().port, feed: feed.address().port, version: process.version };
    console.log(JSON.stringify(announcement));
  });
});
