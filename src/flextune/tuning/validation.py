"""The loss on examples that are not learned: per token over all of them, whatever the batches are."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flextune.tuning.batching import IGNORED


@torch.no_grad()
def loss_per_token(model: nn.Module, batches: Sequence[dict[str, Any]]) -> float:
    """The mean cross-entropy over the labels of all batches, in nats.

    With several processes each takes its share of the batches, and all get the whole. The model is in evaluation mode
    meanwhile.
    """
    many = torch.distributed.is_initialized()
    rank, processes = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if many else (0, 1)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    total = torch.zeros(2, dtype=torch.float64, device=device)
    for start in range(0, len(batches), processes):
        # with FSDP2 every process has to take part in every forward pass
        mine = start + rank
        batch = batches[min(mine, len(batches) - 1)]
        batch = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
        loss = model(**batch, num_items_in_batch=1).loss.double()
        labels = batch.get("shift_labels", batch["labels"][..., 1:])
        if mine < len(batches):
            total += torch.stack([loss, (labels != IGNORED).sum().double()])
    model.train(was_training)
    if many:
        torch.distributed.all_reduce(total)
    return float(total[0] / total[1])


def perplexity(loss: float) -> float:
    """The exponential of a loss per token in nats.

    >>> round(perplexity(0.5), 4)
    1.6487
    """
    return math.exp(min(loss, 700.0))
