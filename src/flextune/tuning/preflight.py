"""What can be known of a training before it begins: refused then, and not after the base model was measured."""

from collections.abc import Sequence

from flextune import processes
from flextune.adapters import check_mergeable
from flextune.models import ModelSource, context, load_config, load_tokenizer, shapes
from flextune.tasks import Example
from flextune.tuning.adapters import add_shapes
from flextune.tuning.batching import check_examples
from flextune.tuning.settings import Adapter, Training
from flextune.tuning.trackers import named_trackers


def check_training(
    source: ModelSource,
    training: Training,
    adapter: Adapter,
    merged: bool = False,
    examples: Sequence[Example] = (),
    validation: Sequence[Example] = (),
) -> None:
    """Find now what training would refuse, before anything is measured.

    That is a variable of the environment, a missing tracker, examples none of which can be learned, and an adapter that
    does not fit the model.

    With `merged` also one that could not be added into the weights afterwards.
    """
    processes.check_environment()
    named_trackers(training)
    config = load_config(source)
    longest = min(training.max_length, context(config) or training.max_length)
    tokenizer, rows = load_tokenizer(source), config.get_text_config().vocab_size
    check_examples(examples, tokenizer, longest, "training set", rows)
    check_examples(validation, tokenizer, longest, "validation set", rows)
    if adapter.start is None:
        tuned = add_shapes(shapes(config), adapter)
        if merged:
            check_mergeable(tuned)
