"""Presets are roles: what they select in each architecture, and that nothing is left out without a word."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from flextune.errors import FlextuneError, UsageError
from flextune.tuning.adapters import add_adapter
from flextune.tuning.settings import Adapter

SIZES = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 4, "vocab_size": 64, "max_position_embeddings": 64, "pad_token_id": 0},
    **{"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 64},
    **{"ffn_dim": 48, "word_embed_proj_dim": 32, "rotary_dim": 4},
}
EXPERTS = {
    **{"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2},
    **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 24, "n_group": 1, "topk_group": 1},
    **{"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8},
    "first_k_dense_replace": 1,
}
LLAMA = (("q_proj", "v_proj"), ("up_proj", "down_proj"), ("gate_proj",))
FUSED = (("query_key_value",), ("dense_h_to_4h", "dense_4h_to_h"), ())
IN_EXPERTS = (("q_proj", "v_proj"), ("experts.gate_up_proj", "experts.down_proj"), ())
ROLES = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "mistral", "granite"), LLAMA),
    **dict.fromkeys(("olmo2", "cohere", "stablelm", "smollm3"), LLAMA),
    **dict.fromkeys(("gpt_neox", "falcon", "bloom", "persimmon"), FUSED),
    **dict.fromkeys(("mixtral", "qwen3_moe", "olmoe", "gpt_oss", "granitemoe"), IN_EXPERTS),
    "phi3": (("qkv_proj",), ("gate_up_proj", "down_proj"), ()),
    "glm4": (("q_proj", "v_proj"), ("gate_up_proj", "down_proj"), ()),
    "phi": (("q_proj", "v_proj"), ("fc1", "fc2"), ()),
    "opt": (("q_proj", "v_proj"), ("fc1", "fc2"), ()),
    "starcoder2": (("q_proj", "v_proj"), ("c_fc", "mlp.c_proj"), ()),
    "gpt2": (("c_attn",), ("c_fc", "mlp.c_proj"), ()),
    "gpt_bigcode": (("c_attn",), ("c_fc", "mlp.c_proj"), ()),
    "gptj": (("q_proj", "v_proj"), ("fc_in", "fc_out"), ()),
    "codegen": (("qkv_proj",), ("fc_in", "fc_out"), ()),
    "nemotron": (("q_proj", "v_proj"), ("up_proj", "down_proj"), ()),
    "qwen2_moe": (
        ("q_proj", "v_proj"),
        ("shared_expert.up_proj", "shared_expert.down_proj", "experts.gate_up_proj", "experts.down_proj"),
        ("shared_expert.gate_proj",),
    ),
}
"""Of each architecture: the modules of the attention's roles, of the MLP's with which `comprehensive` is content, and
the gate that `mlp` has besides."""
MOE = ("mixtral", "qwen3_moe", "qwen2_moe", "olmoe", "gpt_oss", "granitemoe", "deepseek_v2", "glm4_moe")


def shapes(kind):
    config = AutoConfig.for_model(kind, **SIZES, **(EXPERTS if kind in MOE else {}))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def adapted(model):
    """The ends of the names that have factors, by PEFT's own names for them."""
    names = {name.split(".lora_A.")[0] for name, _ in model.named_parameters() if ".lora_A." in name}
    modules = dict(model.named_modules())
    found = [f"{name.replace('.base_layer', '')}.{getattr(modules[name], 'parameter_name', '')}" for name in names]
    return {name.rstrip(".") for name in found}


@pytest.mark.parametrize("kind", ROLES)
def test_a_preset_selects_all_modules_of_its_roles(kind):
    attention, mlp, gate = ROLES[kind]
    for preset, roles in (
        ("attention", attention),
        ("comprehensive", attention + mlp),
        ("mlp", mlp + gate),
    ):
        base = shapes(kind)
        named = [name for name, _ in base.named_modules()] + [name for name, _ in base.named_parameters()]
        expected = {f"base_model.model.{name}" for name in named if name.endswith(tuple(f".{role}" for role in roles))}
        assert expected
        assert adapted(add_adapter(base, Adapter(targets=preset, rank=2, dropout=0.0))) == expected, preset


def test_what_cannot_be_selected_is_refused_with_the_names_that_there_are():
    cases = {
        (
            "mamba",
            "mlp",
        ): "flextune knows no module of this MambaForCausalLM for down and up; .* in_proj, out_proj, x_proj",
        # PEFT takes these names for those of the experts, and leaves out the shared ones
        (
            "deepseek_v2",
            "mlp",
        ): "'mlp': PEFT puts no adapter on .* modules of this model, such as .*mlp.*_proj; use adapter",
        ("glm4_moe", "all-linear"): "'all-linear': PEFT puts no adapter on",
        ("deepseek_v2", "comprehensive"): "does not fit this model: Cannot convert PEFT target",
    }
    for (kind, preset), message in cases.items():
        with pytest.raises(FlextuneError, match=message):
            add_adapter(shapes(kind), Adapter(targets=preset, dropout=0.0))


def test_all_linear_has_the_experts_too():
    found = adapted(add_adapter(shapes("mixtral"), Adapter(targets="all-linear", rank=2, dropout=0.0)))
    ends = {name.rpartition("layers.")[2].partition(".")[2] for name in found}
    linear = {f"self_attn.{name}_proj" for name in "qkvo"}
    assert ends == {*linear, "mlp.experts.gate_up_proj", "mlp.experts.down_proj"}


def test_dropout_in_front_of_experts_is_refused_by_its_key():
    with pytest.raises(UsageError, match=r"adapter.dropout = 0.05: this model's experts .*; set adapter.dropout=0$"):
        add_adapter(shapes("mixtral"), Adapter(targets="mlp"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"targets": ["up_proj", "down_prj"]},
            r"nothing named 'down_prj' to adapt; did you mean down_proj\? it has down",
        ),
        ({"peft": {"modules_to_save": ["lm_heads"]}}, r"modules_to_save = \['lm_heads'\]: .*; did you mean lm_head\?"),
        ({"peft": {"target_parameters": ["experts.up"]}}, r"adapter.peft.target_parameters"),
        ({"peft": {"exclude_modules": ["gate"]}}, r"adapter.peft.exclude_modules = \['gate'\]"),
        ({"peft": {"rank_pattern": {"q_proj": 4}}}, r"adapter.peft.rank_pattern: the model has nothing named 'q_proj'"),
        ({"peft": {"alpha_pattern": {"up": 4}}}, r"adapter.peft.alpha_pattern: the model has nothing named 'up'"),
        ({"peft": {"modules_to_save": "lm_head"}}, r"modules_to_save = 'lm_head': expected a list of names"),
        ({"peft": {"rank_pattern": {"[": 4}}}, r"does not fit this model: unterminated character set"),
        ({"peft": {"alora_invocation_tokens": [5]}}, r"alora_invocation_tokens makes a kind of LoRA that flextune"),
        (
            {"peft": {"layers_to_transform": [1, 7]}},
            r"layers_to_transform = \[1, 7\]: the model has no layer 7 to adapt",
        ),
    ],
)
def test_a_name_that_matches_nothing_is_refused(settings, message):
    with pytest.raises(FlextuneError, match=message):
        add_adapter(shapes("llama"), Adapter(**{"targets": "mlp", **settings}))


def test_names_that_match_stay_possible():
    peft = {
        "modules_to_save": ["lm_head"],
        "rank_pattern": {"up_proj": 4, "layers.1.mlp.down_proj": 2},
        "layers_to_transform": [1],
        "exclude_modules": ["gate_proj"],
    }
    found = adapted(add_adapter(shapes("llama"), Adapter(targets="mlp", peft=peft)))
    assert found == {f"base_model.model.model.layers.1.mlp.{name}_proj" for name in ("up", "down")}
