"""The worked examples in CONTRIBUTING.md, taken from its text, put where they say they belong, and used."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path

import pytest
import torch

from concept_erasure.erasure import combine, families, instant, learning
from concept_erasure.erasure.artifact import Erasure, ErasureError, Metadata
from concept_erasure.erasure.closed_form import CLOSED_FORM
from concept_erasure.erasure.evaluation.attacks import ATTACKS, Case, Concept
from concept_erasure.erasure.files import load_erasure, save_erasure
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.instant import Instant
from concept_erasure.erasure.methods import LEARNED
from concept_erasure.erasure.parts import PARTS
from concept_erasure.erasure.parts.delta import changing
from concept_erasure.erasure.texts.encoder import Encoder
from tests.families import TINY, load
from tests.host import test_locales, test_methods
from tests.host.test_families import Case as TinyCase
from tests.host.test_methods import prepare  # noqa: F401, a fixture
from tests.host.tools import sample

REPO = Path(__file__).resolve().parents[2]
PAGE = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
CODE = dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))
"""Each example by the file that it is, or belongs into."""
LINES = dict(re.findall(r"^```diff\n# (\S+)\n\+ +(.*),\n```", PAGE, re.MULTILINE))
"""The line that each registry gets, by its file."""
LOCALES = [json.loads(text) for text in re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)]
USED = set()


@pytest.fixture
def module(monkeypatch):
    """The module that an example becomes, in the pack."""

    def made(path: str) -> types.ModuleType:
        USED.add(path)
        name = "concept_erasure." + path.removesuffix(".py").replace("/", ".")
        out = types.ModuleType(name)
        out.__package__ = name.rpartition(".")[0]
        monkeypatch.setitem(sys.modules, name, out)
        exec(compile(CODE[path], path, "exec"), out.__dict__)
        return out

    return made


def registered(path: str, example: types.ModuleType):
    """What an example's line in a registry stands for."""
    USED.add(path)
    own = {example.__name__.rpartition(".")[2]: example, **vars(example)}
    return eval("{" + LINES[path] + "}", own)


def test_the_method_trains_and_its_own_test_passes(module, prepare, model, monkeypatch):  # noqa: F811
    example = module("erasure/methods/random_text.py")
    [(name, method)] = registered("erasure/methods/__init__.py", example).items()
    monkeypatch.setitem(LEARNED, name, method)
    learned = prepare(name)
    with learning.gradients():
        erasure = learning.learn(learned)
    assert erasure.metadata.method == name and attach.erase(model, erasure) is not model
    path = "tests/host/test_methods.py"
    USED.add(path)
    space = dict(vars(test_methods))
    exec(compile(CODE[path], path, "exec"), space)
    space["test_random_text_aims_at_preserved_texts"](prepare, monkeypatch)


def test_the_closed_form_method_erases(module, toys, monkeypatch):
    example = module("erasure/closed_form/time_edit.py")
    [(name, edit)] = registered("erasure/closed_form/__init__.py", example).items()
    monkeypatch.setitem(CLOSED_FORM, name, edit)
    erasure = instant.erase_instantly(toys.model, toys.clip, "circle", "square\nred", Instant(method=name))
    assert erasure.delta and erasure.metadata.method == name
    assert "circle → square: moved 9" in erasure.metadata.verdict


def test_the_family_is_the_one_that_is_there_and_reads_the_text(module, monkeypatch):
    path = "erasure/families/pixart.py"
    assert CODE[path] == (REPO / path).read_text(encoding="utf-8"), "the page says that it is the whole file"
    model = load(TINY["PixArt"])
    others = tuple(family for family in families.FAMILIES if family.name != "PixArt")
    monkeypatch.setattr(families, "FAMILIES", others)
    with pytest.raises(ErasureError):
        subject(model)
    example = module(path)
    [family] = registered("erasure/families/__init__.py", example)
    monkeypatch.setattr(families, "FAMILIES", (*others, family))
    case = TinyCase("PixArt")
    assert case.here.family is family and set(case.erasure.delta) == {f"diffusion_model.{family.entries[0]}.weight"}
    assert not torch.equal(case.base, case.draw(attach.erase(case.model, case.erasure)))


def test_the_attack_asks_for_the_concept(module, clip, monkeypatch):
    example = module("erasure/evaluation/attacks/misspelt.py")
    [attack] = registered("erasure/evaluation/attacks/__init__.py", example)
    monkeypatch.setitem(ATTACKS, attack.name, attack)
    concept = Concept(["circle", "x"])
    prompts = ATTACKS["misspelt"].ask(Case(Encoder(clip), concept)).prompts
    assert len(prompts) == attack.prompts(concept, None) == 8
    assert any("cicrle" in text for text in prompts) and not any("circle" in text for text in prompts)
    assert all(cond[0][0].shape[1] == 77 for cond in prompts.values())


def test_the_part_is_stored_applied_and_combined(module, model, cond, gated, tmp_path, monkeypatch):
    example = module("erasure/parts/projection.py")
    [kind] = registered("erasure/parts/__init__.py", example)
    monkeypatch.setitem(PARTS, kind.kind, kind)
    token = cond("a circle")[0][0][0, 2]
    made = Erasure(Metadata(concept="circle", **subject(model).stamp()), (kind(token / token.norm()),))
    save_erasure(made, tmp_path / "x.safetensors")
    erasure = load_erasure(tmp_path / "x.safetensors")
    assert erasure.identity() == made.identity() and erasure.beside == erasure.parts
    text, nothing = cond("a circle"), cond("")
    base, erased, half = (sample(attach.erase(model, erasure, strength), text, nothing) for strength in (0.0, 1.0, 0.5))
    assert torch.equal(base, sample(model, text, nothing))
    assert (half - base).norm() > 0 and (erased - base).norm() > 0
    other = Erasure(gated.metadata, changing(gated.delta))
    together = combine.combine([erasure, other])
    assert {part.kind for part in together.parts} == {"projection", "delta"}
    stacked = attach.erase(attach.erase(model, erasure), other)
    both = (sample(m, text, nothing) for m in (attach.erase(model, together), stacked))
    torch.testing.assert_close(*both)
    monkeypatch.delitem(PARTS, kind.kind)
    with pytest.raises(ErasureError, match="projection"):
        load_erasure(tmp_path / "x.safetensors")


def test_the_node_runs_and_its_locales_name_what_it_has(module, gated):
    [node] = module("nodes/names.py").NODES
    schema = node.define_schema()
    assert node.execute(gated).result == ("circle",)
    assert all(one.tooltip for one in (*schema.inputs, *schema.outputs))
    english, german = (language[schema.node_id] for language in LOCALES)
    assert english == {"display_name": schema.display_name, "description": schema.description}
    assert set(german["inputs"]) == {one.id for one in schema.inputs} and set(german["outputs"]) == {"0"}
    assert set(german) == {"display_name", "description", "inputs", "outputs"} and len(test_locales.TRANSLATIONS) == 10


def test_every_example_was_used():
    """Last, for it looks at what the others did."""
    assert {*CODE, *LINES} == USED and len(CODE) == PAGE.count("```python") and len(LINES) == PAGE.count("```diff")
