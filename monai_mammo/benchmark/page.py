"""A report as blocks, and two ways to write it: Markdown with its pictures beside it, HTML with everything inside.

No numbers here. Texts may hold `code` and **bold**; everything else in them is shown as it is.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

INK, PAPER = "#1a1a2b", "#fffffe"
"""Colours that figures are drawn with, and that the HTML page replaces by its own, light or dark."""


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 to 4."""

    level: int
    text: str


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Points:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """A command."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table; the first column names the rows."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    marked: frozenset[int] = field(default_factory=frozenset)
    """Rows that are set apart: the best, or what is no system."""


@dataclass(frozen=True)
class Picture:
    """A figure: `name` with the ending `.svg` or `.png`, and its bytes."""

    name: str
    content: bytes
    alt: str
    caption: str


Block = Heading | Text | Points | Code | Table | Picture


def markdown(blocks: Sequence[Block], pictures: str) -> str:
    """The report as Markdown.

    Args:
        blocks: in order.
        pictures: folder of the pictures, relative to the Markdown file.
    """
    return "\n\n".join(_markdown(block, pictures) for block in blocks) + "\n"


def html(blocks: Sequence[Block], title: str) -> str:
    """The report as one HTML page with its style and pictures inside; no script, nothing loaded from elsewhere."""
    entries = [
        (number, block) for number, block in enumerate(blocks) if isinstance(block, Heading) and block.level == 2
    ]
    contents = "".join(f'<li><a href="#s{number}">{_inline(block.text)}</a></li>' for number, block in entries)
    body = "\n".join(_html(number, block) for number, block in enumerate(blocks))
    first = body.index("</h1>") + len("</h1>") if "</h1>" in body else 0
    nav = f'<nav aria-label="Contents"><ul>{contents}</ul></nav>' if len(entries) > 1 else ""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body><main>\n"
        f"{body[:first]}{nav}{body[first:]}\n</main></body>\n</html>\n"
    )


def _markdown(block: Block, pictures: str) -> str:
    if isinstance(block, Heading):
        return "#" * block.level + " " + block.text
    if isinstance(block, Points):
        return "\n".join(f"- {item}" for item in block.items)
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    if isinstance(block, Picture):
        return f"![{block.alt}]({pictures}/{block.name})\n\n*{block.caption}*"
    if isinstance(block, Table):
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (block.head, *block.rows)]
        lines = ["| " + " | ".join(row) + " |" for row in cells]
        lines.insert(1, "|---|" + "---:|" * (len(block.head) - 1))
        return "\n".join(lines) + (f"\n\n*{block.caption}*" if block.caption else "")
    return block.text


def _html(number: int, block: Block) -> str:
    if isinstance(block, Heading):
        return f'<h{block.level} id="s{number}">{_inline(block.text)}</h{block.level}>'
    if isinstance(block, Points):
        return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in block.items) + "</ul>"
    if isinstance(block, Code):
        return f"<pre><code>{escape(block.text)}</code></pre>"
    if isinstance(block, Picture):
        return f"<figure>{_picture(block)}<figcaption>{_inline(block.caption)}</figcaption></figure>"
    if isinstance(block, Table):
        return _table(block)
    return f"<p>{_inline(block.text)}</p>"


def _table(block: Table) -> str:
    head = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in block.head)
    rows = "".join(
        f"<tr{' class=marked' if number in block.marked else ''}>"
        f'<th scope="row">{_inline(row[0])}</th>' + "".join(f"<td>{_cell(cell)}</td>" for cell in row[1:]) + "</tr>"
        for number, row in enumerate(block.rows)
    )
    caption = f"<p class=caption>{_inline(block.caption)}</p>" if block.caption else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{caption}'


def _cell(text: str) -> str:
    """A value with its interval set back, so that the eye finds the value first."""
    return re.sub(r" (\[[^\]]+\])$", r" <span>\1</span>", _inline(text))


def _picture(block: Picture) -> str:
    if block.name.endswith(".svg"):
        drawing = block.content.decode()
        drawing = drawing[drawing.index("<svg") :].replace(INK, "currentColor").replace(PAPER, "none")
        # Several drawings in one page: their internal names must not meet.
        prefix = re.sub(r"\W", "_", block.name)
        drawing = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{prefix}_", drawing)
        return drawing.replace("<svg", f'<svg role="img" aria-label="{escape(block.alt, quote=True)}"', 1)
    data = base64.b64encode(block.content).decode()
    return f'<img alt="{escape(block.alt, quote=True)}" src="data:image/png;base64,{data}">'


def _inline(text: str) -> str:
    shown = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))
    return re.sub(r"\*\*([^*]+)\*\*", r"<b>\1</b>", shown)


_STYLE = """
:root{--ink:#1a1a2b;--quiet:#5b6172;--paper:#fff;--card:#f5f6fa;--line:#d9dce6;--link:#0b5cad;--mark:#eaf2fb}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8f0;--quiet:#a2a9bb;--paper:#14161d;--card:#1d2029;--line:#343947;
--link:#7db8f5;--mark:#1b2a3d}}
*{box-sizing:border-box}html{scroll-behavior:smooth}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,
-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:78rem;margin:0 auto;padding:1.5rem 1.25rem 4rem}
h1{font-size:2rem;line-height:1.2;margin:.5rem 0 1rem}h2{font-size:1.5rem;margin:3.2rem 0 .8rem;padding-top:1rem;
border-top:2px solid var(--line)}h3{font-size:1.15rem;margin:2.2rem 0 .6rem}p,ul{max-width:50rem}
a{color:var(--link)}nav{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.4rem 1rem}
nav ul{margin:.3rem 0;padding-left:1.1rem}code{font:.9em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
background:var(--card);padding:.1em .3em;border-radius:.25rem}
pre{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.8rem 1rem;overflow-x:auto;
white-space:pre-wrap}pre code{padding:0;background:none}
.scroll{overflow-x:auto;margin:1rem 0 .3rem;border:1px solid var(--line);border-radius:.5rem}
table{border-collapse:collapse;width:100%;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .55rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap;
vertical-align:bottom}
thead th{background:var(--card);font-weight:600;white-space:normal;min-width:4.2rem}
th:first-child{text-align:left;position:sticky;left:0;background:var(--paper);white-space:normal;min-width:10rem}
thead th:first-child{background:var(--card)}tbody th{font-weight:500}tbody tr:last-child>*{border-bottom:0}
tr.marked>*{background:var(--mark)!important;color:var(--quiet)}
td span{color:var(--quiet);font-size:.92em}
.caption,figcaption{color:var(--quiet);font-size:.88rem;margin:.2rem 0 1.4rem;max-width:50rem}
figure{margin:1.2rem 0 1.8rem}figure svg,figure img{max-width:100%;height:auto;display:block}
figcaption{margin-top:.5rem}
@media print{nav{display:none}.scroll{overflow:visible}}
"""
