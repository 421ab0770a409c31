"""What is on a MODEL already is known to the next node: a key, the same erasure, several kinds in one."""

import pytest
import torch

from concept_erasure.erasure.artifact import ErasureError
from concept_erasure.erasure.combine import combine, conflicts
from concept_erasure.erasure.files import load_erasure
from concept_erasure.erasure.host import attach
from concept_erasure.erasure.training.setting_up import check_resume
from concept_erasure.nodes.instant import ErasureInstant, ErasureText
from concept_erasure.nodes.report import ErasureReport
from concept_erasure.nodes.use import ErasureApply, ErasureRecover
from tests import worlds as loading
from tests.host.test_every_node import DRAWING, PROMPTS, call
from toyworld.train import CHECKPOINT
from toyworld.worlds import WORLDS

KEPT = "square\nheart\nred\ndotted"


@pytest.fixture(scope="module")
def circle():
    """The trained erasure that comes with the toy world, read as a node reads it."""
    with torch.inference_mode():
        return load_erasure(CHECKPOINT.with_name("erasures") / "circle.safetensors")


@pytest.fixture(scope="module")
def star(toys):
    return call(ErasureInstant, model=toys.model, clip=toys.clip, concepts="star", preserve=KEPT).args[0]


def said(out) -> str:
    return out.ui.as_dict()["text"][0]


def test_what_was_read_from_a_file_can_be_learned_through(circle, star):
    with torch.inference_mode():
        both = combine([circle, star])
    for erasure in (circle, both):
        assert not any(t.is_inference() for part in erasure.parts for t in part.tensors().values())


def test_a_key_in_front_is_said_and_is_not_put_on_twice(toys, circle):
    erased = attach.erase(toys.model, circle)
    recovered = call(ErasureRecover, model=erased, erasure=circle).args[0]
    for out in (
        call(ErasureText, model=recovered, clip=toys.clip, concept="circle", preserve=KEPT),
        call(ErasureApply, model=recovered, erasure=circle),
    ):
        assert '✗ The key for "circle" is on the connected model and brings it back' in said(out)
    with pytest.raises(ErasureError, match="is on this model already"):
        call(ErasureRecover, model=recovered, erasure=circle.key_only())
    assert "key" not in said(call(ErasureText, model=recovered, clip=toys.clip, concept="star", preserve=KEPT))


def test_the_same_erasure_twice_is_said(toys, circle, star):
    once = call(ErasureApply, model=toys.model, erasure=star).args[0]
    for again in (star, combine([star, circle])):
        assert "⚠ This erasure is on the connected model already" in said(call(ErasureApply, model=once, erasure=again))
    assert "already" not in said(call(ErasureApply, model=once, erasure=circle))


def test_of_several_in_one_the_key_is_said_for_what_it_brings_back(toys, circle, star):
    both = combine([star, circle])
    erased = call(ErasureApply, model=toys.model, erasure=both).args[0]
    out = call(ErasureRecover, model=erased, erasure=both)
    assert "key for circle is on" in said(out) and "star" not in said(out)
    behind = call(ErasureText, model=out.args[0], clip=toys.clip, concept="star", preserve=KEPT)
    assert "key" not in said(behind)


def test_an_erasure_and_its_key_are_put_together_again(circle, star):
    apart = [circle.without_key(), circle.key_only()]
    assert not conflicts(apart) and combine(apart).recovered == ["circle"]
    other = combine([star, circle.key_only()])
    assert (other.names, other.recovered, other.metadata.parts) == (["star"], ["circle"], star.identity())


@pytest.mark.parametrize("order", [1, -1], ids=["solved first", "gated first"])
def test_each_of_several_kinds_is_judged_by_its_own_concept(toys, star, order):
    gated = call(
        ErasureInstant, model=toys.model, clip=toys.clip, concepts="circle", preserve=f"{KEPT}\nstar", gated=True
    )
    both = combine([star, gated.args[0]][::order])
    text = said(call(ErasureApply, model=toys.model, erasure=both))
    assert text.startswith("✓ star → ") and " circle → " in text and "✗" not in text and "⚠" not in text


def test_training_does_not_go_on_from_a_key_alone(toys, circle):
    with pytest.raises(ErasureError, match="a key alone"):
        check_resume(toys.model, ["circle"], None, circle.key_only())


def test_a_clip_of_another_model_is_refused_before_anything_is_drawn(toys):
    _, foreign, _ = loading.load(WORLDS["sdxl"].checkpoint)
    models = {"model_before": toys.model, "model_after": toys.model, "clip": foreign, "vae": toys.vae}
    with pytest.raises(ErasureError, match="connect the CLIP that belongs to this model"):
        call(ErasureReport, **models, **PROMPTS, **DRAWING)


def test_no_number_is_refused_by_name(toys, star):
    with pytest.raises(ErasureError, match="'start_percent' is nan"):
        call(ErasureApply, model=toys.model, erasure=star, start_percent=float("nan"))


def test_a_key_alone_erases_nothing_that_another_becomes(toys, circle):
    other = call(ErasureInstant, model=toys.model, clip=toys.clip, concepts="star -> circle", preserve="heart\nred")
    whole = combine([other.args[0], circle.key_only()])
    assert whole.names == ["star"] and whole.metadata.preserve == other.args[0].metadata.preserve
