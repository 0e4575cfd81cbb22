"""What training a 7B model holds in memory, computed from shapes on a model without any.

    python benchmarks/memory.py

Builds Code Llama 7B's shape on the meta device, with LoRA on the MLP, and counts what autograd saves for the backward
pass: for models of two and of four layers and for two lengths, so that what a layer saves for each token remains. On a
card attention saves no square of scores (flash attention) and dropout saves a mask of bytes; both are put right by
arithmetic. Prints the table of docs/training.md. Not counted: what an allocator leaves unused, and the largest
temporary tensors of the backward pass.
"""

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from flextune import Adapter
from flextune.tuning.adapters import add_adapter

LAYERS, HIDDEN, INNER, VOCABULARY = 32, 4096, 11_008, 32_016
LEARNED = 0.3
"""The share of tokens with a label; a third of MBPP's are."""


def model_of(layers: int) -> torch.nn.Module:
    """Code Llama 7B with so many layers, in bfloat16, with float32 factors."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=HIDDEN // 128,
        use_cache=False,
    )
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return add_adapter(base, Adapter(targets="mlp", rank=8, dropout=0.0)).train()


def saved(layers: int, tokens: int) -> int:
    """Bytes that autograd keeps of a forward pass, parameters left out, each storage once."""
    model = model_of(layers)
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, tuple[object, int]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage, storage.nbytes())  # the storage too, so that its address stays taken
        return tensor

    mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=torch.zeros(1, tokens, dtype=torch.long, device="meta"), attention_mask=mask, logits_to_keep=1)
    return sum(size for _, size in kept.values())


def main() -> None:
    """Print the numbers and the table."""
    one, two = ((saved(4, tokens) - saved(2, tokens)) / 2 / tokens for tokens in (1024, 2048))
    layer = 2 * one - two  # what grows with the length is the square of scores
    layer += 2 * HIDDEN + INNER  # a byte for each entry that dropout may drop: before A of gate, up and down
    bfloat16 = 2 * sum(p.numel() for p in model_of(LAYERS).get_base_model().parameters() if p.dtype == torch.bfloat16)
    factors = sum(p.numel() for p in model_of(LAYERS).parameters() if p.requires_grad)
    print(f"a layer saves {layer / 1e3:.0f} kB a token, all of them {LAYERS * layer / 1e6:.2f} MB")
    learner = 16 * factors  # float32: the factors, their gradients, two averages
    logits = VOCABULARY * (2 + 4 + 4)  # as they come, in float32, and their gradient
    ends = 4 * VOCABULARY * HIDDEN  # embeddings and head stay in bfloat16
    four_bits = (bfloat16 - ends) / 2 * 0.516 + ends  # half a byte, and the scales, themselves in 8 bits
    print(f"weights {bfloat16 / 1e9:.2f} GB, in 4 bits {four_bits / 1e9:.2f}; factors, optimizer {learner / 1e9:.2f}")
    print("| card | weights | settings | computed peak |\n|---|---|---|---:|")
    for card, weights, tokens, again in (
        ("24 GB", "bfloat16", 8192, True),
        ("24 GB", "4 bits", 1536, False),
        ("48 GB", "bfloat16", 2560, False),
        ("80 GB", "bfloat16", 6144, False),
    ):
        activations = tokens * (LAYERS * 2 * HIDDEN + layer if again else LAYERS * layer)
        total = (bfloat16 if weights == "bfloat16" else four_bits) + learner + activations + tokens * LEARNED * logits
        settings = f"`batch_tokens: {tokens}{', gradient_checkpointing: true' if again else ''}`"
        print(f"| {card} | {weights} | {settings} | {total / 1e9:.0f} GB |")


if __name__ == "__main__":
    main()
