"""SynCLR (arXiv 2312.17742, section 3), StableRep's successor, as an objective: teacher keys, small crops, masked patches.

    total = global crops against keys + small crops against keys + patch_weight * masked patches

Queries are the student's embeddings of one global and several small crops of each image, behind a predictor; keys are a teacher's
embeddings of the global crops of all ranks. Positives are keys of the same caption; a global crop's own key is left out, a small crop's is
not. Half of the global crops the student sees with patches hidden; the teacher, who sees them, says which prototypes they are like. The
teacher is the exponential moving average of the student's trunk and heads. It is part of the state, so a run continues bit for bit.

Dimension key: N captions of this rank, M images of a caption (one global crop each), L small crops of a caption, B = M*N, G = B over all
ranks, T patches, P hidden patches, F trunk features, K prototypes.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from stablerep.batches.counter import uniforms
from stablerep.config.schema import HeadConfig, SynClrConfig
from stablerep.distributed import all_gather, current_world, sum_over_ranks
from stablerep.errors import DataError
from stablerep.losses import against_keys, balanced, masked_patches
from stablerep.models import ProjectionHead, PrototypeHead, TwoTower, encode_tokens, num_features
from stablerep.training.objective import Losses, Objective, gather_labels

_TOKEN_STD = 0.02


class SynClr(Objective):
    """See the module.

    Args:
        towers: a model with a layer-norm head and without text tower; its trunk takes images of other sizes too.
        settings: of the crops, the teacher and the patches.
        head: of the towers; the predictor is as wide.
        temperature: of the contrastive loss.
        num_steps: of the run, over which the teacher's momentum rises to 1.
        seed: of the weights that the towers do not have.
    """

    def __init__(
        self, towers: TwoTower, settings: SynClrConfig, *, head: HeadConfig, temperature: float, num_steps: int, seed: int
    ) -> None:
        super().__init__(towers)
        self._settings, self._temperature, self._num_steps = settings, temperature, num_steps
        features = num_features(towers.trunk)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.predictor = ProjectionHead(head.out_dim, head.hidden_dim, head.out_dim, settings.predictor_layers, "layer")
            self.prototypes = PrototypeHead(features, settings.prototype_hidden_dim, settings.prototype_dim, settings.num_prototypes)
            self.hidden_token_F = nn.Parameter(torch.randn(features) * _TOKEN_STD)
        learnt = {"trunk": towers.trunk, "head": towers.head, "prototypes": self.prototypes}
        self.teacher = nn.ModuleDict({name: copy.deepcopy(module) for name, module in learnt.items() if module is not None})
        self.teacher.requires_grad_(False)

    def forward(
        self,
        views_MNCHW: Tensor,
        tokens_NT: Tensor,
        labels_N: Tensor,
        local_LNCHW: Tensor | None = None,
        view_key_MN: Tensor | None = None,
        step: int = 0,
    ) -> Losses:
        """Total, both contrastive terms, and 0; what is left of the total is the weighted masked-patch loss.

        Args:
            views_MNCHW: global crops.
            tokens_NT: not used.
            labels_N: captions.
            local_LNCHW: small crops.
            view_key_MN: decides which patches of which global crops are hidden.
            step: of the training; decides the teacher's temperature.

        Raises:
            DataError: small crops or keys are missing.
        """
        settings = self._settings
        if view_key_MN is None or (local_LNCHW is None) != (settings.num_local_crops == 0):
            raise DataError(f"synclr: expected {settings.num_local_crops} small crops of every image and a key of every view, found others")
        images_B3HW, labels_B = views_MNCHW.flatten(0, 1), labels_N.repeat(len(views_MNCHW))
        mask_BT = self._mask(view_key_MN.flatten(), images_B3HW)
        key_BD, teacher_BTF = self._teach(images_B3HW)
        tokens_BTF = encode_tokens(self.towers.trunk, images_B3HW, mask_BT, self.hidden_token_F)
        image = self._contrast(tokens_BTF[:, 0], key_BD, labels_B, local_LNCHW, labels_N)
        total = image
        if settings.patch_weight:
            patches = self._patches(tokens_BTF[:, 1:][mask_BT], teacher_BTF[:, 1:][mask_BT], mask_BT, step)
            total = image + settings.patch_weight * patches
        return total, image, torch.zeros_like(image)

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        """Move the teacher towards the student as it is after update number `step`."""
        momentum = teacher_momentum(step, self._settings.teacher_momentum, self._num_steps)
        for teacher, student in self._pairs():
            teacher.lerp_(student, 1.0 - momentum)

    def _pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        for name, module in self.teacher.items():
            student = self.prototypes if name == "prototypes" else self.towers.get_submodule(name)
            yield from zip(module.parameters(), student.parameters(), strict=True)

    def _mask(self, key_B: Tensor, images_B3HW: Tensor) -> Tensor:
        num_patches = int(self.towers.trunk.patch_embed.num_patches)  # pyright: ignore[reportAttributeAccessIssue, reportArgumentType]
        return hidden_patches(key_B.to(images_B3HW.device), num_patches, self._settings.masked_images, self._settings.masked_patches)

    @torch.no_grad()
    def _teach(self, images_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        tokens_BTF = encode_tokens(self.teacher["trunk"], images_B3HW)
        return self.teacher["head"](tokens_BTF[:, 0]), tokens_BTF

    def _contrast(self, features_BF: Tensor, key_BD: Tensor, labels_B: Tensor, local_LNCHW: Tensor | None, labels_N: Tensor) -> Tensor:
        world = current_world()
        key_GD, key_labels_G = all_gather(key_BD, [len(key_BD)] * world.world_size), gather_labels(labels_B)
        own_B = torch.arange(len(labels_B), device=labels_B.device) + world.rank * len(labels_B)
        loss = against_keys(self._queries(features_BF), key_GD, labels_B, key_labels_G, self._temperature, self_index_B=own_B)
        if local_LNCHW is None:
            return loss
        features_F = encode_tokens(self.towers.trunk, local_LNCHW.flatten(0, 1))[:, 0]
        local_labels = labels_N.repeat(len(local_LNCHW))
        return loss + against_keys(self._queries(features_F), key_GD, local_labels, key_labels_G, self._temperature)

    def _queries(self, features_BF: Tensor) -> Tensor:
        head = self.towers.head
        if head is None:
            raise DataError("synclr: expected towers with a head, found none")
        return self.predictor(head(features_BF))

    def _patches(self, student_PF: Tensor, teacher_PF: Tensor, mask_BT: Tensor, step: int) -> Tensor:
        settings, num_ranks = self._settings, current_world().world_size
        with torch.no_grad():
            warm = settings.teacher_warmup_steps
            part = min(1.0, (step + 1) / warm) if warm else 1.0
            temperature = settings.teacher_temperature_start + part * (settings.teacher_temperature - settings.teacher_temperature_start)
            target_PK = balanced(self.teacher["prototypes"](teacher_PF), temperature, sum_over_ranks)
        return masked_patches(self.prototypes(student_PF), target_PK, mask_BT, settings.student_temperature, sum_over_ranks, num_ranks)


def teacher_momentum(step: int, start: float, num_steps: int) -> float:
    """How much of the teacher is kept at update number `step`: from `start` to 1 as half a cosine."""
    return 1.0 - (1.0 - start) * (1.0 + math.cos(math.pi * min(1.0, step / num_steps))) / 2


def hidden_patches(key_B: Tensor, num_patches: int, masked_images: float, masked_share: float) -> Tensor:
    """Which patches are hidden: bool [B, T]; of each image with probability `masked_images`, then always the same number, at random."""
    uniform_BU = uniforms(key_B, 1 + num_patches)
    num_hidden = max(1, round(masked_share * num_patches))
    rank_BT = uniform_BU[:, 1:].argsort(dim=1, stable=True).argsort(dim=1, stable=True)
    return (rank_BT < num_hidden) & (uniform_BU[:, :1] < masked_images)
