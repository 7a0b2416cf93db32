"""Stands in for the KServe server where only processes matter: the same options, the standard library, up in a moment.

The folder says how it behaves: `model_id` is what it serves; `broken` ends it with exit code 4; `stuck` keeps it from becoming ready;
`deaf` makes it ignore SIGTERM. The variable STABLEREP_ENDPOINT_TOKEN is a token that it asks for, but for whether it is ready.
"""

import argparse
import json
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


def main() -> int:
    parser = argparse.ArgumentParser()
    for name in ("folder", "name", "host", "port", "grpc-port", "max-image-bytes", "max-image-pixels", "max-batch"):
        parser.add_argument(f"--{name}")
    for name in ("check", "compile", "onnx"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args()
    folder = Path(unquote(urlsplit(options.folder).path))
    if (folder / "broken").exists():
        sys.stderr.write("CheckpointError: encoder.safetensors: damaged\n")
        return 4
    if options.check:
        return 0
    if (folder / "deaf").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    model_id = (folder / "model_id").read_text()
    token = os.environ.get("STABLEREP_ENDPOINT_TOKEN")
    accepted = (f"Bearer {token}",) if token else (None,)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_up = self.path != f"/v2/models/{options.name}/ready" or not (folder / "stuck").exists()
            is_open = self.path.endswith("/ready") or self.headers.get("Authorization") in accepted
            content = json.dumps({"name": options.name, "versions": [model_id]}).encode()
            self.send_response(401 if not is_open else 200 if is_up else 503)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    sys.stderr.write(f"serving {model_id}{' by onnx' if options.onnx else ''}\n")
    ThreadingHTTPServer((options.host, int(options.port)), Handler).serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())
