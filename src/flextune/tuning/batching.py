"""Examples to batches: prompt and completion as tokens, loss on the completion and the end of text only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from flextune.errors import FlextuneError
from flextune.tasks import Example

IGNORED = -100
"""The label that the loss leaves out."""


@dataclass(frozen=True)
class Tokenized:
    """Examples as tokens, and how many were too long."""

    rows: list[dict[str, list[int]]]
    too_long: int


def tokenize(examples: Sequence[Example], tokenizer: Any, max_length: int) -> Tokenized:
    """Tokens and labels of each example; the end-of-text token is learned; too long ones are left out, never cut.

    The prompt's tokens are always those of the prompt alone, as when the model is measured. The completion's are those
    of the whole text where it begins with the prompt's tokens, and its own where a token would span the two.
    """
    rows = []
    for example in examples:
        prompt = tokenizer(example.prompt)["input_ids"]
        whole = tokenizer(example.prompt + example.completion)["input_ids"]
        if whole[: len(prompt)] == prompt:
            completion = whole[len(prompt) :]
        else:
            completion = tokenizer(example.completion, add_special_tokens=False)["input_ids"]
        completion = [*completion, tokenizer.eos_token_id]
        if len(prompt) + len(completion) <= max_length:
            rows.append({"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion})
    if not rows:
        raise FlextuneError(
            f"the training set has no example of at most training.max_length = {max_length} tokens "
            f"({len(examples)} examples in all)"
        )
    return Tokenized(rows, too_long=len(examples) - len(rows))


@dataclass(frozen=True)
class Collator:
    """Pads a batch on the left, so that completions stand together at the end and only there logits are computed.

    Over a vocabulary of 50,000 to 150,000 tokens the logits of the prompts would cost a good part of a step.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
        """Ids, mask and positions (batch, longest row); labels (batch, kept); `logits_to_keep`, how many that is."""
        longest = max(len(row["input_ids"]) for row in rows)
        # one more than the longest completion: the logits before a token predict it
        kept = min(longest, 1 + max(sum(label != IGNORED for label in row["labels"]) for row in rows))
        ids_BT = torch.full((len(rows), longest), self.pad_token_id)
        labels_BT = torch.full((len(rows), longest), IGNORED)
        mask_BT = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, row in enumerate(rows):
            start = longest - len(row["input_ids"])
            ids_BT[i, start:] = torch.tensor(row["input_ids"])
            labels_BT[i, start:] = torch.tensor(row["labels"])
            mask_BT[i, start:] = 1
        return {
            "input_ids": ids_BT,
            "attention_mask": mask_BT,
            "position_ids": (mask_BT.cumsum(-1) - 1).clamp_min(0),
            "labels": labels_BT[:, -kept:],
            "logits_to_keep": kept,
        }
