import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from flextune.errors import FlextuneError
from flextune.tasks import Example, load_training_set
from flextune.tuning.batching import IGNORED, Collator, tokenize


@pytest.fixture
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


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


def test_a_padded_batch_with_few_logits_has_the_loss_of_single_rows(tiny_model, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    rows = tokenize(load_training_set("basics", limit=5).examples, tokenizer, 512).rows
    batch = Collator(tokenizer.pad_token_id)(rows)
    assert batch["logits_to_keep"] < batch["input_ids"].shape[1] / 2
    learned = sum(label != IGNORED for row in rows for label in row["labels"])
    assert (batch["labels"] != IGNORED).sum() == learned
    together = model(**batch, num_items_in_batch=learned).loss
    alone = sum(
        model(
            input_ids=torch.tensor([row["input_ids"]]),
            labels=torch.tensor([row["labels"]]),
            num_items_in_batch=learned,
        ).loss
        for row in rows
    )
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
