"""Slots: the keys and values of texts that are being written, each at its own length, in buffers made once.

A text's tokens stand from the left in a row of its own, so nothing is padded on the left, and rows of any length go on
side by side. Rows are copied, dropped and exchanged in place (`select`), where transformers' caches copy all they hold
at every token. Attention (`attend`) reads grouped heads as they are, without repeating them.

Letters in names: R rows, T new tokens, K keys, H heads, G heads that share keys, D their size.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, Cache

from flextune.errors import FlextuneError

ATTENTION = "flextune_slots"
"""The name under which transformers knows `attend`."""


class Slots(Cache):
    """Keys and values of up to `rows` texts of up to `tokens` tokens."""

    def __init__(self, rows: int, tokens: int):
        super().__init__(layers=[])
        self.rows, self.tokens = rows, tokens
        self._keys: list[Tensor] = []  # one a layer: (rows, key heads, tokens, head size)
        self._values: list[Tensor] = []
        self._at: Tensor = torch.empty(0)
        self._first = 0
        self._filled = 0

    def write_at(self, positions_RT: Tensor, filled: int, first: int = 0) -> Tensor:
        """Let the next forward pass write the rows from `first` on at these positions; returns its attention mask.

        The positions of a row follow each other, all below `filled`; a token attends to those before it in its row, and
        to itself.
        """
        self._at, self._first, self._filled = positions_RT, first, filled
        return torch.arange(self._filled, device=positions_RT.device) <= positions_RT[:, None, :, None]

    def update(self, keys: Tensor, values: Tensor, layer: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Write the new tokens' keys and values, and return those of the rows that are being written."""
        while len(self._keys) <= layer:
            shape = (self.rows, keys.shape[1], self.tokens)
            # zeros, since a masked key still meets its value: nothing times what memory held may be no number
            self._keys.append(keys.new_zeros(*shape, keys.shape[-1]))
            self._values.append(values.new_zeros(*shape, values.shape[-1]))
        rows = slice(self._first, self._first + len(keys))
        found = []
        for buffer, new in ((self._keys[layer], keys), (self._values[layer], values)):
            row_R1 = torch.arange(len(new), device=new.device)[:, None]
            buffer[rows].transpose(1, 2)[row_R1, self._at] = new.transpose(1, 2)
            found.append(buffer[rows, :, : self._filled])
        return found[0], found[1]

    def select(self, parents: Sequence[int], filled: int) -> None:
        """Let row i go on with the first `filled` tokens of what is now row `parents[i]`."""
        moved = [row for row, parent in enumerate(parents) if row != parent]
        if not moved:
            return
        sources = [parents[row] for row in moved]
        for buffer in (*self._keys, *self._values):
            buffer[moved, :, :filled] = buffer[sources, :, :filled]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens in the longest row."""
        return self._filled


def attend(
    module: Any,
    query_RHTD: Tensor,
    key: Tensor,
    value: Tensor,
    mask_R1TK: Tensor,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Attention of new tokens to the keys and values of their rows, as transformers calls it.

    Heads that share keys become further queries of them, so that keys and values are read once and never repeated.
    """
    for name in ("softcap", "s_aux", "position_bias"):
        if options.get(name) is not None:
            raise FlextuneError(f"the transformers backend does not know attention with {name}; use backend: vllm")
    rows, heads, new, size = query_RHTD.shape
    groups = heads // key.shape[1]
    if sliding_window is not None and mask_R1TK.shape[-1] > sliding_window:
        at_R1T1 = mask_R1TK.sum(-1, keepdim=True) - 1
        mask_R1TK = mask_R1TK & (torch.arange(mask_R1TK.shape[-1], device=key.device) > at_R1T1 - sliding_window)
    if groups > 1:
        query_RHTD = query_RHTD.reshape(rows, -1, groups * new, size)
        mask_R1TK = mask_R1TK.repeat(1, 1, groups, 1) if new > 1 else mask_R1TK
    out = torch.nn.functional.scaled_dot_product_attention(query_RHTD, key, value, attn_mask=mask_R1TK, scale=scaling)
    return out.reshape(rows, heads, new, -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, attend)
