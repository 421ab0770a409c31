"""Attacks, one file each; a new one is a file and a line here. Their names stand in inputs and files, and stay."""

from .attack import Asked, Attack, Budget, Case, Concept
from .behind_tags import BehindTags
from .by_name import ByName
from .concept_direction import ConceptDirection
from .other_names import OtherNames
from .relearning import Relearning
from .ring_a_bell import Search
from .soft_prompt import SoftPrompt
from .token_search import TokenSearch

ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        ByName(), OtherNames(), ConceptDirection(), TokenSearch(), BehindTags(), SoftPrompt(), Relearning(),
    )
}  # fmt: skip
"""Those that need the text encoder alone, and then those that learn on the model."""

__all__ = ["ATTACKS", "Asked", "Attack", "Budget", "Case", "Concept", "Search"]
