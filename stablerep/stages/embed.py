"""embed: a served encoder's embeddings of many images (or texts), into a file; run again, it continues.

Not a stage of the pipeline but what `stablerep embed` runs. A few requests are under way at a time, each from a thread with a
connection of its own. A request that is refused is asked again image by image, so one bad image costs no other; what is wrong with it
stands in the file. Imports no torch.
"""

import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from stablerep.endpoint.embeddings import Array, EmbeddingsFile, Kind, Row
from stablerep.endpoint.remote import RemoteEncoder, batches
from stablerep.errors import ConfigError, DataError, LaunchError, RefusedError
from stablerep.identity import sha256_bytes
from stablerep.stages.context import set_up_logging

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_ABOUT_THE_REQUEST = (401, 403, 404, 405)  # every other image would be refused as well


@dataclass(frozen=True)
class Task:
    """What is to be embedded, by whom, and how."""

    url: str
    sources: Sequence[str]
    to: Path
    name: str = ""
    token: str = ""
    is_text: bool = False
    is_normalised: bool = False
    batch_size: int = 16
    concurrency: int = 4
    patience_seconds: float = 120.0

    def __post_init__(self) -> None:
        """Check ranges."""
        if self.batch_size < 1 or self.concurrency < 1:
            raise ConfigError(f"embed: expected --batch and --concurrency of 1 or more, found {self.batch_size} and {self.concurrency}")

    def encoder(self) -> RemoteEncoder:
        """A connection to the server."""
        return RemoteEncoder(self.url, self.name, token=self.token, patience_seconds=self.patience_seconds)


def embed(task: Task) -> str:
    """Embed every source of a task.

    Returns:
        A sentence for people.

    Raises:
        DataError: images were refused (the file says which and why), or there is nothing to embed.
        ConfigError: the server refuses all, or the file holds embeddings of another model.
        LaunchError: the server does not answer, or stays busy, for longer than `patience_seconds`, or changed its model meanwhile.
    """
    set_up_logging()
    keys = list(dict.fromkeys(_lines(task.sources) if task.is_text else _paths(task.sources)))
    if not keys:
        raise DataError(f"expected {'texts' if task.is_text else 'images'} in {', '.join(task.sources)}, found none")
    try:
        with task.encoder() as encoder:
            kind = Kind(encoder.model_id(), task.is_normalised or task.is_text, "text" if task.is_text else "path")
        rows = _embedded(task, keys, kind)
    except RefusedError as error:
        raise ConfigError(f"{error}; nothing else was asked") from error
    return _told(task, [rows[key] for key in keys], kind)


def _embedded(task: Task, keys: Sequence[str], kind: Kind) -> dict[str, Row]:
    from tqdm import tqdm

    file, rows, local = EmbeddingsFile(task.to, kind), dict[str, Row](), threading.local()
    opened: list[RemoteEncoder] = []

    def rows_of(part: Sequence[str]) -> list[Row]:
        if not hasattr(local, "encoder"):
            local.encoder = task.encoder()
            opened.append(local.encoder)
        return _Asker(local.encoder, task, kind, file.known).rows(part)

    try:
        with tqdm(total=len(keys), unit=" texts" if task.is_text else " images", disable=None, file=sys.stderr) as bar:
            for part in _concurrently(rows_of, _parts(keys, task.batch_size), task.concurrency):
                file.keep(part)
                rows.update((row.key, row) for row in part)
                bar.update(len(part))
        file.finish([rows[key] for key in keys])
    finally:
        file.close()
        for encoder in opened:
            encoder.close()
    return rows


class _Asker:
    """Rows of a part of the sources, known ones from where they are known, others from the server."""

    def __init__(self, encoder: RemoteEncoder, task: Task, kind: Kind, known: dict[str, Row]) -> None:
        self._encoder, self._task, self._kind, self._known = encoder, task, kind, known

    def rows(self, keys: Sequence[str]) -> list[Row]:
        found: dict[str, Row] = {}
        contents: dict[str, bytes] = {}
        for key in keys:
            try:
                content = key.encode("utf-8") if self._task.is_text else Path(key).read_bytes()
            except OSError as error:
                found[key] = Row(key, "", error=f"cannot be read: {error.strerror}")
                continue
            known = self._known.get(key)
            if known and known.sha256 == sha256_bytes(content):
                found[key] = known
            else:
                contents[key] = content
        left = iter(contents)
        for batch in batches(contents.values(), len(keys)):
            for row in self._ask(list(islice(left, len(batch))), batch):
                found[row.key] = row
        return [found[key] for key in keys]

    def _ask(self, keys: Sequence[str], batch: Sequence[bytes]) -> Iterator[Row]:
        try:
            for key, content, embedding_F in zip(keys, batch, self._answer(batch), strict=True):
                yield Row(key, sha256_bytes(content), embedding_F)
        except RefusedError as error:
            if error.status in _ABOUT_THE_REQUEST:
                raise
            if len(batch) == 1:
                reason = re.sub(r"^(image 0 of 1|input\[0\]): ", "", error.reason)
                yield Row(keys[0], sha256_bytes(batch[0]), error=f"{error.status}: {reason}")
                return
            for key, content in zip(keys, batch, strict=True):
                yield from self._ask([key], [content])

    def _answer(self, batch: Sequence[bytes]) -> Array:
        texts = [content.decode("utf-8") for content in batch] if self._task.is_text else []
        embeddings_NF, model_id = (
            self._encoder.embed_texts(texts) if texts else self._encoder.embed_batch(batch, normalise=self._kind.is_normalised)
        )
        if model_id != self._kind.model_id:
            raise LaunchError(
                f"{self._task.url}: the server changed from {self._kind.model_id} to {model_id} meanwhile; embeddings of two models do not "
                f"compare: remove {self._task.to}.journal and run again"
            )
        return embeddings_NF


def _concurrently(work: Callable[[Sequence[str]], list[Row]], parts: Iterable[Sequence[str]], concurrency: int) -> Iterator[list[Row]]:
    """Results in the order of their end; at most twice `concurrency` parts are under way."""
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="stablerep-embed")
    pending: set[Future[list[Row]]] = set()
    try:
        for part in parts:
            pending.add(pool.submit(work, part))
            if len(pending) >= 2 * concurrency:
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        while pending:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _parts(keys: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))


def _lines(sources: Sequence[str]) -> Iterator[str]:
    """Lines that are not empty, of files or standard input."""
    for source in sources:
        try:
            content = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
            lines = content.decode("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{source}: expected a UTF-8 file with a text a line, or - for standard input: {error}") from error
        yield from (line.strip() for line in lines if line.strip())


def _paths(sources: Sequence[str]) -> Iterator[str]:
    """Files as they are named, images under folders sorted, paths from standard input."""
    for source in sources:
        if source == "-":
            yield from (line for line in (raw.rstrip("\r\n") for raw in sys.stdin) if line)
        elif Path(source).is_dir():
            files = (path for path in Path(source).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
            yield from sorted(str(path) for path in files)
        else:
            yield source


def _told(task: Task, rows: Sequence[Row], kind: Kind) -> str:
    refused = [row for row in rows if row.error is not None]
    if refused:
        first = f"{refused[0].key}: {refused[0].error}" + (f"; and {len(refused) - 1} more" if len(refused) > 1 else "")
        what = "texts" if task.is_text else "images"
        raise DataError(f"{len(refused)} of {len(rows)} {what} have no embedding ({task.to} says why and has the others): {first}")
    return f"{len(rows):,} embeddings of {kind.model_id} in {task.to}"
