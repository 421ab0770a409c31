"""A closed form behind a text gate: the same erasure in prompts for the concept, and nothing at all in others."""

from dataclasses import replace
from itertools import product

import comfy.model_management
import pytest
import torch

from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.exchange import lora_tensors
from concept_erasure.erasure.files import load_erasure, save_erasure
from concept_erasure.erasure.gated import is_gated, of_the_gate
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.host.latents import latent_shape
from concept_erasure.erasure.host.subject import subject
from concept_erasure.erasure.parts.gate import is_open
from concept_erasure.erasure.texts.encoder import Encoder
from concept_erasure.erasure.texts.phrases import gate_texts
from concept_erasure.erasure.training import gate as gates
from concept_erasure.erasure.training.gate import build_gate
from concept_erasure.nodes.instant import ErasureInstant, ErasureText
from concept_erasure.nodes.use import ErasureApply
from tests import worlds as loading
from tests.host.test_every_node import call, encoded
from tests.host.test_stacking import drawn
from tests.host.tools import difference, sample
from toyworld.worlds import WORLDS

KEPT = "square\nheart\nstar\nred\nblue"
SPOKEN = ("a red circle", "a blue circle on a dotted background", "circle")
OTHERS = ("a red square", "a blue star on a dotted background", "heart", "")
UNLISTED = ("a {} {}", "a {} {}, striped background", "my grandmother, a {} {}, seen from below")
COLOURS, OTHER_SHAPES = ("green", "yellow", "purple"), ("triangle", "moon", "cross")
FAR = ("wooden frame", "rainy afternoon", "shallow focus", "very old", "quiet", "made of clay", "in a museum", "misty")
TRAINED = [name for name in ("unet", "sdxl", "flux", "z_image", "anima") if WORLDS[name].checkpoint.exists()]
"""Text by each layer and at one entry, with a pooled text and without, behind a norm and behind an adapter."""


@pytest.fixture(scope="module", params=TRAINED)
def world(request):
    """(MODEL, CLIP, the erasure of "circle" behind a gate, what its node says, and the erasure without one)."""
    model, clip, _ = loading.load(WORLDS[request.param].checkpoint)
    given = {"model": model, "clip": clip, "concepts": "circle", "preserve": KEPT}
    out = call(ErasureInstant, **given, gated=True)
    return model, clip, out.args[0], out.ui.as_dict()["text"][0], call(ErasureInstant, **given).args[0]


def latents(model, clip, text: str, cfg: float = 3.0) -> torch.Tensor:
    noise = torch.randn(1, *latent_shape(model, 64, 64), generator=torch.Generator().manual_seed(0))
    return sample(model, encoded(clip, text), encoded(clip, ""), noise=noise, cfg=cfg)


def test_prompts_for_others_are_the_same_to_the_bit_and_prompts_for_it_as_without_a_gate(world):
    model, clip, erasure, said, plain = world
    assert is_gated(erasure) and not erasure.delta
    gated, ungated = attach.erase(model, erasure), attach.erase(model, plain)
    for text in OTHERS:
        assert torch.equal(latents(gated, clip, text), latents(model, clip, text)), text
    for text in SPOKEN:
        before, after, wanted = (latents(one, clip, text) for one in (model, gated, ungated))
        effect = difference(wanted, before)
        assert effect > 1 and difference(after, wanted) < 0.25 * effect, text
    assert said.startswith("✓ circle → ") and "⚠" not in said and "✗" not in said
    assert 'The text gate opens for "circle" and for none of ' in said


def test_it_opens_for_no_others_that_nobody_listed_and_for_the_name_far_back(world):
    model, clip, erasure, *_ = world
    here, encode = subject(model), Encoder(clip, entry=subject(model))
    encode = here.reader(clip) if here.front and not here.adapts else encode
    [part] = erasure.parts
    other = [text.format(a, b) for text in UNLISTED for a, b in product(COLOURS, OTHER_SHAPES)]
    assert not [text for text, rows in zip(other, encode.rows(other), strict=True) if is_open(rows[None], part.gate)]
    if here.kind != "ToyWorld":  # whose text encoder hardly knows names far back
        far = [f"{', '.join(FAR[:count])}, a red circle" for count in range(4, len(FAR))]
        assert all(bool(is_open(rows[None], part.gate)) for rows in encode.rows(far))


def test_half_of_it_lies_between_and_none_is_off(world):
    model, clip, erasure, *_ = world
    before, half, whole = (latents(call(ErasureApply, model=model, erasure=erasure, strength=strength).args[0], clip,
                                   SPOKEN[0], cfg=1.0) for strength in (0.0, 0.5, 1.0))  # fmt: skip
    assert torch.equal(before, latents(model, clip, SPOKEN[0], cfg=1.0))
    assert 0 < difference(half, before) < difference(whole, before)


def test_a_file_of_it_draws_the_same_and_a_lora_cannot_hold_it(world, tmp_path):
    model, clip, erasure, *_ = world
    save_erasure(erasure, tmp_path / "gated.safetensors")
    read = load_erasure(tmp_path / "gated.safetensors")
    draws = [latents(attach.erase(model, one), clip, SPOKEN[1]) for one in (erasure, read)]
    assert torch.equal(*draws) and erasure.bytes() < 1e6
    with pytest.raises(ErasureError, match="changes no weights"):
        lora_tensors(model, read)


@pytest.mark.parametrize("first", [True, False], ids=["gated first", "gated last"])
def test_in_a_row_with_another_nothing_comes_back(toys, first):
    """What became of the first concept is erased by the second node, and both move on."""
    given = {"clip": toys.clip, "preserve": "square\ntriangle\nstar\ncross\nmoon\nred\nblue\nstriped\nplain"}
    one = call(ErasureText, model=toys.model, concept="circle -> ring", gated=first, **given).args[0]
    out = call(ErasureText, model=one, concept="ring", gated=not first, **given)
    assert "✗" not in out.ui.as_dict()["text"][0]
    assert max(drawn(toys, out.args[0], ["circle", "ring"]).values()) <= 0.1


def test_beside_other_texts_alone_the_gate_is_asked_for_those(toys):
    """Not for the name by itself, for which it is to stay closed."""
    given = {"model": toys.model, "clip": toys.clip, "concepts": "circle", "preserve": KEPT, "only_in": "red"}
    out = call(ErasureInstant, **given, gated=True)
    text = out.ui.as_dict()["text"][0]
    assert "stays closed for" not in text
    gated = attach.erase(toys.model, out.args[0])
    for text, is_same in (("a blue circle", True), ("a red circle", False)):
        assert torch.equal(latents(gated, toys.clip, text), latents(toys.model, toys.clip, text)) == is_same, text


def test_long_preserved_texts_are_not_read_behind_filler(toys):
    long = (
        "a large old house with a red roof, seen from the garden behind it on a rainy afternoon in late autumn, misty"
    )
    given = {"model": toys.model, "clip": toys.clip, "preserve": f"{KEPT}\n{long}"}
    out = call(ErasureInstant, **given, concepts="circle\nmoon", gated=True)
    assert "The text gate opens for" in out.ui.as_dict()["text"][0]


def test_large_encodings_are_fitted_to_fewer_texts(toys, monkeypatch):
    encode, texts = Encoder(toys.clip), gate_texts(["circle"], KEPT.split("\n"))
    read: list[int] = []

    def noted(encode, parts):
        read.extend(map(len, parts))
        return plain_and_weighted(encode, parts)

    plain_and_weighted = gates._plain_and_weighted
    monkeypatch.setattr(gates, "_plain_and_weighted", noted)
    for room in (gates.BYTES, 10 << 20):
        monkeypatch.setattr(gates, "BYTES", room)
        gates.build_gate(encode, ["circle"], KEPT.split("\n"), texts)
    assert read[:2] == [len(part) for part in texts] and all(
        2 * few < many for few, many in zip(read[2:], read[:2], strict=True)
    )


def texts_of_a_small_gate() -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    speaking, silent = (torch.randn(12, 5, 8, generator=g) for _ in range(2))
    speaking[:, 2] += 3.0
    return [speaking, silent]


def test_a_gate_is_fitted_on_the_gpu_and_on_the_cpu_where_that_has_no_room(monkeypatch):
    texts, fit_gate, asked = texts_of_a_small_gate(), gates.fit_gate, []
    expected = gates.fitted(*texts)

    def without_room(*args, device=None, **more):
        asked.append(device and device.type)
        if device is not None:
            raise torch.cuda.OutOfMemoryError
        return fit_gate(*args, **more)

    monkeypatch.setattr(gates, "fit_gate", without_room)
    monkeypatch.setattr(comfy.model_management, "get_torch_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(comfy.model_management, "free_memory", lambda size, device: asked.append(size))
    found = gates.fitted(*texts)
    assert asked == [gates.COPIES * 4 * sum(part.numel() for part in texts), "cuda", None]
    torch.testing.assert_close(found.direction, expected.direction)


def test_cancel_ends_the_fit_of_a_gate():
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        gates.fitted(*texts_of_a_small_gate())


def test_a_gate_that_opens_for_none_or_for_all_is_said(toys):
    encode = Encoder(toys.clip)
    texts = gate_texts(["circle"], KEPT.split("\n"))
    gate, gap = build_gate(encode, ["circle"], KEPT.split("\n"), texts)
    marks = {
        shift: of_the_gate(encode, replace(gate, threshold=gate.threshold + shift), gap, ["circle"], texts)[0].mark
        for shift in (0.0, 1e4, -1e4)
    }
    assert marks == {0.0: "✓", 1e4: "✗", -1e4: "⚠"}


def test_what_cannot_be_behind_a_gate_is_refused_in_a_sentence(toys):
    with pytest.raises(ErasureError, match="choose another method"):
        call(
            ErasureInstant, model=toys.model, clip=toys.clip, concepts="circle", preserve=KEPT, method="oce", gated=True
        )
