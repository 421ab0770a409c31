"""The table in docs/families.md, from what the pack knows of tiny networks and what has been measured.

Run in the host's environment, to bring the page up to date: ``python3 scripts/run.py scripts.families_table``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from . import bootstrap

if __name__ == "__main__":
    bootstrap.host_on_cpu()  # before anything of the host is imported

from tests import families  # noqa: E402

REPO = Path(__file__).resolve().parent.parent
PAGE = REPO / "docs" / "families.md"
MEASURED = REPO / "benchmarks" / "results" / "families.json"
BEGIN, END = "<!-- written by scripts/families_table.py -->\n", "<!-- end -->\n"
HEAD = ("model", "text enters by", "pooled text by", "closed form", "prompt", "key", "learned delta", "LoRA", "fp8")
WORLDS = {
    "SD 1.x": "unet", "SDXL": "sdxl", "Flux.1": "flux", "Z-Image": "z_image", "Anima": "anima",
    "Qwen-Image": "qwen_image",
}  # fmt: skip
"""Models -> the trained worlds in which they are measured."""
SAME = ("Flux.1 schnell", "SD 3.5 with layers in front")
"""Tiny networks that are no model of their own."""
YES, CONTRACT, NO = "**measured**", "by contract", "refused"
NONE = "–"


def measured() -> Mapping[str, Mapping]:
    """Trained worlds -> what was measured in them; the oldest one's figures are in files of their own, too."""
    known: dict[str, Mapping] = {}
    if MEASURED.exists():
        families_there = json.loads(MEASURED.read_text(encoding="utf-8"))["families"]
        known = {name: facts for name, facts in families_there.items() if facts.get("world") == "trained"}
    known["unet"] = {**known.get("unet", {}), **dict.fromkeys(("instant", "prompt_only", "recommended"), True)}
    return known


def row(name: str, facts: Mapping) -> list[str]:
    """Of one model, with what was measured in its world."""
    from concept_erasure.erasure.host.subject import subject

    here = subject(families.load(families.TINY[name]))
    pooled = here.family.pooled_entry(here.model.model)
    learns = CONTRACT if here.family.learns else NO
    joins = CONTRACT if here.family.blocks(here.model.model) else NO

    def known(part: str, otherwise: str) -> str:
        return YES if facts.get(part) else otherwise

    return [
        name,
        ", ".join(dict.fromkeys(map(short, here.entry))),
        short(pooled) if pooled else NONE,
        known("instant", CONTRACT),
        known("prompt_only", joins),
        known("recommended", joins),
        known("recommended", learns),
        known("instant", CONTRACT),
        CONTRACT,
    ]


def short(weight: str) -> str:
    """A layer's name; of one that all blocks have, that within a block."""
    layer = weight.removesuffix(".weight").removeprefix("diffusion_model.")
    return f"`{re.sub(r'^.*blocks[.][0-9]+[.]', '', layer)}`"


def table() -> str:
    facts = measured()
    rows = [row(name, facts.get(WORLDS.get(name, ""), {})) for name in families.TINY if name not in SAME]
    rows += [[name, NONE, NONE, *[NO] * (len(HEAD) - 3)] for name in families.REFUSED]
    return lines([HEAD, ["---"] * len(HEAD), *rows])


def lines(rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def page() -> str:
    """The page with the table as it has to be."""
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
