"""The masked-patch loss of iBOT (arXiv 2111.07832, equation 2) with the assignments of Sinkhorn and Knopp (SwAV, arXiv 2006.09882).

Dimension key: P masked patches of this rank, K prototypes, B images. A teacher that sees every patch says which prototypes a patch is like;
a student that does not see it has to say the same:

    L = 1/I sum over the I masked images of 1/n_i sum over their n_i hidden patches of  - t_p . log softmax(s_p / student temperature)

`total` adds up over ranks (the identity alone); it is called the same number of times on every rank, also where a rank has no patch.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
from collections.abc import Callable

import torch
from torch import Tensor

from stablerep.errors import DataError

NUM_ITERATIONS = 3


@torch.no_grad()
def balanced(
    logits_PK: Tensor, temperature: float, total: Callable[[Tensor], Tensor] = lambda value: value, num_iterations: int = NUM_ITERATIONS
) -> Tensor:
    """Each patch's shares of the prototypes, with every prototype used about equally over all ranks: float32 [P, K], rows sum to 1.

    Args:
        logits_PK: cosines of the teacher, so none is above 1.
        temperature: above 0; small ones make assignments hard.
        total: sum over the ranks.
        num_iterations: in turn, prototypes are scaled to equal use and patches to 1.
    """
    share_PK = ((logits_PK.float() - 1) / temperature).exp()  # one factor for all, which the first scaling takes out again
    for _ in range(num_iterations):
        use_K = total(share_PK.sum(0))
        share_PK = share_PK / use_K.clamp_min(torch.finfo(torch.float32).tiny)
        share_PK = share_PK / share_PK.sum(1, keepdim=True)
    return share_PK


def masked_patches(
    student_PK: Tensor,
    target_PK: Tensor,
    mask_BT: Tensor,
    temperature: float,
    total: Callable[[Tensor], Tensor] = lambda value: value,
    num_ranks: int = 1,
) -> Tensor:
    """The loss of this rank, scaled so that the mean over ranks is the mean over the masked images of all; 0 when there are none.

    Args:
        student_PK: logits of the hidden patches, image by image.
        target_PK: of `balanced`, of the same patches.
        mask_BT: bool, which of the T patches of every image are hidden.
        temperature: of the student.
        total: sum over the ranks.
        num_ranks: R.

    Raises:
        DataError: other patches than the mask has.
    """
    if student_PK.shape != target_PK.shape or len(student_PK) != int(mask_BT.sum()):
        raise DataError(
            f"masked patches: expected logits of the {int(mask_BT.sum())} hidden patches from student and teacher, found "
            f"{tuple(student_PK.shape)} and {tuple(target_PK.shape)}"
        )
    num_hidden_B = mask_BT.sum(1)
    num_images = total((num_hidden_B > 0).sum().to(torch.float32)).clamp_min(1.0)
    share_P = (1.0 / num_hidden_B.clamp_min(1).to(torch.float32)).repeat_interleave(num_hidden_B)
    with torch.autocast(student_PK.device.type, enabled=False):
        wide_PK = student_PK if student_PK.dtype == torch.float64 else student_PK.float()
        cost_P = -(target_PK.to(wide_PK.dtype) * torch.log_softmax(wide_PK / temperature, dim=1)).sum(1)
        return (cost_P * share_P.to(wide_PK.dtype)).sum() * (num_ranks / num_images.to(wide_PK.dtype))
