"""Requests that mean harm, for `endpoint.py` and by hand: `python benchmarks/hostile.py PORT [--number 10000] [--seed 0]`.

Fuzzed bytes, truncated images, decompression bombs, wrong types, deep JSON, lying lengths, malformed HTTP, callers that send slowly or go
away. Prints one JSON object: answers by status ("none": the server closed without one, which it may for what is no HTTP).
"""

import argparse
import base64
import io
import json
import random
import socket
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

ROUTES = ("/v1/models/stablerep:predict", "/v2/models/stablerep/infer", "/v1/embeddings")
ANSWER_SECONDS = 60


def picture(image_format: str) -> bytes:
    """A small valid file."""
    content = io.BytesIO()
    Image.linear_gradient("L").resize((48, 48)).convert("RGB").save(content, image_format)
    return content.getvalue()


FILES = tuple(picture(image_format) for image_format in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"))


def bomb(side: int) -> bytes:
    """A PNG that promises side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")


BOMBS = tuple(bomb(side) for side in (4_000, 6_000, 60_000, 2_000_000_000))


def broken_file(chance: random.Random) -> bytes:
    """A file with bytes changed, cut, repeated, or none at all."""
    data = bytearray(chance.choice(FILES))
    kind = chance.randrange(5)
    if kind == 0:
        for _ in range(chance.randint(1, 30)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    elif kind == 1:
        del data[chance.randrange(len(data)) :]
    elif kind == 2:
        data = bytearray(chance.randbytes(chance.randint(0, 3_000)))
    elif kind == 3:
        data = bytearray(chance.choice(BOMBS))
    else:
        start = chance.randrange(len(data))
        data[start:start] = data[start : start + chance.randint(1, 200)] * chance.randint(1, 20)
    return bytes(data)


def around(route: str, text: object) -> dict[str, object]:
    """A body of the route's shape around what should be base64."""
    if route == ROUTES[0]:
        return {"instances": [{"b64": text}]}
    if route == ROUTES[1]:
        return {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [text]}]}
    return {"model": "stablerep", "input": [f"data:image/png;base64,{text}" if isinstance(text, str) else text]}


def strange(chance: random.Random) -> object:
    """A value of any type."""
    values = (None, True, -1, 1e308, 10**30, "", "\x00", "é" * 50, [], {}, [[[]]], {"b64": {}}, "A" * 5_000, {"image": 5}, [1] * 300)
    return chance.choice(values)


def http(path: str, body: bytes, *headers: str, length: int | None = None) -> bytes:
    """A request."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        f"Content-Length: {len(body) if length is None else length}",
        "Connection: close",
        *headers,
    ]
    return "\r\n".join(lines).encode("utf-8", "replace") + b"\r\n\r\n" + body


def bad_image(chance: random.Random) -> bytes:
    """A broken file in a good body."""
    route = chance.choice(ROUTES)
    text = base64.b64encode(broken_file(chance)).decode()
    return http(route, json.dumps(around(route, text)).encode(), "Content-Type: application/json")


def bad_type(chance: random.Random) -> bytes:
    """Wrong values anywhere in a body."""
    route = chance.choice(ROUTES)
    body = around(route, strange(chance) if chance.random() < 0.5 else base64.b64encode(FILES[0]).decode())
    for _ in range(chance.randint(1, 3)):
        keys = (
            "instances",
            "inputs",
            "input",
            "parameters",
            "id",
            "outputs",
            "model",
            "labels",
            "templates",
            "neighbours",
            "dimensions",
            "x",
        )
        body[chance.choice(keys)] = strange(chance)
    if chance.random() < 0.3:
        parameters = ("labels", "templates", "normalise", "dtype", "space", "neighbours", "binary_data_output")
        body["parameters"] = {chance.choice(parameters): strange(chance)}
    return http(route, json.dumps(body).encode(), "Content-Type: application/json")


def bad_json(chance: random.Random) -> bytes:
    """What is no JSON, or very deep."""
    bodies = (b"{", b"[" * 50_000, b'{"a":' * 20_000, b"\xff\xfe", b"", b"nul", b'{"instances": [' + b"1," * 20_000 + b"1]}")
    body = chance.choice((*bodies, chance.randbytes(chance.randint(1, 500))))
    kind = chance.choice(("application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""))
    return http(chance.choice(ROUTES), body, f"Content-Type: {kind}")


def bad_binary(chance: random.Random) -> bytes:
    """The binary extension with header and bytes that do not fit."""
    size = chance.choice((0, 1, 9, -1, 2**40, "x", None, 1.5))
    shape = chance.choice(([1], [0], [-1], [2**40], [1, 2, 3], [], "x", [1] * 50, [1.5]))
    kind = chance.choice(("BYTES", "FP32", "UINT8", "FP16", "NOPE", 5))
    tensor = {"name": "image", "shape": shape, "datatype": kind, "parameters": {"binary_data_size": size}}
    header = json.dumps({"inputs": [tensor]}).encode()
    length = chance.choice((len(header), 0, -1, 10**9, 5, "x"))
    return http(ROUTES[1], header + chance.randbytes(9), f"Inference-Header-Content-Length: {length}")


def bad_http(chance: random.Random) -> bytes:
    """What a server should not believe."""
    good = http(ROUTES[0], b"{}")
    return chance.choice(
        (
            chance.randbytes(chance.randint(1, 2_000)),
            good.replace(b"HTTP/1.1", b"HTTP/9.9"),
            good.replace(b"POST", b"BREW"),
            b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
            http(ROUTES[0], b"{}", "X-Long: " + "a" * 70_000),
            http(ROUTES[0], b"{}", "Transfer-Encoding: chunked"),
            http("/v2/repository/models/stablerep/unload", b"{}"),
            http("/v1/models/stablerep:explain", b"{}", "Content-Type: application/json"),
            http("/v2/models/../../etc/passwd/infer", b"{}"),
            http(ROUTES[0], b"", length=10**12),
            http(ROUTES[2], b"{}", "Authorization: Bearer \x00\xff"),
        )
    )


def goes_away(chance: random.Random) -> bytes:
    """Half a body; the caller closes its side."""
    return http(chance.choice(ROUTES), b'{"instances": [', length=chance.choice((100, 1_000_000)))


KINDS: tuple[tuple[Callable[[random.Random], bytes], int], ...] = (
    (bad_image, 55),
    (bad_type, 20),
    (bad_json, 10),
    (bad_binary, 8),
    (bad_http, 5),
    (goes_away, 2),
)


def exchange(port: int, content: bytes, *, is_slow: bool = False, is_cut: bool = False) -> str:
    """Status of the answer; "none" when the server closed without one, "hung" when nothing came in a minute."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS) as connection:
            if is_slow:
                for start in range(0, min(len(content), 400), 40):
                    connection.sendall(content[start : start + 40])
                    time.sleep(0.02)
                content = content[400:]
            connection.sendall(content)
            if is_cut:
                connection.shutdown(socket.SHUT_WR)
            head = b""
            while b"\r\n" not in head:
                part = connection.recv(65_536)
                if not part:
                    return "none"
                head += part
            while connection.recv(65_536):
                pass
            return head[9:12].decode("latin-1")
    except TimeoutError:
        return "hung"
    except OSError:
        return "none"


def one(port: int, seed: int) -> str:
    """One hostile request, a function of its seed."""
    chance = random.Random(seed)
    (make,) = chance.choices([kind for kind, _ in KINDS], [weight for _, weight in KINDS])
    return exchange(port, make(chance), is_slow=chance.random() < 0.01, is_cut=make in (goes_away, bad_http))


def attack(port: int, number: int, seed: int = 0, threads: int = 16) -> Counter[str]:
    """Send them; answers by status."""
    with ThreadPoolExecutor(threads) as pool:
        return Counter(pool.map(lambda position: one(port, seed * 1_000_003 + position), range(number)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("--number", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    json.dump(attack(options.port, options.number, options.seed), sys.stdout)
