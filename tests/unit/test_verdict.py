"""What a verdict says of how far texts moved."""

import pytest

from concept_erasure.erasure.verdict import Movement, judge


@pytest.mark.parametrize(
    ("share", "total", "mark", "words"),
    [
        (0.97, 0.97, "✓", "circle → heart: moved 97 % of the way."),
        (1.0, 1.5, "⚠", "moved 150 % of the way, past it, so something else may be drawn: lower the strength."),
        (0.4, 0.4, "⚠", "moved only 40 % of the way, so it may still be drawn."),
        (0.4, 1.5, "⚠", "moved only 40 % of the way"),
        (0.05, 0.05, "✗", "so it is still drawn."),
    ],
)
def test_only_a_concept_that_arrived_and_went_no_further_gets_a_check_mark(share, total, mark, words):
    verdict = judge(Movement({"circle": share}, {}, {"circle": total}), {"circle": "heart"})
    assert verdict.mark == mark and words in verdict.text()


def test_of_many_concepts_the_worst_come_first_and_each_mark_has_its_own_count():
    concepts = {f"doubtful {i}": 0.5 for i in range(10)} | {f"drawn {i}": 0.0 for i in range(9)} | {"gone": 1.0}
    text = judge(Movement(concepts, {}), {}).text().splitlines()
    assert [line[0] for line in text] == ["✗"] * 9 + ["⚠"] * 9 + ["✓"]
    assert text[8] == "✗ … and 1 more like these." and text[17] == "⚠ … and 2 more like these."
