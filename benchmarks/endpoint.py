"""The endpoint against the plain way to serve a model with KServe, in the same run: `make bench-endpoint`.

    python benchmarks/endpoint.py [--rounds 4] [--seconds 6] [--hostile 10000] [--threads 2]

vit_tiny_patch16_224 with random weights behind every server, each in a process of its own; the baseline is `plain_kserve.py`, once with
one torch thread and once with as many as cores, and the better of them counts. All get the same V1 requests (base64 JSON, a JPEG of
640 x 480) from `load.py`; rounds are interleaved. The overhead is the median of one caller minus the median of the bare model in one
thread (decode, resize, forward; no server), interleaved too, for three server processes. Hostile requests are those of
`hostile.py`. Under SIGTERM, lost are requests that the server's log has and no caller got an answer to.
"""

import argparse
import http.client
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median

import numpy as np
import psutil
import torch
from hostile import attack
from PIL import Image
from result import Row, parser_of, write

from stablerep.batches.tokenize import build_tokenizer
from stablerep.endpoint.limits import Limits
from stablerep.endpoint.predictor import Predictor
from stablerep.endpoint.process import free_port
from stablerep.models import HeadSpec, ModelSpec, TextSpec, TrunkSpec, build_two_tower, default_preprocessor, save_encoder

HERE = Path(__file__).parent
CONCURRENCY = 32
NUM_STARTS = 3
READY_SECONDS = 300


class Server:
    """A server process."""

    def __init__(self, command: list[str], port: int, log: Path, threads: int) -> None:
        self.port = port
        self.log = log
        started_at = time.perf_counter()
        with log.open("w") as stream:
            environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
            self.process = psutil.Popen([sys.executable, *command], stdout=stream, stderr=stream, env=environment)
        while not self.is_ready():
            if self.process.poll() is not None or time.perf_counter() - started_at > READY_SECONDS:
                raise SystemExit(f"{command[0]} did not become ready:\n{log.read_text()}")
            time.sleep(0.01)
        self.ready_seconds = time.perf_counter() - started_at
        times = self.process.cpu_times()
        self.ready_cpu_seconds = times.user + times.system

    def is_ready(self) -> bool:
        """Whether readiness is 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", "/v2/models/stablerep/ready")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def memory_mib(self) -> float:
        """Resident memory."""
        return self.process.memory_info().rss / 2**20

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(120)


def export(folder: Path) -> Path:
    """vit_tiny with a small text tower, random weights."""
    tokenizer = build_tokenizer(("a photo of a cat", "a photo of a dog"), vocabulary="captions", vocabulary_size=300, context_length=16)
    text = TextSpec(tokenizer.vocabulary_size, tokenizer.eot_id, 16, width=64, depth=2, num_heads=2, out_dim=64)
    spec = ModelSpec(TrunkSpec("vit_tiny_patch16_224"), HeadSpec(num_layers=2, hidden_dim=64, out_dim=64), text)
    save_encoder(
        folder, build_two_tower(spec, seed=0), config={}, preprocessor=default_preprocessor(224), tokenizer_json=tokenizer.to_json()
    )
    return folder


def photograph() -> bytes:
    """A JPEG of 640 x 480 of about the size that photographs have."""
    chance = np.random.default_rng(0)
    layers = [Image.fromarray(chance.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize((640, 480), 3) for n in (4, 30, 200)]
    mixed = sum(np.asarray(layer, np.float32) * weight for layer, weight in zip(layers, (0.6, 0.25, 0.15), strict=True))
    content = io.BytesIO()
    Image.fromarray(mixed.astype(np.uint8)).save(content, "JPEG", quality=90)
    return content.getvalue()


def load(server: Server, concurrency: int, seconds: float, image: Path) -> dict[str, object]:
    """Answers of one round."""
    command = [sys.executable, str(HERE / "load.py"), str(server.port), str(concurrency), str(seconds), str(image)]
    return json.loads(subprocess.run(command, capture_output=True, check=True, timeout=600).stdout)


def bare_milliseconds(predictor: Predictor, image: bytes, seconds: float) -> list[float]:
    """The model without a server, in one thread."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        started_at = time.perf_counter()
        predictor.predict([image])
        found.append(1000 * (time.perf_counter() - started_at))
    return found


def one_caller(ours: Server, folder: Path, image: Path, options: argparse.Namespace) -> tuple[float, float]:
    """Median milliseconds of one caller, and of the bare model that is loaded anew."""
    torch.set_num_threads(1)
    predictor = Predictor(folder, Limits())
    predictor.warm_up()
    served, bare = [], []
    for _ in range(2 * options.rounds):
        bare += bare_milliseconds(predictor, image.read_bytes(), options.seconds / 5)
        served += load(ours, 1, options.seconds / 5, image)["milliseconds"]
    return median(served), median(bare)


def overhead(pairs: list[tuple[float, float]]) -> Row:
    """What one caller waits for beside the model: the median over processes, whose memory lies well or badly by chance."""
    served, bare = (median(values) for values in zip(*pairs, strict=True))
    difference = median(mine - alone for mine, alone in pairs)
    listed = f"{served:.1f} ms", f"{bare:.1f} ms"
    return Row(f"one caller, p50 over the bare model, median of {len(pairs)} servers", *listed, difference, "ms", 3, True)


def throughput(ours: Server, plain: list[Server], image: Path, options: argparse.Namespace) -> list[Row]:
    """Answers a second and the slowest of a hundred, 32 callers; against the better of the baselines."""
    rates: dict[Server, list[float]] = {server: [] for server in (ours, *plain)}
    waits: dict[Server, list[float]] = {server: [] for server in (ours, *plain)}
    for _ in range(options.rounds):
        for server in (*plain, ours):
            found = load(server, CONCURRENCY, options.seconds, image)
            if set(found["statuses"]) != {"200"}:
                raise SystemExit(f"expected answers with status 200, found {found['statuses']}")
            rates[server].append(len(found["milliseconds"]) / found["seconds"])
            waits[server].append(float(np.percentile(found["milliseconds"], 99)))
    best = max(plain, key=lambda server: median(rates[server]))
    mine, theirs = median(rates[ours]), median(rates[best])
    late, later = median(waits[ours]), median(waits[best])
    threads = f"{plain.index(best) + 1} torch threads" if plain.index(best) else "1 torch thread"
    return [
        Row(f"{CONCURRENCY} callers, answers a second", f"{mine:.1f}/s", f"{theirs:.1f}/s ({threads})", mine / theirs, "x", 1.3),
        Row(f"{CONCURRENCY} callers, p99", f"{late:.0f} ms", f"{later:.0f} ms ({threads})", late / later, "x", 0.5, True),
    ]


def harm(ours: Server, number: int) -> list[Row]:
    """Hostile requests: what was answered, and the memory that they leave behind. A tenth of them come first, to warm everything up."""
    attack(ours.port, number // 10, seed=1)
    before = _settled_memory_mib(ours)
    statuses = attack(ours.port, number)
    after = _settled_memory_mib(ours)
    is_alive = ours.is_ready()
    num_bad = sum(count for status, count in statuses.items() if status == "hung" or (status.startswith("5") and status != "503"))
    listed = ", ".join(f"{status}: {count}" for status, count in sorted(statuses.items()))
    return [
        Row(f"{number:,} hostile requests, 5xx but 503, hung", listed, "", num_bad, "requests", 0, True),
        Row("crashes", "alive" if is_alive else "gone", "", 0 if is_alive else 1, "crashes", 0, True),
        Row("memory after against before", f"{after:.0f} MiB", f"{before:.0f} MiB", 100 * (after / before - 1), "%", 10, True),
    ]


def _settled_memory_mib(server: Server) -> float:
    time.sleep(12)  # memory is given back when nobody has asked for some seconds
    return server.memory_mib()


def drain(server: Server, image: Path) -> Row:
    """SIGTERM under the load of 16 callers."""
    command = [sys.executable, str(HERE / "load.py"), str(server.port), "16", "600", str(image)]
    before = _num_accepted(server)
    callers = subprocess.Popen(command, stdout=subprocess.PIPE)
    time.sleep(8)
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(120)
    statuses = Counter(json.loads(callers.communicate(timeout=120)[0])["statuses"])
    accepted = _num_accepted(server) - before
    answered = statuses["200"] + statuses["503"]
    return Row(
        "SIGTERM under load, accepted and not answered",
        f"{answered} answered",
        f"{accepted} accepted",
        accepted - answered,
        "requests",
        0,
        True,
    )


def _num_accepted(server: Server) -> int:
    """V1 requests in the log, which has a line for every request that the server has begun to read."""
    return server.log.read_text().count('"protocol": "v1"')


def main() -> None:
    """Measure, print and store."""
    parser = parser_of(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--hostile", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, image = export(Path(name) / "encoder"), Path(name) / "image.jpg"
        image.write_bytes(photograph())
        rows, notes = measure(folder, image, Path(name), options)
    command = f"python benchmarks/endpoint.py --rounds {options.rounds} --seconds {options.seconds:g} --hostile {options.hostile}"
    setting = (
        f"vit_tiny_patch16_224, random weights, a JPEG of 640 x 480 in every request, {options.rounds} interleaved rounds of "
        f"{options.seconds:g} s, medians over rounds, {options.threads} model threads, callers on the same cores, wall time."
    )
    write("endpoint", "Endpoint", command, setting, rows, notes, options)


def measure(folder: Path, image: Path, work: Path, options: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """All rows, and notes."""

    def started() -> Server:
        port = free_port()
        words = ["--folder", str(folder), "--port", str(port), "--grpc-port", "0", "--log-requests", "--max-body-seconds", "5"]
        return Server(["-m", "stablerep.integrations.kserve_server", *words], port, work / f"ours-{port}.log", options.threads)

    ready_seconds: list[float] = []
    pairs: list[tuple[float, float]] = []
    for number in range(NUM_STARTS):
        ours = started()
        ready_seconds.append(ours.ready_seconds)
        load(ours, 4, 1, image)
        pairs.append(one_caller(ours, folder, image, options))
        if number < NUM_STARTS - 1:
            ours.stop()
    plain: list[Server] = []
    for threads in (1, options.threads):
        port = free_port()
        plain.append(Server([str(HERE / "plain_kserve.py"), str(folder), str(port)], port, work / f"plain-{threads}.log", threads))
    first = plain[-1]
    cpu = f"{ours.ready_cpu_seconds:.1f} s of CPU time (baseline: {first.ready_cpu_seconds:.1f} s)"
    ready = median(ready_seconds)
    rows = [Row(f"start to ready, median of {NUM_STARTS}", f"{ready:.1f} s", f"{first.ready_seconds:.1f} s", ready, "s", 6, True)]
    for server in plain:
        load(server, 4, 1, image)
    rows += [overhead(pairs), *throughput(ours, plain, image, options)]
    for server in plain:
        server.stop()
    rows += harm(ours, options.hostile)
    rows.append(drain(ours, image))
    return rows, [f"To become ready, the server took {cpu}; wall time depends on how busy the machine is."]


if __name__ == "__main__":
    main()
