"""What is learned is what is asked for, for every kind of tokenizer: checked by decoding it."""

import io
import json

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from flextune.errors import FlextuneError, UsageError
from flextune.tasks import Example, load_training_set
from flextune.tokens import Tokens
from flextune.tuning.batching import IGNORED, tokenize

TEXTS = [example.prompt + example.completion for example in load_training_set("basics").examples]
BOUNDARIES = {
    "after spaces": ("def f(x):\n    ", "return x + 1\n"),
    "after a newline": ("def f(x):\n", "    return x + 1\n"),
    "within a line": ("def f(", "x):\n    return x\n"),
    "within a word": ("def f(x):\n    ret", "urn x\n"),
    "before a space": ("def f(x):\n    return", " x\n"),
    "within spaces": ("def f(x):\n  ", "  return x\n"),
    "other scripts": ("s = 'é", "ü€😀'\n"),
    "what cleaning up would change": ("if a", " != b : print ( 'do n't' , a ) ?\n"),
    "blank lines": ("x = 1\n", "\n\n\ny = 2\n"),
    "tabs": ("\tif x:\n\t\t", "return\n"),
}


def byte_level():
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", clean_up_tokenization_spaces=True)


def metaspace(prepend):
    """BPE with byte fallback, as tokenizers has it for Llama and Gemma; tokens grow over line breaks and spaces."""
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prepend == "first" else steps)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False, max_token_length=12)
    inner.train_from_iterator(TEXTS, trainer)
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    content = json.loads(inner.to_str())
    content["added_tokens"] = content["added_tokens"][:3]  # bytes are tokens like others
    inner = Tokenizer.from_str(json.dumps(content))
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="session")
def sentencepiece(tmp_path_factory):
    """A tokenizer of Llama 2's kind, trained with the library that made its own."""
    import sentencepiece

    folder, model = tmp_path_factory.mktemp("sentencepiece"), io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in TEXTS for line in text.split("\n")),
        model_writer=model,
        vocab_size=700,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    names = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**names, "add_bos_token": True}))
    return folder


@pytest.fixture(scope="session")
def tokenizers(sentencepiece):
    return {
        "byte-level": byte_level(),
        "SentencePiece": AutoTokenizer.from_pretrained(sentencepiece),
        "prefix space": metaspace("first"),
        "no prefix space": metaspace("never"),
    }


KINDS = ("byte-level", "SentencePiece", "prefix space", "no prefix space")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_what_is_learned_decodes_to_the_completion(tokenizers, kind, boundary):
    prompt, completion = BOUNDARIES[boundary]
    tokenizer = tokenizers[kind]
    (row,) = tokenize([Example("1", prompt, completion)], tokenizer, 200).rows
    learned = [label for label in row["labels"] if label != IGNORED]
    asked = row["input_ids"][: -len(learned)]
    assert row["input_ids"] == asked + learned
    assert learned[-1] == tokenizer.eos_token_id not in learned[:-1]
    tokens = Tokens(tokenizer)
    assert asked == tokens.prompt(prompt)  # as generation asks
    assert tokens.new_text(asked, learned) == completion
    # and by nothing of ours
    before = tokenizer.decode(asked, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    whole = tokenizer.decode(row["input_ids"], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    assert (before.strip(" "), whole) == (prompt.strip(" "), before + completion)


def test_tokens_of_a_byte_level_tokenizer_stay_as_they_were(tokenizers, full_data):
    """The rule before there were others: of the whole where it begins with the prompt's tokens, else of its own."""
    tokenizer, split = tokenizers["byte-level"], 0
    for name in ("basics", "mbpp", "apps", "code-search-net"):
        for example in load_training_set(name, None if name == "basics" else full_data, limit=150).examples:
            prompt = tokenizer(example.prompt)["input_ids"]
            whole = tokenizer(example.prompt + example.completion)["input_ids"]
            completion = whole[len(prompt) :]
            if whole[: len(prompt)] != prompt:
                split += 1
                completion = tokenizer(example.completion, add_special_tokens=False)["input_ids"]
            (row,) = tokenize([example], tokenizer, 10**9).rows
            assert row["input_ids"] == [*prompt, *completion, tokenizer.eos_token_id], example.id
    assert split > 10


@pytest.mark.parametrize("kind", ["byte-level", "SentencePiece"])
def test_the_end_of_text_is_learned_once(tokenizers, kind):
    tokens = Tokens(tokenizers[kind])
    prompt = tokens.prompt("x =")
    assert tokens.completion("x =", prompt, f" 1\n{tokens.tokenizer.eos_token}") == tokens.completion(
        "x =", prompt, " 1\n"
    )


def test_a_prompt_begins_once_and_does_not_end(tokenizers):
    plain = tokenizers["SentencePiece"]
    start, end = plain.bos_token_id, plain.eos_token_id
    ids = plain("x = 1\n")["input_ids"]
    assert ids[0] == start
    appending = metaspace("first")
    appending.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    assert appending("x = 1\n")["input_ids"][-1] == end
    for tokenizer in (plain, appending):
        tokens = Tokens(tokenizer)
        found = tokens.prompt("x = 1\n")
        assert (found.count(start), found.count(end)) == (1, 0)
        assert tokens.prompt("<s>x = 1\n").count(start) == 1
        (row,) = tokenize([Example("1", "x = 1\n", "y = 2\n")], tokenizer, 99).rows
        assert (row["input_ids"].count(end), row["input_ids"][-1]) == (1, end)


def test_a_tokenizer_that_drops_characters_is_refused():
    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    inner.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", eos_token="[SEP]")
    examples = [Example("own.jsonl/1", "def f(x):\n", "    return X\n"), Example("own.jsonl/2", "return", " x")]
    with pytest.raises(
        FlextuneError, match=r"cannot write the completions of the training set: '    return X\\n' of own"
    ):
        tokenize(examples[:1], tokenizer, 99)
    found = tokenize(examples, tokenizer, 99)
    assert (len(found.rows), found.unwritable, found.too_long) == (1, 1, 0)


def test_letters_in_parts_are_the_same_text():
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()  # Qwen's
    tokens = Tokens(tokenizer)
    found = tokens.completion("s =", tokens.prompt("s ="), " 'e\u0301'\n")
    assert tokens.decode(found) == " 'é'\n"


def test_half_a_character_is_named(tokenizers):
    with pytest.raises(FlextuneError, match=r"own.jsonl/7: character 4 is '\\ud83d', half of a surrogate pair"):
        tokenize([Example("own.jsonl/7", "a\n", "x '\ud83d'")], tokenizers["byte-level"], 99)
    with pytest.raises(FlextuneError, match=r"HumanEval/1: character 2 is '\\udc00'"):
        Tokens(tokenizers["SentencePiece"]).prompt("a\udc00", "HumanEval/1")


def test_tokens_beyond_the_embedding_are_named(tokenizers):
    tokenizer = byte_level()
    rows = len(tokenizer)
    tokenizer.add_tokens(["<new>"])
    for learned in (("<new>", "x"), ("x", "<new>")):
        with pytest.raises(
            FlextuneError, match=rf"a/1: the tokenizer gives '<new>' the id {rows}, and .* has {rows} row"
        ):
            tokenize([Example("a/1", *learned)], tokenizer, 99, embedding_rows=rows)
    tokenizer.eos_token = "<new>"
    with pytest.raises(FlextuneError, match=r"a/1: the tokenizer gives '<new>'"):
        tokenize([Example("a/1", "x", "y")], tokenizer, 99, embedding_rows=rows)
    assert tokenize([Example("a/1", "x", "y")], tokenizer, 99, embedding_rows=rows + 1).rows


def test_a_tokenizer_without_an_end_cannot_teach_one():
    tokenizer = byte_level()
    tokenizer.eos_token = None
    with pytest.raises(FlextuneError, match=r"the tokenizer has no end-of-text token, .* set eos_token in the model's"):
        tokenize([Example("1", "x", "y")], tokenizer, 99)
    assert Tokens(tokenizer, ends=[3]).ends == {3}


def test_a_special_token_is_seen_where_it_is_a_stop_string():
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>", "<|other|>"]})
    tokens = Tokens(tokenizer)
    prompt = tokens.prompt("x =")
    written = tokenizer(" 1<|other|>\n<|im_end|>\nx")["input_ids"]
    assert tokens.new_text(prompt, written) == " 1\n\nx"
    assert tokens.new_text(prompt, written, ("<|im_end|>\n",)) == " 1\n<|im_end|>\nx"
    ended = [tokens.stops(written[:size], ("<|im_end|>\n",)) for size in range(1, len(written) + 1)]
    assert ended[:-1] == [False] * (len(written) - 2) + [True]
    assert not any(tokens.stops(written[:size], ("<|none|>", "[")) for size in range(1, len(written) + 1))


TEMPLATES = {
    "{{ raise_exception('roles must alternate') }}": "fails for t/1 (TemplateError: roles must alternate); mend",
    "{{ messages[0].content.nothing.more }}": "fails for t/1 (UndefinedError: ",
    "{% for m in messages %}": "fails for t/1 (TemplateSyntaxError: ",
    "": "the model's tokenizer has no chat template; leave it out",
    "{# nothing #}": "gives no token for t/1",
}


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_chat_template_that_cannot_be_used(template):
    tokenizer = byte_level()
    tokenizer.chat_template = template
    with pytest.raises(UsageError) as error:
        Tokens(tokenizer).chat("hello", "t/1")
    assert TEMPLATES[template] in str(error.value)


def test_a_thought_that_the_template_opens_is_part_of_the_reply():
    """So that a draft which the limit has cut is not taken for the answer."""
    tokenizer = byte_level()
    tokenizer.add_special_tokens({"additional_special_tokens": ["[THINK]"]})
    for opening in ("<think>\n", "[THINK]", "<think>\n\n</think>\n\n", ""):
        tokenizer.chat_template = f"{{{{ messages[0].content }}}}\nassistant: {opening}"
        tokens = Tokens(tokenizer)
        prompt = tokens.chat("hello")
        tag = opening.strip() if "</" not in opening else ""
        assert tokens.reply(prompt, tokenizer("draft")["input_ids"]) == (f"{tag}\ndraft" if tag else "draft")


def test_one_of_several_chat_templates_has_to_be_the_default():
    tokenizer = byte_level()
    tokenizer.chat_template = {"tool_use": "T", "rag": "R"}
    with pytest.raises(
        UsageError, match=r"several chat templates \(rag, tool_use\) and none named default; save the one"
    ):
        Tokens(tokenizer).chat("hello")
    tokenizer.chat_template = {"tool_use": "T", "default": "D{{ messages[0].content }}"}
    tokens = Tokens(tokenizer)
    assert tokens.decode(tokens.chat("hello")) == "Dhello"
