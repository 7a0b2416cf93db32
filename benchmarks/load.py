"""Callers for `endpoint.py`, in a process of their own: `python benchmarks/load.py PORT CONCURRENCY SECONDS IMAGE`.

Each of CONCURRENCY connections asks again as soon as it was answered (closed loop). Prints one JSON object: answers by status, and
the milliseconds of those with status 200.
"""

import base64
import json
import selectors
import socket
import sys
import time
from collections import Counter
from pathlib import Path

CLOSED = 0  # in place of a status


def request_of(image: bytes) -> bytes:
    """A whole V1 request."""
    body = json.dumps({"instances": [{"b64": base64.b64encode(image).decode()}]}).encode()
    head = f"POST /v1/models/stablerep:predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Caller:
    """One connection: what of the request is still to be sent, what of the answer has come."""

    def __init__(self, port: int, content: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setblocking(False)
        self.content = content
        self.start()

    def start(self) -> None:
        """Ask again."""
        self.left, self.answer, self.started_at = memoryview(self.content), bytearray(), time.perf_counter()

    def send(self) -> bool:
        """Send what the socket takes; whether all is sent."""
        self.left = self.left[self.socket.send(self.left[:262_144]) :]
        return not self.left

    def receive(self) -> int:
        """Read; the status once the answer is complete, else 0."""
        part = self.socket.recv(262_144)
        if not part:
            raise ConnectionResetError("closed without an answer")
        self.answer += part
        head, separator, body = bytes(self.answer).partition(b"\r\n\r\n")
        if not separator:
            return 0
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return int(head[9:12]) if len(body) >= length else 0


def run(port: int, concurrency: int, seconds: float, content: bytes) -> tuple[Counter[int], list[float]]:
    """Ask for `seconds`; requests that are open at the end are waited for and counted."""
    selector = selectors.DefaultSelector()
    for _ in range(concurrency):
        caller = Caller(port, content)
        selector.register(caller.socket, selectors.EVENT_WRITE, caller)
    statuses: Counter[int] = Counter()
    milliseconds: list[float] = []
    end = time.perf_counter() + seconds
    while selector.get_map():
        for key, _ in selector.select():
            caller: Caller = key.data
            try:
                if caller.left:
                    if caller.send():
                        selector.modify(caller.socket, selectors.EVENT_READ, caller)
                    continue
                status = caller.receive()
            except OSError:  # the server is gone, or has closed this connection
                statuses[CLOSED] += 1
                selector.unregister(caller.socket)
                caller.socket.close()
                continue
            if not status:
                continue
            statuses[status] += 1
            if status == 200:
                milliseconds.append(1000 * (time.perf_counter() - caller.started_at))
            if time.perf_counter() > end:
                selector.unregister(caller.socket)
                caller.socket.close()
            else:
                caller.start()
                selector.modify(caller.socket, selectors.EVENT_WRITE, caller)
    return statuses, milliseconds


if __name__ == "__main__":
    started_at = time.perf_counter()
    statuses, found = run(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), request_of(Path(sys.argv[4]).read_bytes()))
    print(json.dumps({"statuses": statuses, "milliseconds": found, "seconds": time.perf_counter() - started_at}))
