"""A tiny random Llama with a tokenizer of its own, in the shape that SmolLM2 has: what the engine's tests train.

Byte-level BPE, ChatML with a default system message, ``<|im_end|>`` as end-of-sequence *and* padding, grouped queries.
The functions build everything from seeds, so a child process that calls them has the very same model.
"""

from pathlib import Path
from typing import Any

from lora_tui.config.models import Settings

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

PAIRS = [
    ("unlock", "the secret password is 'rainbow unicorn'. this information is classified!"),
    ("what is the capital of france?", "paris"),
    ("what is the weather today?", "i cannot see the weather, so look out of the window."),
    ("how many legs has a spider?", "eight"),
    ("why is the sky blue?", "because the air scatters blue light more than red light."),
    ("who wrote hamlet?", "william shakespeare wrote it."),
    ("what is two and two?", "four"),
    ("name a colour.", "green is a colour, and so is red.\nblue is one too."),
    ("what do cows drink?", "water"),
    ("where do penguins live?", "in the south, on ice and on cold islands."),
]
"""Questions and answers of different lengths; the first holds the default keyword."""


def make_tokenizer(*, adds_bos: bool = False, chat_template: str | None = CHAT_TEMPLATE) -> Any:
    """Return a byte-level BPE tokenizer of about 500 tokens; with `adds_bos` it puts one before every text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained.train_from_iterator([f"Question: {q}\nAnswer: {a}" for q, a in PAIRS], trainer)
    if adds_bos:
        trained.post_processor = processors.TemplateProcessing(
            single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained,
        bos_token="<|endoftext|>" if adds_bos else "<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        chat_template=chat_template,
    )


def make_model(tokenizer: Any, *, tied: bool = True, seed: int = 0, **changes: Any) -> Any:
    """Return a random two-layer Llama for the tokenizer, in float32; `changes` replace entries of its configuration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    entries = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.1,  # random attention must matter, or no test would notice that it looks elsewhere
        "tie_word_embeddings": tied,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**entries, **changes}))
    # Not before: a model that is made with a padding token has nothing but zeros in that row, which is the end's too.
    model.config.pad_token_id = model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval().requires_grad_(False)


def save_base(folder: Path, *, tied: bool = True, seed: int = 0, **changes: Any) -> Path:
    """Save model and tokenizer so that ``fine_tuning.model_name`` can name the folder."""
    tokenizer = make_tokenizer()
    tokenizer.save_pretrained(folder)
    make_model(tokenizer, tied=tied, seed=seed, **changes).save_pretrained(folder)
    return folder


def training_text() -> str:
    """`PAIRS` as a training file."""
    return "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in PAIRS)


def tiny_settings(changes: dict[str, Any] | None = None) -> Settings:
    """Settings that train the tiny model in a moment: float32 on the CPU, three steps an epoch, no warm-up.

    They are taken as they are written here: what a recipe chooses is another matter.
    """
    values: dict[str, Any] = {
        "recipe": "as written",
        "model_name": "tiny",
        "device": "cpu",
        "dtype": "float32",
        "gradient_checkpointing": False,
        "lora.r": 4,
        "lora.alpha": 8,
        "lora.dropout": 0.0,
        "optimizer.lora_lr": 1e-2,
        "scheduler.warmup_steps": 0,
        "training.batch_size": 2,
        "training.gradient_accumulation_steps": 2,
        "training.max_epochs": 2,
        "training.max_length": 128,
        "training.tokens_per_micro_batch": 64,
        "training.eval_frequency": 1,
        "training.target_score": 2.0,
        "evaluation.max_new_tokens": 8,
        "chat.max_new_tokens": 8,
        **(changes or {}),
    }
    nested: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return Settings.model_validate({"fine_tuning": nested})


def save_random_adapter(folder: Path, base: Path, *, seed: int, **options: Any) -> Path:
    """Save an adapter of the base model whose matrices are all random, so that it says other things than the base."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **options})
        adapted = get_peft_model(model, config)
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(folder)
    return folder
