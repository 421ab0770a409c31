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
