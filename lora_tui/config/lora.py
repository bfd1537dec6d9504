"""The keys of ``[fine_tuning.lora]``: which matrices are trained, how they begin, and what is trained beside them."""

from typing import Self

from pydantic import Field, model_validator

from lora_tui.config.section import Section, conflict
from lora_tui.config.values import Count, Fraction, Initialisation, ModuleNames, Pattern, TargetModules
from lora_tui.text import one_line


class Lora(Section):
    """The trained part: two thin matrices beside each targeted weight."""

    r: Count = Field(16, description="Rank of the two matrices: how much can be learned, and what it costs.")
    alpha: Count = Field(32, description="Strength: what is learned is scaled by alpha / r.")
    dropout: Fraction = Field(0.05, description="Share of inputs dropped in training, 0 to below 1; 0 is faster.")
    target_modules: TargetModules = Field(
        ["q_proj", "k_proj", "v_proj", "o_proj"],
        description='Linear layers that get the matrices, by name, or "all-linear", which learns more at some cost.',
    )
    use_rslora: bool = Field(
        False, description="Scale by alpha / √r, so that high ranks (128 and more) keep learning (rsLoRA)."
    )
    use_dora: bool = Field(
        False, description="Train the length of every weight row as well (DoRA): closer to full training, but slower."
    )
    init_lora_weights: Initialisation = Field(
        True,
        description='First values: true is LoRA\'s own, "gaussian" and "orthogonal" draw others; "pissa" (fast: '
        '"pissa_niter_16") and "olora" begin with the strongest part of the base weights.',
    )
    modules_to_save: ModuleNames = Field(
        [],
        description='Modules that are trained whole, by name, such as ["embed_tokens", "lm_head"], '
        "with optimizer.base_lr; a copy of each is kept with the adapter.",
    )
    rank_pattern: Pattern = Field(
        {}, description="Ranks of single layers, where they differ from r: the layer's name and its rank, q_proj = 8."
    )
    alpha_pattern: Pattern = Field(
        {}, description="Strengths of single layers, where they differ from alpha: the layer's name and its alpha."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        ranks = [self.r, *self.rank_pattern.values()]
        if self.init_lora_weights == "orthogonal" and any(rank % 2 for rank in ranks):
            raise conflict(["init_lora_weights", "r", "rank_pattern"], '= "orthogonal" needs ranks that are even')
        both = [name for name in self.modules_to_save if name in self.target_modules]
        if both and self.target_modules != "all-linear":
            raise conflict(
                ["modules_to_save", "target_modules"],
                f'and target_modules both name "{one_line(both[0], 40)}"; train it whole or by LoRA, not both',
            )
        return self
