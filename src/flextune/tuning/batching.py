"""Examples to batches: prompt and completion as tokens, loss on the completion and the end of text only."""

import random
import reprlib
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from flextune.errors import FlextuneError
from flextune.tasks import Example
from flextune.tokens import Tokens

IGNORED = -100
"""The label that the loss leaves out."""

Row: TypeAlias = dict[str, list[int]]
"""One example: `input_ids`, and `labels` of the same length."""


@dataclass(frozen=True)
class Tokenized:
    """Examples as tokens, and how many were left out."""

    rows: list[Row]
    too_long: int
    unwritable: int = 0
    """Those whose completion the tokenizer cannot write, such as one that drops line breaks."""


def tokenize(
    examples: Sequence[Example],
    tokenizer: Any,
    max_length: int,
    what: str = "training set",
    embedding_rows: int | None = None,
) -> Tokenized:
    """Tokens and labels of each example; the end-of-text token is learned; too long ones are left out, never cut.

    The prompt's tokens are those that the model is asked with when it is measured, and the completion's decode after
    them to the completion (`flextune.tokens`).

    Raises `FlextuneError` if no example is left, or a token is beyond the rows of the model's embedding.
    """
    tokens = Tokens(tokenizer, embedding_rows)
    found = [_row(example, tokens, max_length) for example in examples]
    kept = [row for row in found if isinstance(row, dict)]
    if not kept:
        raise _nothing_left(examples, found, tokens, max_length, what)
    return Tokenized(kept, found.count("too long"), found.count("unwritable"))


def check_examples(
    examples: Sequence[Example], tokenizer: Any, max_length: int, what: str, embedding_rows: int
) -> None:
    """Raise `FlextuneError` as `tokenize` would if none of the examples can be learned; the first that can ends it."""
    tokens = Tokens(tokenizer, embedding_rows)
    found = []
    for example in examples:
        found.append(_row(example, tokens, max_length))
        if isinstance(found[-1], dict):
            return
    if examples:
        raise _nothing_left(examples, found, tokens, max_length, what)


def _row(example: Example, tokens: Tokens, max_length: int) -> Row | Literal["too long", "unwritable"]:
    """An example as tokens and labels, or why it is left out."""
    prompt = tokens.prompt(example.prompt, example.id)
    completion = tokens.completion(example.prompt, prompt, example.completion, example.id)
    if completion is None:
        return "unwritable"
    if len(prompt) + len(completion) > max_length:
        return "too long"
    return {"input_ids": prompt + completion, "labels": [IGNORED] * len(prompt) + completion}


def _nothing_left(
    examples: Sequence[Example], found: Sequence[Any], tokens: Tokens, max_length: int, what: str
) -> FlextuneError:
    if "unwritable" in found:
        example = examples[list(found).index("unwritable")]
        learned = tokens.shown_as(example.prompt, example.completion)
        return FlextuneError(
            f"the model's tokenizer cannot write the completions of the {what}: {reprlib.repr(example.completion)} of "
            f"{example.id} would be learned as {reprlib.repr(learned)}; use a model whose tokenizer keeps every "
            "character"
        )
    return FlextuneError(
        f"the {what} has no example of at most training.max_length = {max_length} tokens ({len(examples)} examples in "
        "all)"
    )


@dataclass(frozen=True)
class Collator:
    """Examples to one batch whose logits are computed only where something is learned.

    Over a vocabulary of 50,000 to 150,000 tokens the logits of the prompts would cost a good part of a step.

    Args:
        pad_token_id: Fills shorter examples on the left; nothing is learned from it or attends to it.
        packed: Put the examples one after the other into one row without padding. This is the same computation only
            in models for which `packing_is_exact`.
    """

    pad_token_id: int
    packed: bool = False

    def __call__(self, rows: Sequence[Row] | Sequence[list[Row]]) -> dict[str, Any]:
        """A batch of rows, or of bins of rows (see `bins`), as keywords for the model.

        Shapes, for B examples, the longest of T tokens, N tokens and L labels in all:

        - padded: ids, mask and positions (B, T), labels (B, K), and `logits_to_keep` = K, of the last positions;
        - packed: ids and positions (1, N), labels (1, L), and `logits_to_keep` (L), the positions that predict them.
        """
        flat: list[Row] = list(chain(*rows)) if isinstance(rows[0], list) else list(rows)  # type: ignore[arg-type]
        return _packed(flat) if self.packed else _padded(flat, self.pad_token_id)


def _packed(rows: list[Row]) -> dict[str, Any]:
    """Positions begin anew with each example, and there is no mask: by that transformers knows where each begins."""
    ids: list[int] = []
    positions: list[int] = []
    labels: list[int] = []
    predicting: list[int] = []
    for row in rows:
        for i, label in enumerate(row["labels"][1:]):
            if label != IGNORED:
                labels.append(label)
                predicting.append(len(ids) + i)
        ids += row["input_ids"]
        positions += range(len(row["input_ids"]))
    labels_1L = torch.tensor([labels])
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        # the Trainer counts these, and with them the loss does not shift; without `labels` there would be no loss
        "labels": labels_1L,
        "shift_labels": labels_1L,
        "logits_to_keep": torch.tensor(predicting),
        "use_cache": False,  # with a cache transformers would not look for where examples begin
    }


def _padded(rows: list[Row], pad_token_id: int) -> dict[str, Any]:
    """On the left, so that completions stand together at the end."""
    longest = max(len(row["input_ids"]) for row in rows)
    # one more than the longest completion: the logits before a token predict it
    kept = min(longest, 1 + max(sum(label != IGNORED for label in row["labels"]) for row in rows))
    ids_BT = torch.full((len(rows), longest), pad_token_id)
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


def packing_is_exact(model: nn.Module) -> bool:
    """Whether examples in one packed row have the logits and the loss that each has alone, up to round-off.

    Tries it on three short made-up examples, because no attribute of a model says so: recurrent layers, attention that
    does not look at positions and some attention kernels mix the examples. A model that raises cannot be packed.
    Leaves the model's training modes and the random state as they are.
    """
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad():
            return _packs(model, device)
    except Exception:  # a model says in its own way that it does not know an argument
        return False
    finally:
        for module, training in modes:
            module.training = training


def _packs(model: Any, device: torch.device) -> bool:
    draw = random.Random(0)
    examples = [[draw.randrange(model.config.vocab_size) for _ in range(length)] for length in (7, 11, 5)]
    batch = Collator(0, packed=True)([{"input_ids": ids, "labels": [IGNORED, *ids[1:]]} for ids in examples])
    batch = {key: value.to(device) if isinstance(value, Tensor) else value for key, value in batch.items()}
    packed = model(**batch)
    alone_LV = torch.cat([model(input_ids=torch.tensor([ids], device=device)).logits[0, :-1] for ids in examples])
    # half of the digits: far more than the order of additions takes, far less than another example's tokens give
    tolerance = torch.finfo(alone_LV.dtype).eps ** 0.5
    loss = nn.functional.cross_entropy(alone_LV.float(), batch["labels"][0])
    same_logits = (packed.logits[0] - alone_LV).abs().max() <= tolerance * alone_LV.abs().max()
    return bool(same_logits and (packed.loss - loss).abs() <= tolerance * loss)


def bins(rows: Sequence[Row], budget: int, *, by_length: bool, seed: int) -> list[list[Row]]:
    """Divide examples into batches of at most `budget` tokens; each example is in one of them.

    Args:
        rows: The examples.
        budget: Tokens of a batch (`training.batch_tokens`), those of the padding included where `by_length` is set.
        by_length: For padded batches: neighbours in length share one, so that there is little padding. Otherwise the
            batches are filled in random order, each example going where it leaves the least room. Beginning with the
            longest would fill them a little better, but then the length of an example would say what it is learned
            with; in random order it is chance.
        seed: Of the order in which batches are filled, of the batches, and of the examples in each.

    Raises `FlextuneError` if an example is longer than the budget.
    """
    longest = max((_length(row) for row in rows), default=0)
    if longest > budget:
        raise FlextuneError(
            f"training.batch_tokens = {budget}: the longest example has {longest} tokens; give at least as many, or a "
            "smaller training.max_length"
        )
    draw = random.Random(seed)
    order = draw.sample(list(rows), len(rows))
    found = _neighbours(order, budget) if by_length else _best_fit(order, budget)
    for batch in found:
        draw.shuffle(batch)
    draw.shuffle(found)
    return found


def _neighbours(rows: list[Row], budget: int) -> list[list[Row]]:
    found: list[list[Row]] = []
    for row in sorted(rows, key=_length):
        if found and (len(found[-1]) + 1) * _length(row) <= budget:
            found[-1].append(row)
        else:
            found.append([row])
    return found


def _best_fit(rows: list[Row], budget: int) -> list[list[Row]]:
    found: list[list[Row]] = []
    rooms: list[tuple[int, int]] = []  # tokens left, and which batch; in order
    for row in rows:
        place = bisect_left(rooms, (_length(row), 0))
        if place < len(rooms):
            room, number = rooms.pop(place)
        else:
            room, number = budget, len(found)
            found.append([])
        found[number].append(row)
        insort(rooms, (room - _length(row), number))
    return found


def _length(row: Row) -> int:
    return len(row["input_ids"])
