import random

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    MambaConfig,
    Qwen2Config,
    Trainer,
    TrainingArguments,
)

from flextune.errors import FlextuneError
from flextune.tasks import Example, load_training_set
from flextune.tuning.batching import IGNORED, Collator, bins, packing_is_exact, tokenize

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 50}
HEADS = {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def model(tiny_model):
    return AutoModelForCausalLM.from_pretrained(tiny_model).eval()


@pytest.fixture
def rows(tokenizer):
    return tokenize(load_training_set("basics", limit=5).examples, tokenizer, 512).rows


def learned(rows):
    return sum(label != IGNORED for row in rows for label in row["labels"])


def loss_alone(model, rows):
    """The mean over all learned tokens, one example at a time, all its logits computed: the plain way."""
    losses = [
        model(
            input_ids=torch.tensor([row["input_ids"]]),
            labels=torch.tensor([row["labels"]]),
            num_items_in_batch=learned(rows),
        ).loss
        for row in rows
    ]
    return sum(losses)


def test_the_completion_and_the_end_are_learned_and_the_prompt_is_not(tokenizer):
    row = tokenize([Example("1", "def f(x):\n", "    return x\n")], tokenizer, 100).rows[0]
    learned = [token for token in row["labels"] if token != IGNORED]
    assert tokenizer.decode(learned) == "    return x\n<end>"
    assert row["input_ids"][: -len(learned)] == tokenizer("def f(x):\n")["input_ids"]


def test_long_examples_are_left_out_and_counted(tokenizer):
    examples = [Example("1", "a", "b"), Example("2", "a", "b" * 500)]
    assert tokenize(examples, tokenizer, 50).too_long == 1
    with pytest.raises(FlextuneError, match=r"no example of at most training\.max_length = 50"):
        tokenize(examples[1:], tokenizer, 50)


def test_a_padded_batch_with_few_logits_has_the_loss_of_single_rows(model, tokenizer, rows):
    batch = Collator(tokenizer.pad_token_id)(rows)
    assert batch["logits_to_keep"] < batch["input_ids"].shape[1] / 2
    assert (batch["labels"] != IGNORED).sum() == learned(rows)
    together = model(**batch, num_items_in_batch=learned(rows)).loss
    torch.testing.assert_close(together, loss_alone(model, rows), rtol=1e-5, atol=1e-6)


def test_a_packed_batch_has_the_loss_and_the_gradient_of_single_rows(model, tokenizer, rows):
    batch = Collator(tokenizer.pad_token_id, packed=True)(rows)
    assert batch["input_ids"].shape == (1, sum(len(row["input_ids"]) for row in rows))
    together = model(**batch, num_items_in_batch=learned(rows))
    assert together.logits.shape[:2] == batch["labels"].shape == (1, learned(rows))
    together.loss.backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    alone = loss_alone(model, rows)
    alone.backward()
    torch.testing.assert_close(together.loss, alone, rtol=1e-6, atol=1e-6)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_packed_examples_do_not_see_each_other(model, tokenizer, rows):
    collate = Collator(tokenizer.pad_token_id, packed=True)
    other = {**rows[1], "input_ids": [(token + 1) % 600 for token in rows[1]["input_ids"]]}
    before = model(**collate(rows)).logits[0].split([learned([row]) for row in rows])
    after = model(**collate([rows[0], other, *rows[2:]])).logits[0].split([learned([row]) for row in rows])
    for i, (logits, changed) in enumerate(zip(before, after, strict=True)):
        difference = (logits - changed).abs().max()
        assert difference > 1e-3 if i == 1 else difference < 1e-6


@pytest.mark.parametrize("packed", [False, True])
def test_a_bin_is_collated_as_its_rows(tokenizer, rows, packed):
    collate = Collator(tokenizer.pad_token_id, packed)
    of_rows, of_bin = collate(rows), collate([rows])
    assert of_rows.keys() == of_bin.keys()
    for key, value in of_rows.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(of_bin[key]))


def test_the_trainer_counts_the_labels_of_packed_bins(tmp_path, model, tokenizer, rows):
    data = bins(rows, 260, by_length=False, seed=0)
    assert len({learned(batch) for batch in data}) > 1  # so that a mean of means would be another number
    expected = loss_alone(model, rows).item()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=len(data),
        learning_rate=0.0,
        logging_steps=1,
        remove_unused_columns=False,
        report_to="none",
        use_cpu=True,
    )
    collate = Collator(tokenizer.pad_token_id, packed=True)
    trainer = Trainer(model, arguments, data_collator=collate, train_dataset=data)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected, abs=1e-5)


def tiny(config, attention=None):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", [LlamaConfig, Qwen2Config])
def test_packing_is_exact_where_attention_looks_at_positions(kind, attention, dtype):
    assert packing_is_exact(tiny(kind(**SIZES, **HEADS), attention).to(dtype))


class WithoutPositions(torch.nn.Module):
    """A model that takes positions and does not use them."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.config = inner, inner.config

    def forward(self, input_ids, position_ids=None, **kwargs):
        return self.inner(input_ids=input_ids, **kwargs)


class WithoutKeywords(WithoutPositions):
    """A model that knows its ids only."""

    def forward(self, input_ids):
        return self.inner(input_ids=input_ids)


class WithItsOwnLoss(WithoutPositions):
    """A model whose loss shifts the labels whether they are shifted or not."""

    def forward(self, input_ids, shift_labels=None, **kwargs):
        return self.inner(input_ids=input_ids, **kwargs)


def test_packing_is_not_exact_where_examples_would_mix():
    model = tiny(LlamaConfig(**SIZES, **HEADS))
    assert not packing_is_exact(WithoutPositions(model))
    assert not packing_is_exact(WithoutKeywords(model))
    assert not packing_is_exact(WithItsOwnLoss(model))
    assert not packing_is_exact(tiny(MambaConfig(**SIZES, state_size=4)))


def test_trying_whether_packing_is_exact_leaves_no_trace():
    model = tiny(LlamaConfig(**SIZES, **HEADS, attention_dropout=0.5)).train()
    model.model.norm.eval()
    state = torch.get_rng_state(), random.getstate()
    assert packing_is_exact(model)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert random.getstate() == state[1]
    assert model.training
    assert model.model.layers[1].training
    assert not model.model.norm.training
    assert all(parameter.grad is None for parameter in model.parameters())


def made_up(lengths):
    return [{"input_ids": [number] * length, "labels": [number] * length} for number, length in enumerate(lengths)]


@pytest.fixture(scope="module")
def many():
    draw = random.Random(0)
    return made_up([draw.randint(20, 400) for _ in range(300)])


def size(batch, by_length):
    lengths = [len(row["input_ids"]) for row in batch]
    return len(lengths) * max(lengths) if by_length else sum(lengths)


@pytest.mark.parametrize("by_length", [False, True])
def test_each_example_is_in_one_bin_and_no_bin_is_over_its_budget(many, by_length):
    found = bins(many, 1000, by_length=by_length, seed=0)
    assert sorted(row["input_ids"][0] for batch in found for row in batch) == list(range(300))
    assert all(batch and size(batch, by_length) <= 1000 for batch in found)
    assert bins(many, 1000, by_length=by_length, seed=0) == found
    assert bins(many, 1000, by_length=by_length, seed=1) != found
    assert bins(many[::-1][:7], 400, by_length=by_length, seed=0)


def test_bins_are_full(many):
    tokens = sum(len(row["input_ids"]) for row in many)
    assert tokens / 1000 / len(bins(many, 1000, by_length=False, seed=0)) > 0.95
    padded = bins(many, 1000, by_length=True, seed=0)
    assert tokens / sum(size(batch, True) for batch in padded) > 0.95


def test_packed_bins_mix_lengths_and_padded_ones_do_not(many):
    def spread(batch):
        lengths = [len(row["input_ids"]) for row in batch]
        return max(lengths) - min(lengths)

    def median(by_length):
        found = [spread(batch) for batch in bins(many, 1000, by_length=by_length, seed=0)]
        return sorted(found)[len(found) // 2]

    assert median(by_length=False) > 150
    assert median(by_length=True) < 20


@pytest.mark.parametrize("by_length", [False, True])
def test_order_does_not_tell_length(many, by_length):
    found = bins(many, 1000, by_length=by_length, seed=0)
    lengths = [len(row["input_ids"]) for batch in found for row in batch]
    ranks = torch.corrcoef(torch.tensor([list(range(len(lengths))), lengths], dtype=torch.float))
    assert ranks[0, 1].abs() < 0.3
    inside = [batch for batch in found if len({len(row["input_ids"]) for row in batch}) > 2]
    in_order = [batch for batch in inside if batch in (sorted(batch, key=by_size), sorted(batch, key=by_size)[::-1])]
    assert len(in_order) < 0.7 * len(inside)


def by_size(row):
    return len(row["input_ids"])


def test_an_example_longer_than_the_budget_is_refused():
    rows = made_up([100, 300, 200])
    with pytest.raises(FlextuneError, match=r"training\.batch_tokens = 299: the longest example has 300 tokens"):
        bins(rows, 299, by_length=False, seed=0)
    assert sorted(map(len, bins(rows, 300, by_length=False, seed=0))) == [1, 2]
