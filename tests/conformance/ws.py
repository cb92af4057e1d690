"""A small WebSocket client on asyncio: quick enough for hundreds of sessions, and able to misbehave on order."""

import asyncio
import base64
import hashlib
import os
import socket
import struct
from urllib.parse import urlsplit

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
CONNECT_TIMEOUT = 10.0


class Refused(Exception):
    """The server answered the upgrade with something else than 101."""

    def __init__(self, status, headers, body):
        super().__init__(f"HTTP {status}: {body[:300]!r}")
        self.status, self.headers, self.body = status, headers, body


def mask_bytes(payload, key):
    n = len(payload)
    if not n:
        return b""
    long_key = (key * (n // 4 + 1))[:n]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(long_key, "big")).to_bytes(n, "big")


def parse_head(head):
    lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return int(lines[0].split(" ")[1]), headers


class Socket(asyncio.Protocol):
    """One connection. `on_message(payload, is_text)` is called from the event loop for each whole message."""

    def __init__(self, on_message=None, auto_pong=True):
        self.on_message = on_message or (lambda payload, is_text: None)
        self.auto_pong = auto_pong
        self.transport = None
        self.tail = b""
        self.opened = False
        self.upgraded = None
        self.closed = None
        self.parts = None
        self.close_code = None
        self.close_reason = ""
        self.lost_by = None
        self.pings = 0
        self.pongs = []
        self.received = 0
        self.subprotocol = None

    @classmethod
    async def connect(cls, url, headers=(), subprotocols=(), on_message=None, rcvbuf=None, auto_pong=True, path=None):
        """Open `url`; raise `Refused` when the answer is not 101."""
        loop = asyncio.get_running_loop()
        parts = urlsplit(url)
        self = cls(on_message, auto_pong)
        self.upgraded, self.closed = loop.create_future(), loop.create_future()
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        try:
            await asyncio.wait_for(loop.sock_connect(sock, (parts.hostname, parts.port or 80)), CONNECT_TIMEOUT)
            await loop.create_connection(lambda: self, sock=sock)
        except BaseException:
            sock.close()
            raise
        key = base64.b64encode(os.urandom(16))
        target = path or (parts.path + ("?" + parts.query if parts.query else ""))
        lines = [f"GET {target} HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += [f"Sec-WebSocket-Key: {key.decode()}", "Sec-WebSocket-Version: 13"]
        if subprotocols:
            lines.append("Sec-WebSocket-Protocol: " + ", ".join(subprotocols))
        lines += [f"{name}: {value}" for name, value in headers]
        self.transport.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        try:
            status, answer, body = await asyncio.wait_for(self.upgraded, CONNECT_TIMEOUT)
        except asyncio.TimeoutError:
            self.abort()
            raise
        if status != 101:
            self.abort()
            raise Refused(status, answer, body)
        expected = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
        if answer.get("sec-websocket-accept") != expected:
            self.abort()
            raise ConnectionError("wrong Sec-WebSocket-Accept")
        self.subprotocol = answer.get("sec-websocket-protocol")
        return self

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------
    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, exc):
        self.lost_by = exc
        if self.upgraded and not self.upgraded.done():
            self._finish_refusal(final=True)
        if not self.closed.done():
            self.closed.set_result((self.close_code, self.close_reason))

    def data_received(self, data):
        self.received += len(data)
        self.tail = data if not self.tail else self.tail + data
        if not self.opened and not self._read_head():
            return
        self._read_frames()

    def _read_head(self):
        end = self.tail.find(b"\r\n\r\n")
        if end < 0:
            return False
        status, headers = parse_head(self.tail[:end])
        if status == 101:
            self.tail = self.tail[end + 4:]
            self.opened = True
            self.upgraded.set_result((status, headers, b""))
            return True
        self._finish_refusal(final=False)
        return False

    def _finish_refusal(self, final):
        end = self.tail.find(b"\r\n\r\n")
        if end < 0:
            self.upgraded.set_exception(ConnectionError("closed before an answer to the upgrade"))
            return
        status, headers = parse_head(self.tail[:end])
        body = self.tail[end + 4:]
        length = headers.get("content-length")
        if final or (length is not None and len(body) >= int(length)):
            if not self.upgraded.done():
                self.upgraded.set_result((status, headers, body))

    def _read_frames(self):
        data, pos, size = self.tail, 0, len(self.tail)
        while size - pos >= 2:
            first, length, head = data[pos], data[pos + 1], 2
            if length >= 128:
                self._fail("the server masked a frame")
                return
            if length == 126:
                if size - pos < 4:
                    break
                length, head = int.from_bytes(data[pos + 2:pos + 4], "big"), 4
            elif length == 127:
                if size - pos < 10:
                    break
                length, head = int.from_bytes(data[pos + 2:pos + 10], "big"), 10
            if size - pos < head + length:
                break
            payload = data[pos + head:pos + head + length]
            pos += head + length
            if first == 0x81:
                self.on_message(payload, True)
            else:
                self._other_frame(first, payload)
        self.tail = data[pos:]

    def _other_frame(self, first, payload):
        fin, opcode = first & 0x80, first & 0x0F
        if first & 0x70:
            self._fail("reserved bits set by the server")
        elif opcode == PING:
            self.pings += 1
            if self.auto_pong:
                self.send_frame(PONG, payload)
        elif opcode == PONG:
            self.pongs.append(payload)
        elif opcode == CLOSE:
            self._got_close(payload)
        elif opcode in (TEXT, BINARY):
            if fin:
                self.on_message(payload, opcode == TEXT)
            else:
                self.parts = [opcode, payload]
        elif opcode == 0 and self.parts:
            self.parts.append(payload)
            if fin:
                kind, parts, self.parts = self.parts[0], self.parts[1:], None
                self.on_message(b"".join(parts), kind == TEXT)
        else:
            self._fail(f"unexpected opcode {opcode}")

    def _got_close(self, payload):
        if self.close_code is None:
            self.close_code = struct.unpack(">H", payload[:2])[0] if len(payload) >= 2 else 1005
            self.close_reason = payload[2:].decode("utf-8", "replace")
        self.send_frame(CLOSE, payload[:2])
        if not self.closed.done():
            self.closed.set_result((self.close_code, self.close_reason))
        self.transport.close()

    def _fail(self, why):
        self.close_reason = why
        self.abort()

    # -- sending ------------------------------------------------------------------------------------------------------
    def send_text(self, text, fragments=1):
        payload = text.encode() if isinstance(text, str) else text
        if fragments <= 1 or len(payload) < fragments:
            self.send_frame(TEXT, payload)
            return
        step = len(payload) // fragments
        cuts = [i * step for i in range(fragments)] + [len(payload)]
        for i in range(fragments):
            self.send_frame(TEXT if i == 0 else 0, payload[cuts[i]:cuts[i + 1]], fin=i == fragments - 1)

    def send_frame(self, opcode, payload=b"", fin=True, masked=True, rsv=0):
        if self.transport is None or self.transport.is_closing():
            return
        head = bytearray([(0x80 if fin else 0) | rsv | opcode])
        flag = 0x80 if masked else 0
        n = len(payload)
        if n < 126:
            head.append(flag | n)
        elif n < 65536:
            head += bytes([flag | 126]) + n.to_bytes(2, "big")
        else:
            head += bytes([flag | 127]) + n.to_bytes(8, "big")
        if masked:
            key = os.urandom(4)
            head += key
            payload = mask_bytes(payload, key)
        self.transport.write(bytes(head) + payload)

    def ping(self, payload=b""):
        self.send_frame(PING, payload)

    async def close(self, code=1000, wait=2.0):
        """Close politely; what the server says first wins."""
        if not self.closed.done():
            self.send_frame(CLOSE, struct.pack(">H", code))
            await asyncio.wait([self.closed], timeout=wait)
        self.abort()

    def abort(self):
        if self.transport:
            self.transport.abort()

    def pause(self):
        self.transport.pause_reading()

    def resume(self):
        if not self.transport.is_closing():
            self.transport.resume_reading()

    @property
    def alive(self):
        return not self.closed.done()
