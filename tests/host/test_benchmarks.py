"""The benchmarks of methods: what they measure anew, what they keep, and how cells become a table."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks import (
    cells,
    drawn,
    drawn_plots,
    drawn_tables,
    families,
    instead,
    matched,
    peers,
    probes,
    quality,
    tables,
)
from benchmarks.cells import Cell, Results, Unedited
from benchmarks.likeness import IDENTICAL, likeness
from concept_erasure.erasure.instant import Instant
from concept_erasure.erasure.training.settings import Settings


def cell(esr1: float, psr1: float, erased: int = 24, kept: int = 168, **more) -> dict:
    """A measured cell with few figures."""
    found = {"esr1": esr1, "psr1": psr1, "kept_attributes": 1.0, "ssim": 1.0, "psnr": 50.0, "seconds": 1.0, "bytes": 1}
    return {**found, "stress": {}, "tokens": [7], "pictures": {"erased": erased, "kept": kept}, **more}


def test_rows_are_means_over_cells_and_intervals_over_pictures():
    measured = {"ESD | circle | 0": cell(1.0, 0.5), "ESD | red | 0": cell(0.5, 1.0), "UCE | red | 0": cell(0.0, 0.0)}
    [row] = tables.rows(measured, ["ESD"])
    assert (row["esr1"], row["psr1"], row["recovery"]) == (0.75, 0.75, None)
    low, high = row["interval"]["esr1"]
    assert 0.6 < low < 0.75 < high < 0.86
    assert row["range"] == {"esr1": [0.5, 1.0], "psr1": [0.5, 1.0]}
    assert (row["concepts"], row["seeds"]) == (["circle", "red"], 1)


def test_an_interval_holds_the_mean_of_cells_with_unlike_numbers_of_pictures():
    found = [cell(1.0, 1.0, erased=10, kept=1000), cell(0.0, 0.0, erased=1000, kept=10)]
    for key, part in (("esr1", "erased"), ("psr1", "kept")):
        low, high = tables.interval(found, key, part)
        assert 0.3 < low < 0.5 < high < 0.7  # as wide as what the small cell leaves open


def test_attacks_are_averaged_over_the_cells_that_have_them():
    measured = {"ESD | circle | 0": cell(1, 1, stress={"by name": 0.5}), "ESD | red | 0": cell(1, 1)}
    [row] = tables.rows(measured, ["ESD"])
    assert row["stress"] == {"by name": 0.5}


def test_ahead_are_those_that_nothing_beats_on_all():
    points = {
        "a": (1.0, 0.9, 0.5), "b": (0.9, 1.0, 0.5), "c": (0.9, 0.9, 0.5), "d": (1.0, 0.9, 0.5), "e": (1.0, 0.8, 0.5),
        "f": (0.1, 0.1, 0.6),
    }  # fmt: skip
    found = [dict(zip(("method", *tables.FRONT), (name, *own), strict=True)) for name, own in points.items()]
    assert tables.ahead(found) == ["a", "b", "d", "f"]


def test_equal_pictures_are_alike_and_others_less_so():
    pictures = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert likeness(pictures, pictures) == {"ssim": 1.0, "psnr": IDENTICAL}
    other = likeness((pictures + 0.1).clamp(0, 1), pictures)
    assert other["ssim"] < 1 and 19 < other["psnr"] < 22


def test_learned_methods_run_on_few_concepts_and_closed_forms_once_on_all():
    found = quality.cells(["ESD", "UCE"], None, (0, 1), quick=False)
    assert sum(c.method == "ESD" for c in found) == 2 * len(quality.LEARNED_ON)
    assert sorted(c.concept for c in found if c.method == "UCE") == sorted(tables.ALL)
    assert {c.seed for c in found if c.method == "UCE"} == {0}
    assert set(quality.HELD_OUT) < set(quality.LEARNED_ON)
    assert not set(quality.UNSEEN) & set(quality.LEARNED_ON)
    own = {c.concept for c in quality.cells(["recommended"], None, (0, 1), quick=False)}
    assert own == {*quality.LEARNED_ON, *quality.UNSEEN}


def test_results_outlive_a_stop_and_are_forgotten_when_settings_change(tmp_path):
    def plain(measured, unedited):
        return {"cells": measured, "unedited": unedited}

    now, other = Cell("ESD", "circle", 0, Settings()), Cell("ESD", "circle", 0, replace(Settings(), steps=3))
    results = Results(tmp_path / "found.json", plain)
    attacks = dict.fromkeys(cells.CHEAP, 0.0)
    results.add(Unedited("circle"), cell(0.0, 1.0, stress=attacks))
    results.add(now, cell(1.0, 1.0, settings=now.settings, stress=attacks))
    again = Results(tmp_path / "found.json", plain)
    again.keep_only({"ESD": now.settings})
    assert set(again.cells) == {now.name} and set(again.unedited) == {"circle"}
    again.keep_only({"ESD": other.settings})
    assert not again.cells


def test_a_method_whose_code_has_changed_can_be_measured_anew(tmp_path):
    results = Results(tmp_path / "found.json", quality.summed_up)
    results.cells = {"ESD | circle | 0": cell(1, 1), "UCE | circle | 0": cell(1, 1)}
    results.again(["UCE"])
    assert set(results.cells) == {"ESD | circle | 0"} and set(results.earlier) == {"UCE | circle | 0"}
    assert [row["method"] for row in results.write()["rows"]] == ["UCE", "ESD"]


def test_what_was_measured_before_an_attack_was_there_is_measured_anew_with_what_is_known(tmp_path, pretended):
    file, wanted = tmp_path / "found.json", [Cell("UCE", "circle", 0, Instant())]
    results = Results(file, quality.summed_up)
    cells.measure_all(wanted, results, 1.0, jobs=1)
    results.cells["UCE | circle | 0"] = cell(0.5, 1.0, settings=wanted[0].settings)
    results.unedited["circle"] = cell(0.0, 1.0)
    results.write()
    again = Results(file, quality.summed_up)
    assert not again.cells and not again.unedited and again.tokens == {"circle": [7]}
    cells.measure_all(wanted, again, 1.0, jobs=1)
    assert pretended == ["circle", "UCE | circle | 0"] * 2 and not again.earlier


def test_attacks_that_take_long_are_made_again_only_where_the_figures_moved(monkeypatch):
    figures, made = {"esr1": 1.0, "psr1": 0.5}, []
    erasure = type("Erasure", (), {"key": None, "bytes": lambda self: 1})()
    monkeypatch.setattr(cells, "make", lambda toy, one: (erasure, 1.0))
    monkeypatch.setattr(cells.attach, "erase", lambda model, erasure: model)
    monkeypatch.setattr(cells, "scored", lambda *_: dict(figures))
    monkeypatch.setattr(cells, "attacked", lambda *rest: made.append(rest[-1]) or {})
    toy, one, known = type("Toy", (), {"model": None})(), Cell("UCE", "circle", 0, Instant()), {"relearning": 0.7}
    for earlier in ({**figures, "stress": known}, {**figures, "psr1": 0.6, "stress": known}, {}):
        cells.measure(toy, one, [], earlier)
    assert made == [known, {}, {}]


@pytest.fixture
def pretended(monkeypatch):
    """Cells that are measured by nothing: the names of those that were begun."""
    begun: list[str] = []

    def run(one, tokens, earlier):
        begun.append(one.name)
        assert isinstance(one, Unedited) or tokens == [7]
        stress = dict.fromkeys(cells.CHEAP, 0.0)
        return cell(1.0, 1.0, settings=getattr(one, "settings", {}), stress=stress), 1.0

    monkeypatch.setattr(cells, "_begin", lambda threads: None)
    monkeypatch.setattr(cells, "_run", run)
    return begun


def test_the_unedited_model_comes_first_and_nothing_twice(tmp_path, pretended):
    results = Results(tmp_path / "found.json", quality.summed_up)
    wanted = quality.cells(["ESD", "UCE"], ["circle", "red"], (0,), quick=False)
    cells.measure_all(wanted, results, 1.0, jobs=1)
    assert pretended[:2] == ["circle", "red"] and len(pretended) == 6
    cells.measure_all(wanted, Results(tmp_path / "found.json", quality.summed_up), 1.0, jobs=1)
    assert len(pretended) == 6
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["method"] for row in found["rows"]] == ["UCE", "ESD"]


def test_nothing_is_begun_when_the_time_is_up(tmp_path, pretended):
    results = Results(tmp_path / "found.json", quality.summed_up)
    cells.measure_all([Cell("UCE", "circle", 0, Instant())], results, 0.0, jobs=1)
    assert pretended == []


def test_table_and_plot_are_written_from_what_there_is(tmp_path, pretended, capsys):
    results = Results(tmp_path / "found.json", quality.summed_up)
    cells.measure_all(quality.cells(["ESD", "UCE"], ["circle"], (0,), quick=False), results, 1.0, jobs=1)
    quality.write(results)
    assert (tmp_path / "found.png").stat().st_size > 1000
    text = (tmp_path / "found.md").read_text()
    assert "| **UCE** | 1.000 [0.86, 1.00], 1.00–1.00 | 1.000" in text and "held out" not in text


def test_the_page_of_figures_has_the_table_that_was_measured():
    found = json.loads(quality.FILE.read_text(encoding="utf-8"))
    text = quality.PAGE.read_text(encoding="utf-8")
    assert quality.page(text, found) == text, "run benchmarks.quality --minutes 0"


def test_a_concept_is_back_after_the_first_count_of_steps_that_brings_half_of_it():
    asked = []
    shares = {1: 0.0, 2: 0.4, 4: 0.5, 8: 1.0}
    assert probes.until_back(lambda steps: asked.append(steps) or shares[steps], (1, 2, 4, 8)) == 4
    assert asked == [1, 2, 4]
    assert probes.until_back(lambda steps: 0.1) is None


def test_the_table_of_probes_has_each_share_beside_its_control():
    shares = {name: {"after": 0.25, "control": 0.5} for name in probes.OnToy.probes}
    cells = {"UCE | circle": {"probes": shares, "relearning": {"concept": 8, "unrelated": None, "control": 4}}}
    *_, row = probes.table(cells)
    assert row == f"| UCE, circle | {' | '.join(['0.25 / 0.50'] * len(probes.OnToy.probes))} | 8 | > 32 | 4 |"


def test_methods_are_compared_where_they_erase_the_same_share():
    base = {"esr1": 0.0, "psr1_near": 0.9, "psr1_random": 1.0}
    points = [
        {**base, "esr1": esr1, "psr1_near": near} for esr1, near in ((0.0, 0.9), (0.4, 0.8), (0.6, 0.6), (0.5, 0.1))
    ]
    assert matched.at(points, 0.5, "psr1_near") == pytest.approx(0.7), "half-way between two points"
    assert matched.at(points, 0.2, "psr1_near") == pytest.approx(0.85), "from the unedited model on"
    assert matched.at(points, 0.7, "psr1_near") is None, "never erased so much"
    cells = {"unedited | dog | 0": {"scores": base}, "UCE | fox | 0": {}}
    cells["UCE | dog | 0"] = {"strengths": {str(i): point for i, point in enumerate(points[1:])}}
    for name, near in (("dog", 0.5), ("fox", 0.0)):  # what is kept of a concept that UCE did not erase does not count
        cells[f"unedited | {name} | 0"] = {"scores": base}
        cells[f"recommended | {name} | 0"] = {"strengths": {"1": {**base, "esr1": 1.0, "psr1_near": near}}}
    half = next(row for row in matched.rows(cells) if row["share"] == 0.5)
    assert half["psr1_near_of_ours"] == pytest.approx(0.7)
    assert half["psr1_near"] == 0.7 and half["cells"] == half["reached"] == 1
    assert half["psr1_near_interval"][0] < 0.7 < half["psr1_near_interval"][1]


def test_closed_forms_are_measured_once_and_on_more_subjects_which_have_figures_of_their_own():
    asked = list(drawn.wanted(["UCE", "recommended"], ["dog", "cat"], (1,)))
    assert asked[2:] == [("UCE", "dog", 0), ("recommended", "dog", 1), ("UCE", "cat", 0)]
    scores = {"esr1": 1.0, "psr1_near": 1.0, "psr1_random": 1.0, "kept_attributes": 1.0, "leaked": 0.0}
    [row] = drawn.rows({"UCE | dog | 0": {"scores": scores}, "UCE | cat | 0": {"scores": {**scores, "esr1": 0.0}}})
    assert row["objects"]["esr1"] == 1.0 and row["more_objects"]["esr1"] == 0.0 and row["concepts"] == ["dog"]


@pytest.mark.parametrize("concept", [*drawn.CONCEPTS, *drawn.MORE])
def test_near_and_far_are_apart_and_all_of_them_are_drawn_also_in_a_part_of_the_pictures(concept):
    what = drawn.erased(concept)
    assert len({*what.names, *what.near, *what.random}) == len([*what.names, *what.near, *what.random])
    shots = drawn.Drawn.__new__(drawn.Drawn).shots(concept, drawn.COUNT // 2)
    drawn_labels = {shot.label for shot in shots}
    assert {*what.near, *what.random} <= drawn_labels and {*what.names} <= drawn_labels
    own = [shot for shot in shots if shot.part == "erased"]
    if what.kind == "objects":
        assert any("hand" in shot.scene for shot in own) and any("hand" not in shot.scene for shot in own)


def test_a_row_of_the_drawn_world_is_a_mean_over_objects_and_another_over_styles():
    scores = {"psr1_near": 1.0, "psr1_random": 1.0, "kept_attributes": 1.0, "leaked": 0.0}
    found = {
        "UCE | dog | 0": {"scores": {**scores, "esr1": 1.0}, "kinds": {"implicit": {"gone": 0.75}}, "seconds": 1.0},
        "UCE | rose | 0": {"scores": {**scores, "esr1": 0.5}, "probes": {"img2img": {"after": 0.25}}},
        "UCE | nora | 0": {"scores": {**scores, "esr1": 0.0}, "kinds": {}},
    }
    [row] = drawn.rows(found)
    assert (row["objects"]["esr1"], row["styles"]["esr1"], row["theme"]["esr1"]) == (0.75, 0.0, None)
    assert (row["implicit"]["shown"], row["img2img"], row["seconds"], row["cells"]) == (0.25, 0.25, 1.0, 3)
    for lines in (drawn_tables.short([row]), drawn_tables.long([row], [])):
        assert len({line.count("|") for line in lines}) == 1, "as many cells in every line"


def test_the_pages_have_the_drawn_worlds_tables_as_measured():
    found = json.loads(drawn.FILE.read_text(encoding="utf-8"))
    rows = [found["base"], *found["rows"]]
    for page, lines in zip(
        drawn_tables.PAGES, (drawn_tables.short(rows), drawn_tables.long(rows, found["matched"])), strict=True
    ):
        text = page.read_text(encoding="utf-8")
        assert tables.put(text, drawn_tables.MARKS, lines) == text, "run benchmarks.drawn"


def test_what_people_use_instead_is_one_row_for_each_setting_that_was_drawn():
    figures = dict.fromkeys(instead.FIGURES, 0.5)
    each = [{"name": "NAG", "cfg": cfg, "steps": 12, **figures, "esr1": esr} for cfg, esr in ((4, 1), (4, 0), (1, 1))]
    assert [(row["cfg"], row["esr1"], row["concepts"]) for row in instead.summed_up(each)] == [(4, 0.5, 2), (1, 1.0, 1)]
    assert instead.table(instead.summed_up(each))[2] == "| NAG | 0.50 / 0.50 | 1.00 / 0.50 | 0.50 | 0.50 |"


def test_a_gate_acts_wholly_on_a_prompt_that_says_the_name_and_less_on_others(toys):
    gated = peers.Gated(toys, None, ["circle", "ring"])
    assert gated.acts("a red circle") == gated.acts("ring") == 1.0
    assert 0 <= gated.acts("a blue square") < 1.0


def test_families_measured_again_are_those_named_and_no_others():
    flux = SimpleNamespace(name="Flux")
    bench = SimpleNamespace(here=SimpleNamespace(family=flux), toy=SimpleNamespace(world=flux))
    bench.bit_identical, bench.cell = lambda: True, lambda part, concept: {"esr1": 1.0}
    row = {"each": {"base": {"circle": {"esr1": 0.0}}, "recommended": {"circle": {"esr1": 0.5}, "red": {"esr1": 0.5}}}}
    families.measure(bench, "recommended", ["circle", "star"], row, lambda: None)
    assert row["recommended"]["esr1"] == pytest.approx(2 / 3)  # the star alone was missing
    families.measure(bench, "recommended", ["circle"], row, lambda: None, again=True)
    assert row["each"]["recommended"]["circle"]["esr1"] == 1.0
    assert (row["each"]["recommended"]["red"]["esr1"], row["base"]["esr1"]) == (0.5, 0.0)


def test_files_together_are_scored_on_pictures_that_show_no_other_of_them(toys):
    bench = families.Bench(toys)
    bench.toy = SimpleNamespace(draw=lambda model, wanted, steps: wanted, score=lambda drawn, wanted, _: {
        "esr1": {name for shot in drawn for name in shot.scene.values()} & {*families.TOGETHER}, "psr1": len(drawn)
    })  # fmt: skip
    found = bench.score(toys.model, "circle", families.TOGETHER)
    assert found["esr1"] == {"circle"} and 0 < found["psr1"] < bench.score(toys.model, "circle")["psr1"]
    figures = {f"{way}_{key}": 0.5 for way in ("row", "joint") for key in ("esr1", "psr1", "recovery")}
    assert families.together_table({"flux": {"together": figures}, "unet": {}})[2:] == [
        "| flux | 0.50 / 0.50 | 0.50 | 0.50 / 0.50 | 0.50 |"
    ]


def test_curves_end_where_half_of_the_cells_erase_no_more():
    def sweep(*erased: float) -> list[dict]:
        return [{"esr1": share, "psr1_near": 1 - share / 2} for share in (0.0, *erased)]

    points = drawn_plots.curve({"dog": sweep(0.5), "nora": sweep(0.5, 1.0)})
    shares, kept, low, high = zip(*points, strict=True)
    assert shares[-1] == 0.5
    assert kept == pytest.approx([1 - share / 2 for share in shares])
    assert all(one < middle < other for one, middle, other in zip(low, kept, high, strict=True))
    of_other = drawn_plots.curve({"dog": sweep(0.5)}, {"dog": sweep(1.0), "nora": sweep(0.1)})
    assert [point[1] for point in of_other] == pytest.approx([1 - share / 2 for share in shares])


def test_the_drawn_world_has_its_plots(tmp_path):
    found = json.loads(drawn.FILE.read_text())
    drawn_plots.write(found, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"drawn.png", "drawn_matched.png", "drawn_completion.png"}
