"""Which parameters weight decay pulls on, by name.

The rule is the number of dimensions: matrices and larger decay, vectors and scalars (biases, every norm's weight and bias, logit_scale) do
not. This gives the released code's groups without its search for "bn", "ln" and "bias" inside names. It also keeps a choice of the
reference that readers often expect otherwise: cls_token and pos_embed (3 dimensions), the text tower's token and position tables (2) decay.
"""

from torch import nn


def weight_decay_groups(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the trainable parameters that decay, and of those that do not; together they are all of them, in the model's order.

    Call it before an engine shards the parameters: sharding hides their shapes.
    """
    trainable = [(name, parameter.ndim) for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [name for name, ndim in trainable if ndim >= 2], [name for name, ndim in trainable if ndim < 2]
