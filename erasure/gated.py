"""A closed form behind a text gate: prompts for which the gate stays closed are left to the bit as they were.

An edited projection is W (I + G) with the same G for every layer (``closed_form/textmap.py``), so changing the weights
and giving them the text c + G c is the same. The text can be changed for one prompt and not for the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from . import only_in
from .artifact import Change, Erasure, ErasureError, LowRank, Probe
from .closed_form.textmap import Edit, TextMap
from .families.family import KEYS_AND_VALUES
from .host.subject import Subject, subject
from .parts.delta import add
from .parts.gate import GateTensors, is_open
from .parts.part import Part
from .parts.prompt import PromptTensors
from .phrased import Texts
from .protocols import Model
from .texts.encoder import Encoder
from .texts.names import is_form_of, quoted
from .texts.phrases import GateTexts, gate_texts, of_common_words
from .training.gate import build_gate
from .verdict import Finding

BLOCKS = "all"


def check_gate(model: Model, weights: str) -> None:
    """Raises ErasureError for a model in which nothing can join what reads the text, and for a choice of ``weights``
    that do not all read it."""
    here = subject(model)
    if weights != KEYS_AND_VALUES:
        raise ErasureError(
            f"'gated' changes the text, which keys and values both read, and 'weights' is {weights}: set it to "
            f"{KEYS_AND_VALUES}."
        )
    if BLOCKS not in here.family.blocks(model.model) or _scale(here) is None:
        raise ErasureError(
            f"In {here.family.name} models nothing can join a single prompt, which 'gated' needs: switch it off."
        )


def behind_gate(
    model: Model, encode: Encoder, texts: Texts, edit: Edit, pooled: Edit | None
) -> tuple[PromptTensors, list[Finding]]:
    """The edit of a closed form, and that of the pooled text, as a part that acts where its gate is open, and what
    there is to say of that gate. Raises ErasureError for a method whose edit is no map of the text."""
    if not isinstance(edit, TextMap):
        raise ErasureError(
            "'oce' changes each layer in its own way, and 'gated' needs one change: choose another method."
        )
    here = subject(model)
    reader = here.reader(encode.clip, encode.on_read) if here.front and not here.adapts else encode
    kept = reader.beside(texts.names, texts.kept)
    said = only_in.gate_texts(texts.names, texts.contexts, kept) if texts.contexts else gate_texts(texts.names, kept)
    gate, gap = build_gate(reader, texts.names, kept, said)
    empty = torch.zeros(0, here.width)
    turn = _low_rank(edit, _scale(here))
    of_pooled = _low_rank(pooled, None) if isinstance(pooled, TextMap) else None
    chunk = len(reader.rows([""])[0])
    part = PromptTensors(empty, empty, BLOCKS, "eraser", chunk, gate, turn=turn, pooled_turn=of_pooled)
    return part, of_the_gate(reader, gate, gap, texts.names, (said[0], [*said[1], *of_common_words(texts.names)]))


def of_the_gate(
    encode: Encoder, gate: GateTensors, gap: float, names: Sequence[str], texts: GateTexts
) -> list[Finding]:  # fmt: skip
    """What a gate does with texts that speak of the concepts and with others; ``gap``: of gates that had seen one half
    of them and were asked for the other."""
    speaking, silent = ([bool(is_open(rows[None], gate)[0]) for rows in encode.rows(part)] for part in texts)
    own = {name: [one for text, one in zip(texts[0], speaking, strict=True) if name in text] for name in names}
    closed = [name for name, some in own.items() if 2 * sum(some) < len(some)]
    if closed:
        words = f"The text gate stays closed for {quoted(closed[:3])}, and that is drawn as before: switch 'gated' off."
        return [Finding("✗", words)]
    if gap <= 0 or any(silent):
        words = "The text gate does not tell the concept from all that stays, so some other prompts may change, too."
        return [Finding("⚠", words)]
    return [
        Finding(
            "✓",
            f"The text gate opens for {quoted(names[:3])} and for none of {len(silent)} other texts; where it stays "
            "closed, pictures are the same to the bit.",
        )  # fmt: skip
    ]


def _scale(here: Subject) -> torch.Tensor | None:
    """The text [d], in front of a norm, of which the entry is given ones; None where that cannot be told."""
    scale = here.family.raw(here.model.model, torch.ones(1, here.width))
    return None if scale is None else scale[0].double()


def _low_rank(edit: TextMap, scale: torch.Tensor | None) -> LowRank:
    """G of an edit, for texts in front of a norm where there is one."""
    up, down = edit.moves.T.double().cpu(), edit.reads.double().cpu()
    if scale is not None:
        up, down = scale[:, None] * up, down / scale
    return LowRank(up.float().contiguous(), down.float().contiguous())  # as a file gives them back


# ---------------------------------------------------------------- what it does, for the verdict


def turns(part: Part) -> bool:
    """Whether a part is such a closed form."""
    return isinstance(part, PromptTensors) and part.is_turn


def is_gated(erasure: Erasure) -> bool:
    """Whether all that an erasure does is behind such a gate."""
    return bool(erasure.erasers) and all(map(turns, erasure.erasers))


def changes_of(model: Model, erasure: Erasure, weights: Mapping[str, torch.Tensor]) -> Mapping[str, Change]:
    """What an erasure changes of weights [out, d], with what parts behind gates amount to where these are open."""
    delta = erasure.delta
    maps = [_in_entry(model, part) for part in _turns(erasure)]
    if not maps:
        return delta
    out = dict[str, Change]()
    for name, weight in weights.items():
        own = [(delta[name], 1.0)] if name in delta else []
        out[name] = add([*own, *((LowRank(weight.float().cpu() @ turn.up, turn.down), 1.0) for turn in maps)])
    return out


def change_of_pooled(erasure: Erasure, weight: torch.Tensor) -> Change | None:
    """The same of the columns [out, d'] that read the pooled text; None where no part turns that."""
    maps = [part.pooled_turn for part in _turns(erasure) if part.pooled_turn is not None]
    return add([(LowRank(weight.float().cpu() @ turn.up, turn.down), 1.0) for turn in maps]) if maps else None


def turned_by(gated: Sequence[tuple[Erasure, float]], model: Model, probe: Probe) -> torch.Tensor:
    """The encodings [r, d] of a probe as erasures behind gates turn them, each at its strength, one after the other;
    those that are not made for its text leave it."""
    rows = probe.source.float()
    for erasure, strength in gated:
        if any(is_form_of(probe.text, name) for name in erasure.names):
            for part in _turns(erasure):
                turn = _in_entry(model, part)
                rows = rows + strength * (rows @ turn.down.T @ turn.up.T)
    return rows


def _turns(erasure: Erasure) -> list[PromptTensors]:
    return [part for part in erasure.erasers if isinstance(part, PromptTensors) and part.turn is not None]


def _in_entry(model: Model, part: PromptTensors) -> LowRank:
    """The turn of a part as it is behind a norm, where there is one."""
    assert part.turn is not None
    scale = _scale(subject(model))
    if scale is None:
        return part.turn
    return LowRank((part.turn.up.double() / scale[:, None]).float(), (part.turn.down.double() * scale).float())
