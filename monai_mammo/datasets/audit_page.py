"""The audit as one HTML page: verdict, findings, counts, contact sheets. No script, nothing loaded from elsewhere.

Every text that comes from a datalist or a file name is escaped. What is found is `audit`'s; here it is shown, and
written beside its JSON.
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import Any

from monai_mammo.datasets.audit import NOT_CHECKED, Audit, audit, numbers
from monai_mammo.datasets.audit_catalogue import CHECKS, SEVERITIES, DataList, Finding, Item, Severity
from monai_mammo.datasets.datalist import SECTIONS
from monai_mammo.files import replacing

SHEET = 24
"""Pictures of a split's contact sheet, chosen at random (with a fixed seed) where there are more images."""

PICTURES, ROWS, FILES, MORE = 48, 300, 8, 500
"""Most pictures and most rows shown of one check; files of a row named at once, and on request. audit.json has all."""

_SEED = 0
_MEANING: Mapping[Severity, str] = {
    "error": "Training on these data, or judging a network by them, is not safe.",
    "warning": "Look at these before training.",
    "note": "Good to know.",
}
_PLURAL: Mapping[Severity, str] = {"error": "Errors", "warning": "Warnings", "note": "Notes"}


def write_audit(
    out: Path,
    *,
    processes: int | None = None,
    progress: bool = False,
) -> tuple[Path, Path, Audit]:
    """Audit a folder and write `OUT/audit.json` and the page `OUT/audit.html`, each whole or not at all.

    Arguments and errors are :func:`monai_mammo.datasets.audit.audit`'s.
    """
    found = audit(out, processes=processes, progress=progress)
    data, html = found.out / "audit.json", found.out / "audit.html"
    _write(data, json.dumps(found.to_json(), indent=1) + "\n")
    _write(html, page(found))
    return data, html, found


def page(audit: Audit) -> str:
    """The whole page as text: HTML with its style and pictures inside."""
    name = escape(str(audit.prepared.get("data_set") or audit.out.name))
    body = "\n".join([_head(audit, name), *_findings(audit), _lists(audit), *_sheets(audit), _not_checked()])
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Audit of {name}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _write(file: Path, text: str) -> None:
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8")


def _head(audit: Audit, name: str) -> str:
    counts = audit.counts
    if audit.safe:
        verdict, kind = "No error found: training is safe as far as these checks see.", "safe"
    else:
        verdict, kind = f"Not safe to train on: {_count(counts['error'], 'error')}.", "error"
    tiles = "".join(
        f'<li class="tile {severity}"><a href="#{severity}"><b>{counts[severity]}</b> '
        f"{severity if counts[severity] == 1 else plural.lower()}</a></li>"
        for severity, plural in _PLURAL.items()
    )
    images = len({item.image for data in audit.lists for item in data.items})
    of_check = Counter((finding.severity, finding.check) for finding in audit.findings)
    contents = "".join(
        f'<li class="{severity}"><a href="#{severity}-{check}">{escape(CHECKS[check].title)}</a> {number}</li>'
        for (severity, check), number in of_check.items()
    )
    remarks = "".join(
        f"<p><b>{escape(str(which))}:</b> {escape(str(remark))}</p>"
        for which, remark in _mapping(audit.prepared.get("remarks")).items()
    )
    options = ", ".join(
        f"{escape(str(key))} {escape(_plain(value))}" for key, value in _mapping(audit.prepared.get("options")).items()
    )
    return (
        f'<header><h1>Audit of {name}</h1><p class="verdict {kind}">{verdict}</p>'
        f'<ul class="tiles">{tiles}<li class="tile"><a href="#lists"><b>{images}</b> '
        f"{'image' if images == 1 else 'images'}</a></li>"
        f'<li class="tile"><a href="#lists"><b>{len(audit.lists)}</b> '
        f"{'list' if len(audit.lists) == 1 else 'lists'}</a></li></ul>"
        f"{f'<ul class=contents>{contents}</ul>' if contents else ''}"
        f"{f'<p>Prepared with {options}.</p>' if options else ''}{remarks}</header>"
    )


def _findings(audit: Audit) -> Iterator[str]:
    images = _images_of(audit.lists)
    for severity in SEVERITIES:
        yield f'<section id="{severity}"><h2>{_PLURAL[severity]}</h2><p class="quiet">{_MEANING[severity]}</p>'
        of_severity = [finding for finding in audit.findings if finding.severity == severity]
        for check in dict.fromkeys(finding.check for finding in of_severity):
            some = [finding for finding in of_severity if finding.check == check]
            yield _check(audit, check, some, images, is_open=severity != "note")
        yield "" if of_severity else '<p class="none">None.</p>'
        yield "</section>"


def _check(audit: Audit, check: str, findings: Sequence[Finding], images: Mapping[Path, Item], *, is_open: bool) -> str:
    about, severity = CHECKS[check], findings[0].severity
    of_one = [finding for finding in findings if len(_pictured(audit, finding.files, images)) == 1]
    rows = [_row(audit, row, images) for row in _rows(findings)]
    more = len(rows) - ROWS
    details: dict[Path, dict[str, None]] = {}
    for finding in of_one:
        (file,) = _pictured(audit, finding.files, images)
        details.setdefault(file, {})[finding.detail] = None
    pictures = "".join(
        _figure(audit, file, images[file], f"{_first(said)} · {_caption(images[file])} · {file.name}")
        for file, said in list(details.items())[:PICTURES]
    )
    return (
        f'<details id="{severity}-{check}" class="{severity}"{" open" if is_open else ""}><summary>'
        f'<h3>{escape(about.title)}</h3> <span class="badge">{len(findings)}</span></summary>'
        f"<p>{_coded(about.explanation)}</p><p><b>What helps:</b> {_coded(about.remedy)}</p>"
        f'<div class="scroll"><table><caption class="hidden">{escape(about.title)}</caption><thead><tr>'
        '<th scope="col">What was found</th><th scope="col">Files</th><th scope="col">Lists</th></tr></thead>'
        f"<tbody>{''.join(rows[:ROWS])}</tbody></table></div>"
        f"{f'<p class=quiet>{more} more rows are in audit.json.</p>' if more > 0 else ''}"
        f"{f'<div class=sheet>{pictures}</div>' if pictures else ''}"
        f"{f'<p class=quiet>{PICTURES} of {len(details)} pictures are shown.</p>' if len(details) > PICTURES else ''}"
        "</details>"
    )


def _first(details: Iterable[str]) -> str:
    first, *others = details
    return f"{first}; and {len(others)} more" if others else first


def _rows(findings: Sequence[Finding]) -> list[Finding]:
    """Findings as the table has them: those of one file each that say the same of the same lists share a row."""
    shared: dict[object, dict[Path, None]] = {}
    rows: dict[object, Finding] = {}
    for finding in findings:
        key = (finding.detail, finding.lists, finding.files if len(finding.files) != 1 else ())
        rows.setdefault(key, finding)
        shared.setdefault(key, {}).update(dict.fromkeys(finding.files))
    return [replace(finding, files=tuple(shared[key])) for key, finding in rows.items()]


def _row(audit: Audit, finding: Finding, images: Mapping[Path, Item]) -> str:
    """A row; where a finding is about several images, such as copies, their pictures stand in it side by side."""
    names = [f"<code>{escape(audit.name(file))}</code>" for file in finding.files]
    files, rest = "<br>".join(names[:FILES]), names[FILES : FILES + MORE]
    if rest:
        last = f"<br>and {len(names) - FILES - MORE} more in audit.json" if len(names) > FILES + MORE else ""
        files += f"<details><summary>and {len(names) - FILES} more</summary>{'<br>'.join(rest)}{last}</details>"
    count = f' <span class="quiet">({len(names)} files)</span>' if len(names) > FILES else ""
    pictured = _pictured(audit, finding.files, images) if len(finding.files) > 1 else []
    pictures = "".join(_figure(audit, file, images[file], _caption(images[file])) for file in pictured[:FILES])
    beside = f'<div class="sheet">{pictures}</div>' if len(pictured) > 1 else ""
    lists = ", ".join(escape(name) for name in finding.lists)
    return f'<tr><th scope="row">{escape(finding.detail)}{count}</th><td>{files}{beside}</td><td>{lists}</td></tr>'


def _pictured(audit: Audit, files: Iterable[Path], images: Mapping[Path, Item]) -> list[Path]:
    """The images of which there is a picture, each once; a mask's is its image's."""
    return [file for file in dict.fromkeys(images[f].image for f in files if f in images) if file in audit.pictures]


def _coded(text: str) -> str:
    """Our own texts name commands and keys in backticks."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def _images_of(lists: Iterable[DataList]) -> dict[Path, Item]:
    """An entry for every image and mask file: what a picture of it is labelled with."""
    found: dict[Path, Item] = {}
    for data in lists:
        for item in data.items:
            for file in (item.image, item.mask):
                if file is not None:
                    found.setdefault(file, item)
    return found


def _lists(audit: Audit) -> str:
    tables = "".join(_table(audit, data) for data in audit.lists)
    return f'<section id="lists"><h2>Lists</h2><div class="lists">{tables}</div></section>'


def _table(audit: Audit, data: DataList) -> str:
    splits = [numbers(data, section) for section in SECTIONS]
    rows = [_numbers_row(key, "", [split[key] for split in splits]) for key in ("entries", "images", "patients")]
    for group in dict.fromkeys(group for split in splits for group in split["groups"]):
        of_group = [split["groups"].get(group, {}) for split in splits]
        values = sorted({value for counts in of_group for value in counts})
        names = data.names if group == "label" else {}
        rows += [
            _numbers_row(group, names.get(value, value), [counts.get(value, 0) for counts in of_group])
            for value in values
        ]
    heads = "".join(f'<th scope="col">{section}</th>' for section in (*SECTIONS, "all"))
    return (
        f'<div class="scroll"><table class="numbers"><caption>{escape(data.name)} '
        f"<code>{escape(audit.name(data.file))}</code></caption>"
        f'<thead><tr><th scope="col">counted</th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _numbers_row(key: str, value: str, counts: Sequence[int]) -> str:
    """Shares of a group are of the split's entries. A patient in two splits counts in both, and so in the sum."""
    label = f"{escape(key)} <b>{escape(value)}</b>" if value else escape(key)
    cells = "".join(f"<td>{count}</td>" for count in (*counts, sum(counts)))
    return f'<tr><th scope="row">{label}</th>{cells}</tr>'


def _sheets(audit: Audit) -> Iterator[str]:
    yield (
        f'<section id="sheets"><h2>Contact sheets</h2><p class="quiet">At most {SHEET} images of each split, chosen at '
        "random with a fixed seed. Masks are outlined in amber, all of an image's together.</p>"
    )
    for data in audit.lists:
        for section in SECTIONS:
            by_file: dict[Path, Item] = {}
            for item in data.items:
                if item.section == section and item.image in audit.pictures:
                    by_file.setdefault(item.image, item)
            files = sorted(by_file)
            chosen = sorted(random.Random(f"{_SEED} {data.name} {section}").sample(files, min(SHEET, len(files))))
            if chosen:
                figures = "".join(_figure(audit, file, by_file[file], _caption(by_file[file])) for file in chosen)
                yield (
                    f"<h3>{escape(data.name)}, {section} "
                    f'<span class="quiet">{len(chosen)} of {len(files)} images</span></h3>'
                    f'<div class="sheet">{figures}</div>'
                )
    yield "</section>"


def _caption(item: Item) -> str:
    side = "-".join(text for text in (item.text("laterality"), item.text("view")) if text)
    return " · ".join(text for text in (item.text("patient"), side, item.label, item.text("cause")) if text)


def _figure(audit: Audit, file: Path, item: Item, caption: str) -> str:
    data = base64.b64encode(audit.pictures[file]).decode("ascii")
    name, words = escape(audit.name(file)), escape(caption or f"{_caption(item)} · {file.name}")
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" alt="{name}" title="{name}">'
        f"<figcaption>{words}</figcaption></figure>"
    )


def _not_checked() -> str:
    lines = "".join(f"<li>{_coded(line)}</li>" for line in NOT_CHECKED)
    return f'<section id="not-checked"><h2>Not checked</h2><ul>{lines}</ul></section>'


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --quiet: #5b6675; --paper: #f6f7f9; --card: #fff; --line: #d9dee5;
  --link: #1f5fbf; --error: #b3261e; --warning: #8a5a00; --note: #33618c; --safe: #1b6e3c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --quiet: #9aa6b5; --paper: #12161c; --card: #1b212a;
  --line: #333d4a; --link: #86b4f5; --error: #ff8a80; --warning: #f0b84a; --note: #8fc1ee; --safe: #7fd49f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem; max-width: 82rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; } h2 { font-size: 1.3rem; margin: 2.5rem 0 .25rem; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; } p { margin: .4rem 0; max-width: 75ch; }
a { color: inherit; } a:focus-visible, summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.verdict { font-size: 1.15rem; font-weight: 600; border-left: .3rem solid; padding-left: .7rem; }
.verdict.safe { color: var(--safe); } .verdict.error { color: var(--error); }
.quiet, figcaption { color: var(--quiet); font-weight: normal; } .none { color: var(--safe); }
.tiles { list-style: none; display: flex; flex-wrap: wrap; gap: .6rem; padding: 0; margin: 1rem 0; }
.tile a { display: block; padding: .5rem .9rem; background: var(--card); border: 1px solid var(--line);
  border-radius: .5rem; text-decoration: none; } .tile b { font-size: 1.3rem; }
.tile.error b { color: var(--error); } .tile.warning b { color: var(--warning); } .tile.note b { color: var(--note); }
.contents { list-style: none; padding: 0; margin: 1rem 0; columns: 20rem; }
.contents li { border-left: .3rem solid; padding-left: .5rem; margin: .15rem 0; break-inside: avoid; }
.contents .error { border-color: var(--error); } .contents .warning { border-color: var(--warning); }
.contents .note { border-color: var(--note); }
details { background: var(--card); border: 1px solid var(--line); border-left: .3rem solid var(--line);
  border-radius: .5rem; padding: .6rem 1rem; margin: .7rem 0; }
details.error { border-left-color: var(--error); } details.warning { border-left-color: var(--warning); }
details.note { border-left-color: var(--note); }
summary { cursor: pointer; } summary h3 { display: inline; margin: 0; }
.badge { border: 1px solid var(--line); border-radius: 1rem; padding: 0 .6rem; font-size: .85rem; }
.scroll { overflow-x: auto; max-height: 32rem; overflow-y: auto; margin: .7rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .3rem 0; } caption code { font-weight: normal; }
th, td { text-align: left; vertical-align: top; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--line); }
th[scope=row] { font-weight: normal; } .numbers td, .numbers thead th + th { text-align: right; padding-left: 1.5rem; }
code { font-size: .85em; overflow-wrap: anywhere; }
.lists { display: flex; flex-wrap: wrap; gap: 0 3rem; } .lists .scroll { max-height: none; }
td details { border: 0; padding: 0; margin: 0; background: none; } td .sheet { max-width: 44rem; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); gap: .7rem; margin: .7rem 0; }
figure { margin: 0; } figure img { width: 100%; height: 12rem; object-fit: contain; background: #000;
  border-radius: .3rem; display: block; } figcaption { font-size: .75rem; overflow-wrap: anywhere; line-height: 1.3; }
@media print {
  :root { color-scheme: light; --ink: #000; --quiet: #444; --paper: #fff; --card: #fff; --line: #bbb; --link: #000;
    --error: #b3261e; --warning: #8a5a00; --note: #33618c; --safe: #1b6e3c; }
  body { padding: 0; max-width: none; font-size: .8rem; } .scroll { max-height: none; overflow: visible; }
  figure, tr { break-inside: avoid; } h2, h3, summary { break-after: avoid; }
  figure img { print-color-adjust: exact; height: 8rem; } .sheet { grid-template-columns: repeat(6, 1fr); } }
"""
