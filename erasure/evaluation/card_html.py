"""A card as one HTML file with all pictures in it, which opens anywhere and prints on a page."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from io import BytesIO

from PIL import Image

from .card import COLUMNS, SECTIONS, Card, Pair

QUALITY = 92
CLASSES = {"✓": "good", "⚠": "doubtful", "✗": "bad"}
STYLE = """
:root { --ink: #1b1c20; --faint: #65676f; --line: #dcdde2; --band: #5b6b8c; --wash: #f1f3f7; }
.good { --band: #1f8a4c; --wash: #eaf6ee; } .doubtful { --band: #c07a00; --wash: #fdf4e2; }
.bad { --band: #c23434; --wash: #fbebeb; }
* { box-sizing: border-box; }
body { margin: 0; background: #e9eaee; color: var(--ink); font: 15px/1.45 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 840px; margin: 24px auto; padding: 40px 44px 28px; background: #fff; border-radius: 6px;
  box-shadow: 0 1px 6px #0002; }
h1 { margin: 0; font-size: 29px; line-height: 1.2; font-weight: 650; overflow-wrap: anywhere; }
h2 { margin: 26px 0 10px; font-size: 13px; letter-spacing: .05em; text-transform: uppercase; color: var(--faint);
  font-weight: 600; }
p { margin: 0; overflow-wrap: anywhere; }
.about { margin-top: 6px; font-size: 18px; color: var(--faint); }
.verdict { margin-top: 20px; padding: 14px 18px; border-left: 7px solid var(--band); background: var(--wash); }
.verdict strong { display: block; font-size: 21px; line-height: 1.3; font-weight: 650; }
.verdict p { margin-top: 5px; color: #3c3e46; }
.pairs { display: grid; grid-template-columns: repeat(3, 1fr); gap: 18px; }
figure { margin: 0; min-width: 0; break-inside: avoid; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 4px; }
.pair span { font-size: 12px; color: var(--faint); }
.pair span.after { color: var(--ink); font-weight: 600; }
img { width: 100%; display: block; border-radius: 3px; }
figcaption { margin-top: 4px; font-size: 13px; line-height: 1.3; overflow-wrap: anywhere; }
.small { margin-top: 10px; font-size: 12.5px; color: var(--faint); }
table { width: 100%; border-collapse: collapse; }
th { font-weight: 600; text-align: left; color: var(--faint); font-size: 13px; }
td, th { padding: 6px 12px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top; overflow-wrap: anywhere; }
td:last-child { font-weight: 600; }
.columns { display: grid; grid-template-columns: 1fr 1fr; gap: 36px; }
dl { margin: 0; display: grid; grid-template-columns: auto 1fr; gap: 5px 14px; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
ul { margin: 0; padding-left: 18px; } li { margin-bottom: 4px; }
.notes { white-space: pre-wrap; }
footer { margin-top: 26px; padding-top: 10px; border-top: 1px solid var(--line); font-size: 12px; color: var(--faint); }
@media (max-width: 640px) { main { margin: 0; padding: 22px; } .pairs, .columns { grid-template-columns: 1fr; } }
@page { size: A4; margin: 10mm; }
@media print { body { background: #fff; font-size: 10.5px; line-height: 1.35;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; margin: 0; padding: 0;
  box-shadow: none; } h1 { font-size: 22px; } h2 { margin: 11px 0 5px; font-size: 9.5px; }
  .about { font-size: 14px; } .verdict { margin-top: 12px; padding: 9px 13px; } .verdict strong { font-size: 16px; }
  .pairs { gap: 6px 46px; } figcaption, .small, .pair span { font-size: 10px; }
  td, th { padding: 3px 8px 3px 0; font-size: 10px; }
  li { margin-bottom: 2px; } dl { gap: 2px 10px; } footer { margin-top: 12px; font-size: 9.5px; }
  section, figure { break-inside: avoid; } .columns { grid-template-columns: 1fr 1fr; }
  .pairs { grid-template-columns: repeat(3, 1fr); } }
"""


def html(card: Card) -> str:
    """The whole file. All text that people typed is escaped, and nothing is fetched from anywhere."""
    title = escape(card.title)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<main class="{CLASSES.get(card.mark, "")}">
<h1 dir="auto">{title}</h1>
{f'<p class="about" dir="auto">{escape(card.about)}</p>' if card.about else ""}
<div class="verdict"><strong>{escape(card.verdict)}</strong>{_paragraphs(card.remarks)}</div>
{"".join(_section(*part) for part in zip(SECTIONS, card.pairs, strict=True))}
<p class="small">{escape(card.shown)}</p>
{_table(card)}
<div class="columns">
<section><h2>What was measured</h2><dl>{_facts(card)}</dl></section>
<section><h2>What this report did not test</h2>
<ul>{"".join(f"<li>{escape(text)}</li>" for text in card.untested)}</ul></section>
</div>
{f'<section><h2>Notes</h2><p class="notes" dir="auto">{escape(card.notes)}</p></section>' if card.notes else ""}
<footer>{escape(card.footer)}</footer>
</main>
</body>
</html>
"""


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _section(heading: str, pairs: Sequence[Pair]) -> str:
    if not pairs:
        return ""
    return f'<section><h2>{escape(heading)}</h2><div class="pairs">{"".join(map(_figure, pairs))}</div></section>'


def _figure(pair: Pair) -> str:
    caption = escape(pair.caption)
    before, after = (
        f'<img alt="{when}: {caption}" src="{data_uri(image)}">'
        for when, image in (("before", pair.before), ("after", pair.after))
    )
    heads = '<span>before</span><span class="after">after</span>'
    pictures = f'<div class="pair">{heads}{before}{after}</div>'
    return f'<figure>{pictures}<figcaption dir="auto">{caption}</figcaption></figure>'


def data_uri(image: Image.Image) -> str:
    """A picture as text that stands in an HTML file."""
    data = BytesIO()
    image.save(data, "JPEG", quality=QUALITY, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode('ascii')}"


def _table(card: Card) -> str:
    if not card.numbers:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in COLUMNS)
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in card.numbers)
    return f"<section><h2>In numbers</h2><table><tr>{head}</tr>{rows}</table></section>"


def _facts(card: Card) -> str:
    return "".join(f'<dt>{escape(what)}</dt><dd dir="auto">{escape(value)}</dd>' for what, value in card.facts)
