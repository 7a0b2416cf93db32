"""Every error a user can meet, with its exit code and whether a retry can help.

    StablerepError                 exit 1
    |-- ConfigError                exit 2   recipe, override or parameter is wrong
    |-- DataError                  exit 3   captions, images, shards or manifests are wrong
    |   |-- CaptionError                    a caption file cannot be read
    |   |-- ShardError                      a shard is truncated or does not match its record
    |   `-- StoreError                      the store cannot be read or written (retryable)
    |-- CheckpointError            exit 4   a checkpoint is damaged or belongs to another run
    |-- DivergenceError            exit 5   a loss or an embedding is not finite
    |-- LaunchError                exit 6   a job or a server did not start or ended badly (retryable)
    |   |-- PortInUseError                  the port of the endpoint is taken
    |   `-- ClusterError                    the Kubernetes API server refused or cannot be reached
    |       `-- AlreadyExistsError          an object of this name is there
    |-- GateError                  exit 7   verification of a deployed endpoint failed
    |-- Preempted                  exit 75  stopped by SIGTERM after a checkpoint (retryable)
    `-- RequestError               4xx      what a caller of the endpoint did wrong
        |-- BadImageError          400
        |-- UnauthorisedError      401
        |-- UnknownModelError      404
        |-- SlowRequestError       408
        |-- TooLargeError          413
        |-- UnsupportedFormatError 415
        |-- CannotAnswerError      422
        |-- TooManyRequestsError   429
        |-- NotReadyError          503
        |   `-- TimeLimitError     503
        `-- RefusedError           what a client was answered (stablerep.endpoint.remote)

Messages say what was expected, what was found, where, and what to do next. Exit codes are stable: a Job's podFailurePolicy
tells them apart.
"""

from typing import ClassVar


class StablerepError(Exception):
    """Base of everything raised on purpose."""

    exit_code: ClassVar[int] = 1
    is_retryable: ClassVar[bool] = False


class ConfigError(StablerepError):
    """A recipe, an override or a parameter is wrong."""

    exit_code = 2


class DataError(StablerepError):
    """Captions, images, shards or manifests are wrong."""

    exit_code = 3


class CaptionError(DataError):
    """A caption source cannot be read as captions."""


class ShardError(DataError):
    """A shard is truncated, damaged, or differs from its commit record."""


class StoreError(DataError):
    """The store cannot be reached, read or written."""

    is_retryable = True


class CheckpointError(StablerepError):
    """A checkpoint is damaged or belongs to another run."""

    exit_code = 4


class DivergenceError(StablerepError):
    """A loss, a gradient or an embedding is not finite."""

    exit_code = 5


class LaunchError(StablerepError):
    """A job or a server did not start, or ended badly."""

    exit_code = 6
    is_retryable = True


class PortInUseError(LaunchError):
    """The port asked for is taken by another process."""

    is_retryable = False


class ClusterError(LaunchError):
    """The Kubernetes API server refused a request, or cannot be reached. `status` is its HTTP status, 0 where there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class AlreadyExistsError(ClusterError):
    """An object of this name is there (409)."""


class GateError(StablerepError):
    """A deployed endpoint failed its verification."""

    exit_code = 7


class Preempted(StablerepError):
    """Stopped by SIGTERM after a committed checkpoint; run again to continue."""

    exit_code = 75
    is_retryable = True


class RequestError(StablerepError):
    """What a caller of the endpoint did wrong; `http_status` is the answer."""

    http_status: ClassVar[int] = 400


class BadImageError(RequestError):
    """The bytes are not an image that can be decoded."""


class UnauthorisedError(RequestError):
    """The bearer token is missing or not the server's."""

    http_status = 401


class UnknownModelError(RequestError):
    """The request names a model that is not served here."""

    http_status = 404


class SlowRequestError(RequestError):
    """The caller took too long to send its request."""

    http_status = 408


class TooLargeError(RequestError):
    """The image or the request is over a limit."""

    http_status = 413


class UnsupportedFormatError(RequestError):
    """The bytes are an image of a format that is not read here."""

    http_status = 415


class CannotAnswerError(RequestError):
    """The request is well formed, and this encoder has no answer to it."""

    http_status = 422


class TooManyRequestsError(RequestError):
    """One caller has too many requests in flight."""

    http_status = 429
    is_retryable = True


class NotReadyError(RequestError):
    """The model is loading, the queue is full, or the server is shutting down."""

    http_status = 503
    is_retryable = True


class TimeLimitError(NotReadyError):
    """The request was not answered within its time."""


class RefusedError(RequestError):
    """A server refused a request of ours; `status` is the HTTP status it gave, `reason` its own words."""

    def __init__(self, where: str, status: int, reason: str) -> None:
        super().__init__(f"{where} answered {status}: {reason}")
        self.status, self.reason = status, reason
