"""Learned methods, by the name that the nodes show. A new one is a file here and a line below."""

from dataclasses import replace

from ..families.family import Family
from ..training.loop import Method
from ..training.settings import PRESETS, Settings
from . import (
    adaptive_target,
    all_but_one,
    concept_ablation,
    dumo,
    esd,
    forget_me_not,
    kpop,
    prompt_only,
    pruning,
    sdd,
)

LEARNED: dict[str, Method] = {
    "kpop": kpop.KPOP(),
    "prompt only": prompt_only.PromptOnly(),
    "esd": esd.ESD(),
    "sdd": sdd.SDD(),
    "concept ablation": concept_ablation.ConceptAblation(),
    "adaptive target": adaptive_target.AdaptiveTarget(),
    "all but one": all_but_one.AllButOne(),
    "forget-me-not": forget_me_not.ForgetMeNot(),
    "pruning": pruning.Pruning(),
    "dumo": dumo.DuMo(),
}


def preset_for(name: str, method: str | None = None, family: Family | None = None) -> Settings:
    """A preset's settings for a method, None for the preset's own; ``recommended`` is what was found for each. On a
    ``family``, the weights that change are the nearest that it offers."""
    settings = PRESETS[name]
    method = method or settings.method
    own = LEARNED[method].settings if name == "recommended" else {}
    settings = replace(settings, method=method, **own)
    return settings if family is None else replace(settings, weights=family.nearest(settings.weights))
