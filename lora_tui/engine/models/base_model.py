"""The loader of base models and their tokenizers, onto a device in a precision that suits it.

A name may be ``builtin``, a folder, a ``.gguf`` file, or a name on the Hugging Face hub. Weights are read from
safetensors or GGUF only: other formats are pickles, which run code when they are opened.
"""

import importlib.util
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.utils.tqdm import tqdm
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from lora_tui.config.models import Settings
from lora_tui.engine.models.build_lock import constructing
from lora_tui.engine.models.builtin import BUILTIN, TITLE
from lora_tui.engine.models.hub_info import locate
from lora_tui.engine.models.loaded_checks import check_size, check_weights, compute_once, fit_tokenizer
from lora_tui.engine.models.model_files import check_model_files, elements_held, tokenizer_problem
from lora_tui.errors import ConfigError, LoraTuiError, UnreachableError
from lora_tui.protocol.backend import LoadProgress
from lora_tui.text import FETCHING, one_line

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_TIMED_ROUNDS = 8
_MODEL_FILES = ["*.json", "model.safetensors", "model-*-of-*.safetensors", "*.py"]
"""What ``from_pretrained`` reads of a model on the hub."""


@dataclass(frozen=True)
class BaseModel:
    """A loaded base model in evaluation mode with all its parameters frozen; `folder` holds its files, where known."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype
    name: str
    folder: Path | None = None


def load_base(
    settings: Settings, progress: LoadProgress, name: str | None = None, onto: torch.device | None = None
) -> BaseModel:
    """Load ``fine_tuning.model_name`` (or `name`) for the configured device, into its memory or that of `onto`.

    torch's random state is left as it is: weights that are read from a file need no initialisation. Raises
    `UnreachableError` for a model that cannot be found or fetched, `LoraTuiError` for one that cannot be used, and
    `ConfigError`, before anything is fetched, where ``fine_tuning.qlora`` is not possible here.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    fine_tuning = settings.fine_tuning
    wanted = name or fine_tuning.model_name
    device = choose_device(fine_tuning.device)
    dtype = choose_dtype(fine_tuning.dtype, device)
    if fine_tuning.qlora:
        check_qlora(device)
    source, extra = locate(wanted, progress)
    folder = Path(source)
    if folder.is_dir():
        check_model_files(folder / extra["gguf_file"] if extra else folder)
    phase = f"loading {TITLE if wanted == BUILTIN else wanted}"
    progress(phase, 0, 1)
    trust = fine_tuning.trust_remote_code
    with _explaining(wanted, source, "tokenizer", device):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust, **extra)
    if not folder.is_dir():
        # Outside the lock: no trainer waits for it.
        bar = fetching_bar(f"{FETCHING}{wanted}", progress)
        with _explaining(wanted, source, "weights", device):
            folder = Path(snapshot_download(source, allow_patterns=_MODEL_FILES, tqdm_class=bar))
            check_model_files(folder)
        progress(phase, 0, 1)
    with _explaining(wanted, source, "weights", device):
        if not extra:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=trust)
            check_size(config, elements_held(folder), _place(wanted, source), trust_remote_code=trust)
        with constructing():
            model, found = AutoModelForCausalLM.from_pretrained(
                source,
                dtype=dtype,
                trust_remote_code=trust,
                use_safetensors=None if extra else True,
                output_loading_info=True,
                **extra,
                **(_quantization_options(device, dtype) if fine_tuning.qlora else {}),
            )
        # bitsandbytes has put the layers on the device while it read them, and does not let them be moved.
        model = (
            (_disable_repacking(model) if fine_tuning.qlora else model.to(onto or device)).eval().requires_grad_(False)
        )
        check_weights(model, found["missing_keys"], _place(wanted, source))
        compute_once(model)
    fit_tokenizer(tokenizer, model, _place(wanted, source))
    progress(phase, 1, 1)
    return BaseModel(model, tokenizer, device, dtype, wanted, None if extra else folder)


def _place(name: str, source: str) -> str:
    """Return where a model's files are, as its user knows it: the folder, the GGUF file, or the name on the hub."""
    return source if name == BUILTIN else name


@contextmanager
def _explaining(name: str, source: str, part: str, device: torch.device) -> Iterator[None]:
    """Turn whatever the libraries raise about a model's files inside the block into a `LoraTuiError` that names them.

    They believe what the files say, and a damaged one can make them raise anything at all; the log has it in full.
    """
    try:
        yield
    except torch.OutOfMemoryError as problem:
        raise LoraTuiError(
            f"{name} does not fit on {device}: {_first_line(problem)}\nTake a smaller model, or set "
            "fine_tuning.qlora = true."
        ) from problem
    except MemoryError as problem:
        raise LoraTuiError(f"{name} does not fit into this machine's memory. Take a smaller model.") from problem
    except LoraTuiError:
        raise
    except BaseException as problem:
        # A panic of the Rust libraries is no Exception.
        if not isinstance(problem, Exception) and type(problem).__name__ != "PanicException":
            raise
        raise _load_error(name, source, part, problem) from problem


def fetching_bar(phase: str, progress: LoadProgress) -> type[tqdm]:
    """Return a progress bar that draws nothing and reports the bytes that have come, for `snapshot_download`."""

    class FetchingBar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._counts_bytes = options.get("unit") == "B"
            self._done = 0.0
            super().__init__(*args, **{**options, "disable": True})  # type: ignore[no-untyped-call]  # tqdm does not type it

        def update(self, n: float | None = 1) -> bool | None:
            self._done += n or 0
            if self._counts_bytes and self.total and self._done < self.total:
                progress(phase, int(self._done), int(self.total))
            return None

    return FetchingBar


def check_qlora(device: torch.device) -> None:
    """Raise `ConfigError` where base models cannot be kept in 4 bits: without bitsandbytes, or on Apple's GPU."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "fine_tuning.qlora = true needs bitsandbytes, which is not installed: pip install 'lora-tui[qlora]'. "
            "Or set it to false."
        )
    if device.type not in ("cuda", "cpu"):
        raise ConfigError(
            "fine_tuning.qlora = true works on NVIDIA cards and, slowly, on the CPU. "
            'Set it to false, or fine_tuning.device = "cpu".'
        )


def _quantization_options(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Return ``from_pretrained``'s options for QLoRA: NF4 with double quantisation (arXiv 2305.14314)."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of faster kernels that are not installed
    four_bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": four_bits, "device_map": {"": device}}


def _disable_repacking(model: PreTrainedModel) -> PreTrainedModel:
    """Stop bitsandbytes from repacking its weights at the first evaluation on a CPU with AVX512-BF16.

    It would round their scales and, from then on, compute without autograd: training after an evaluation would get
    wrong gradients and nobody would notice.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def choose_device(setting: str) -> torch.device:
    """Return the device that ``fine_tuning.device`` means here; raises `ConfigError` for one that is missing."""
    if setting == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    device = torch.device(setting)
    missing = (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()) or (
        device.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise ConfigError(f'fine_tuning.device = "{setting}": this machine has no such device. Set "auto", or "cpu".')
    # Always with its index: "cuda" and "cuda:0" are one device, and only one run may train on it.
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def choose_dtype(setting: str, device: torch.device) -> torch.dtype:
    """Return the precision of the frozen weights: bfloat16 where the device is faster with it, else float32."""
    if setting != "auto":
        return DTYPES[setting]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported() and _bfloat16_is_faster():
        return torch.bfloat16
    return torch.float32


def _bfloat16_is_faster() -> bool:
    """Time the product of a small model's feed-forward layer both ways, in turn, the best of eight (about 0.2 s).

    What else the machine does only ever adds to a time: the median of six once said no where the rates are 3 to 1.
    """
    dtypes = (torch.float32, torch.bfloat16)
    sides = [(torch.ones(512, 1024, dtype=dtype), torch.ones(1024, 2048, dtype=dtype)) for dtype in dtypes]
    rounds = [[_product_seconds(left, right) for left, right in sides] for _ in range(_TIMED_ROUNDS)]
    return min(in_bfloat16 for _, in_bfloat16 in rounds) < 0.8 * min(in_float32 for in_float32, _ in rounds)


def _product_seconds(left: Tensor, right: Tensor) -> float:
    began = time.perf_counter()
    torch.nn.functional.linear(left, right.T)
    return time.perf_counter() - began


def _load_error(name: str, source: str, part: str, problem: BaseException) -> LoraTuiError:
    """Return an error that says in one or two lines why a model could not be loaded; `part` is what was being read."""
    log.info("loading %s failed", name, exc_info=problem)
    if "trust_remote_code" in str(problem):
        return LoraTuiError(
            f"{name} runs code of its own. If you trust its authors: --set fine_tuning.trust_remote_code=true"
        )
    path = Path(name).expanduser()
    folder = Path(source) if name == BUILTIN else path
    if not folder.exists():
        return UnreachableError(
            f"The model {name} cannot be fetched: {_first_line(problem)}\n"
            "Check fine_tuning.model_name and the connection to the Hugging Face hub, or use a local folder, "
            'a .gguf file, or "builtin".'
        )
    cannot = f"{folder} cannot be loaded as a causal language model in safetensors or GGUF form"
    reason = one_line(f"{type(problem).__name__}: {problem}", 300)
    if folder.is_file():
        return LoraTuiError(f"{cannot}: the {part} in it cannot be read ({reason}).")
    named = (tokenizer_problem(folder) if part == "tokenizer" else None) or _config_problem(folder)
    if named is not None:
        return LoraTuiError(f"{cannot}: {named}")
    files = "tokenizer.json or tokenizer_config.json" if part == "tokenizer" else "config.json or its safetensors files"
    return LoraTuiError(f"{cannot}: something in {files} is wrong ({reason}).")


def _config_problem(folder: Path) -> str | None:
    """Return what transformers has against a config.json; None where that is not what is wrong."""
    try:
        AutoConfig.from_pretrained(folder)
    except Exception as problem:  # noqa: BLE001  # whatever it is, it is about this file
        return f"{folder / 'config.json'}: {one_line(str(problem), 300)}"
    return None


def _first_line(problem: BaseException) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return (lines or [type(problem).__name__])[0][:200]
