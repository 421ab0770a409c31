"""Attacks, one file each; a new one is a file and a line here. Their names stand in inputs and files, and stay."""

from .attack import Asked, Attack, Budget, Case, Concept
from .behind_tags import BehindTags
from .by_name import ByName
from .completion import Completion
from .concept_direction import ConceptDirection
from .img2img import Img2img
from .inpainting import Inpainting
from .inversion import Inversion
from .learned_embedding import LearnedEmbedding
from .noise_probe import NoiseProbe
from .other_names import OtherNames
from .relearning import Relearning
from .ring_a_bell import Search
from .soft_prompt import SoftPrompt
from .token_search import TokenSearch

ATTACKS: dict[str, Attack] = {
    attack.name: attack
    for attack in (
        ByName(), OtherNames(), ConceptDirection(), TokenSearch(), BehindTags(), SoftPrompt(), Relearning(),
        Completion(), Img2img(), Inpainting(), NoiseProbe(), LearnedEmbedding(), Inversion(),
    )
}  # fmt: skip
"""Those that need the text encoder alone; those that learn on the model; and then the slow ones."""
USUAL = tuple(name for name, attack in ATTACKS.items() if not attack.slow)
"""Those that are run if nothing else is asked for."""

__all__ = ["ATTACKS", "USUAL", "Asked", "Attack", "Budget", "Case", "Concept", "Search"]
