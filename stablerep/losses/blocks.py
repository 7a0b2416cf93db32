"""The two losses over candidates that come block by block: no rank ever holds the rows of all ranks.

Dimension key: R ranks, B rows and N captions of this rank, C rows of the block at hand, G and H rows and captions of all ranks, D
embedding. `circulate(*tensors)` yields these tensors of every rank in turn, this rank's own first (`distributed.circulate` passes them
around a ring; alone it yields its arguments). Labels and weights of all rows are known everywhere: they are a thousandth of the rows.

Values are those of `multi_positive` and `image_text` after `all_gather`, and gradients those of the mean over ranks.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import torch
from torch import Tensor

from stablerep.errors import ConfigError
from stablerep.losses.backends import Solver, chosen_backend, solver
from stablerep.losses.direction import Sides, counted_weight
from stablerep.losses.language import both_sides, check_matched
from stablerep.losses.positives import check_counted, check_self, check_temperature, whole_weight
from stablerep.losses.rounds import Circulate, Known, across, within
from stablerep.losses.rows import check_rows, checked_weights, is_narrow, unit_rows
from stablerep.losses.scale import bounded_log_scale
from stablerep.losses.targets import find_targets


def multi_positive_in_blocks(
    rows_BD: Tensor,
    all_labels_G: Tensor,
    self_index_B: Tensor,
    temperature: float,
    circulate: Circulate,
    *,
    all_weights_G: Tensor | None = None,
    num_ranks: int = 1,
    backend: str = "auto",
) -> Tensor:
    """This rank's part of the multi-positive loss, as `multi_positive` with `num_ranks`: the mean over ranks is the loss over all rows.

    Every rank must call it, and scale its value alike before backward (which is checked there).

    Args:
        rows_BD: embeddings of this rank.
        all_labels_G: captions of the rows of all ranks.
        self_index_B: position of this rank's rows among them.
        temperature: tau, above 0.
        circulate: yields tensors of every rank, own first.
        all_weights_G: weight of every row, as in `multi_positive`.
        num_ranks: R.
        backend: tiled, triton or auto.

    Raises:
        DataError: no row of any rank has a positive, or rows, labels and weights do not belong together.
        ConfigError: a backend that does not work in blocks or on these rows.
    """
    solve = _solver(backend, rows_BD)
    check_temperature(temperature)
    weights_G = checked_weights(all_weights_G, all_labels_G, "all_weights")
    labels_B = all_labels_G[self_index_B]
    check_rows(rows_BD, labels_B, "rows")
    check_self(self_index_B, labels_B, all_labels_G)
    total_weight = whole_weight(all_labels_G, weights_G) / num_ranks
    check_counted(total_weight, all_labels_G)
    side = _known(Sides(labels_B, weights_G[self_index_B], all_labels_G, weights_G, self_index_B), total_weight)
    with torch.autocast(rows_BD.device.type, enabled=False):
        unit_BD = unit_rows(rows_BD)
        return within(unit_BD, side.to(unit_BD), 1 / temperature, circulate, solve)


def image_text_in_blocks(
    image_BD: Tensor,
    text_ND: Tensor,
    image_labels_B: Tensor,
    text_labels_N: Tensor,
    all_image_labels_G: Tensor,
    all_text_labels_H: Tensor,
    logit_scale: Tensor,
    circulate: Circulate,
    *,
    image_weights_B: Tensor | None = None,
    all_image_weights_G: Tensor | None = None,
    num_ranks: int = 1,
    backend: str = "auto",
) -> Tensor:
    """This rank's part of the image-text loss, as `image_text` with `num_ranks`.

    Every rank must call it, and scale its value alike before backward (which is checked there). Arguments and errors are those of
    `image_text` and `multi_positive_in_blocks`.
    """
    solve = _solver(backend, image_BD)
    check_rows(image_BD, image_labels_B, "images")
    check_rows(text_ND, text_labels_N, "captions")
    everyone = (all_image_labels_G, all_text_labels_H, all_image_weights_G)
    totals = [counted_weight(sides) / num_ranks for sides in both_sides(everyone, everyone)]
    check_matched(totals[0], totals[1], len(all_image_labels_G), len(all_text_labels_H))
    to_text, to_image = both_sides((image_labels_B, text_labels_N, image_weights_B), everyone)
    with torch.autocast(image_BD.device.type, enabled=False):
        image_BD, text_ND = unit_rows(image_BD), unit_rows(text_ND)
        image_BD = image_BD * bounded_log_scale(logit_scale).to(image_BD.dtype).exp()
        images, texts = _known(to_text, totals[0]).to(image_BD), _known(to_image, totals[1]).to(text_ND)
        return across(image_BD, text_ND, images, texts, circulate, solve) / 2


def _known(sides: Sides, total_weight: float) -> Known:
    """Weights of the anchors in the mean; for the other direction, their weight as a target is their weight as an anchor."""
    targets = find_targets(sides.anchor_labels_B, sides.candidate_labels_G, sides.candidate_weights_G, sides.self_index_B)
    share_B = sides.anchor_weights_B * targets.has_positive_B / total_weight
    return Known(sides.anchor_labels_B, share_B, share_B / targets.rest_B, sides.anchor_weights_B)


def _solver(backend: str, rows_BD: Tensor) -> Solver:
    name = chosen_backend(backend, rows_BD)
    if name == "plain":
        raise ConfigError(
            "backend plain: expected one that works in blocks, as the candidates are never there at once; choose tiled or triton"
        )
    return solver(name, tile_rows=0, is_narrow=is_narrow(rows_BD))
