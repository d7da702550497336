"""Temperature scaling: dividing logits by one fitted number calibrates confidences."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the T that minimizes the negative log-likelihood of softmax(logits / T).

    L-BFGS over log T finds it. Dividing by a positive number
    keeps the order of the logits: no prediction changes.

    Source: Guo et al. 2017, section 4.2, https://arxiv.org/abs/1706.04599

    Args:
        logits: ``(N, num_classes)``, of images that the network was not trained on.
        labels: Class numbers, ``(N,)``, or soft labels, ``(N, num_classes)``.

    Returns:
        A temperature in [0.01, 100], below 1 for an underconfident network; 1 if a logit is not
        finite.
    """
    logits = logits.detach().double()
    labels = labels.double() if labels.dim() == 2 else labels
    log_t = torch.zeros((), dtype=torch.float64, device=logits.device, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(logits / log_t.exp(), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    # Logits that are all correct, or no better than chance, have no finite optimum.
    temperature = log_t.exp().clamp(0.01, 100).item()
    return 1.0 if math.isnan(temperature) else temperature
