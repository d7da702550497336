"""What training minimizes when there is a teacher."""

import torch.nn.functional as F
from torch import Tensor


def distillation_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return the cross-entropy of a student against a teacher, both softened.

    Source: Hinton et al. 2015, section 2, https://arxiv.org/abs/1503.02531

    Args:
        logits: The student's, ``(N, num_classes)``.
        teacher: The teacher's logits, ``(N, num_classes)``.
        temperature: Divides both, > 0.

    Returns:
        The mean, a scalar, times the squared temperature, which keeps gradients independent of it.
    """
    targets = (teacher / temperature).softmax(dim=1)
    return F.cross_entropy(logits / temperature, targets) * temperature**2
