"""The multi-positive loss of queries against keys that carry no gradient: another network's embeddings (arXiv 2312.17742, section 3).

Dimension key: B queries of this rank, G keys of all ranks, D embedding. The cross entropy is that of `losses/positives.py`; here keys are
not queries, so what a query shares with its own image's key is left out only where `self_index_B` says so.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor

from stablerep.losses.backends import chosen_backend
from stablerep.losses.direction import How, Sides, counted_weight, cross_entropy
from stablerep.losses.positives import check_counted, check_self, check_temperature
from stablerep.losses.rows import check_rows, checked_weights, is_narrow, unit_rows


def against_keys(
    query_BD: Tensor,
    key_GD: Tensor,
    query_labels_B: Tensor,
    key_labels_G: Tensor,
    temperature: float,
    *,
    self_index_B: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """Mean multi-positive contrastive loss of the queries that have a positive key.

    The mean over ranks is the mean over all queries where every rank has equally many that count, as a loader of whole groups gives it.

    Args:
        query_BD: embeddings of this rank, of any scale and floating type.
        key_GD: embeddings of all ranks; no gradient is formed.
        query_labels_B: caption of every query.
        key_labels_G: caption of every key.
        temperature: tau, above 0.
        self_index_B: the key that shows the very same view as each query, neither positive nor negative of it; None leaves out none.
        backend: plain, tiled, triton or auto.

    Raises:
        DataError: no query has a positive, or rows, labels and indices do not belong together.
        ConfigError: an unknown backend, or one that cannot work on these rows.
    """
    check_rows(query_BD, query_labels_B, "queries")
    check_rows(key_GD, key_labels_G, "keys")
    check_temperature(temperature)
    if self_index_B is not None:
        check_self(self_index_B, query_labels_B, key_labels_G)
    how = How(chosen_backend(backend, query_BD), 0, is_narrow(query_BD))
    sides = Sides(
        query_labels_B,
        checked_weights(None, query_labels_B, "queries"),
        key_labels_G,
        checked_weights(None, key_labels_G, "keys"),
        self_index_B,
    )
    total_weight = counted_weight(sides)
    check_counted(total_weight, key_labels_G)
    with torch.autocast(query_BD.device.type, enabled=False):
        return cross_entropy(unit_rows(query_BD), unit_rows(key_GD.detach()), sides, total_weight, 1 / temperature, how)
