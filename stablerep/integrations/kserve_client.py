"""The V2 gRPC side of a served encoder, through KServe's own client; REST needs no library (`stablerep.endpoint.client`)."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import asyncio
import logging
from collections.abc import Sequence
from typing import Any, cast

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest, InferResponse

from stablerep.errors import LaunchError


def grpc_embeddings(
    address: str, name: str, images: Sequence[bytes], timeout_seconds: float = 30.0, token: str = ""
) -> np.ndarray[Any, np.dtype[Any]]:
    """Ask for the embeddings of encoded images over gRPC.

    Args:
        address: host and port.
        name: of the model.
        images: encoded images, as they are in their files.
        timeout_seconds: for the answer.
        token: bearer token, where the server asks for one.

    Returns:
        float32 [N, F].

    Raises:
        LaunchError: the server cannot be reached or answers with an error.
    """
    logging.getLogger("kserve.trace").setLevel(logging.CRITICAL)  # the client logs a traceback for what it raises as well
    try:
        response = asyncio.run(_infer(address, name, images, timeout_seconds, token))
    except grpc.RpcError as error:
        call = cast("grpc.aio.AioRpcError", error)
        raise LaunchError(f"endpoint {name!r} at {address} (gRPC): {call.code().name}: {call.details()}") from error
    return np.asarray(response.outputs[0].as_numpy())


async def _infer(address: str, name: str, images: Sequence[bytes], timeout_seconds: float, token: str) -> InferResponse:
    client = InferenceGRPCClient(address, timeout=timeout_seconds)
    try:
        tensor = InferInput("image", [len(images)], "BYTES")
        tensor.set_data_from_numpy(np.array([*images, b""], dtype=object)[:-1])  # a list of equal lengths would not stay bytes objects
        return await client.infer(InferRequest(name, [tensor]), headers=(("authorization", f"Bearer {token}"),) if token else None)
    finally:
        await client.close()
