"""Sheets of pictures on the page, and as PNG beside it; `unicscale look` has made them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from unicscale.evaluate.pictures.sheet import SIDE, Cell, Sheet, decoded
from unicscale.ranks.terminal import plain
from unicscale.report.story import SHEETS, Story

ROOM = 4_000_000  # letters of pictures on a page, which shall stay below 8 MB
ABREAST = 6  # pictures that stand side by side on a phone, under the name of their row
GAP, HEAD, LEFT, FOOT = 8, 28, 104, 16  # pixels of a sheet as PNG: between pictures, above, before, below them


def shown(stories: Sequence[Story], names: Sequence[str]) -> Iterator[str]:
    """The sheets of each run, as long as there is room; the first runs first."""
    room, left = ROOM, []
    for story, name in zip(stories, names, strict=True):
        for sheet in story.sheets.values():
            room -= sum(len(cell.image) for row in sheet.rows for cell in row.cells)
            if room < 0:
                left.append(name)
                break
            yield _sheet(sheet, sheet.title if len(stories) == 1 else f"{name}: {sheet.title}")
    if left:
        yield f"<p class=quiet>There was no room for the pictures of {_text(', '.join(dict.fromkeys(left)))}.</p>"


def _sheet(sheet: Sheet, title: str) -> str:
    head = "".join(f"<th scope=col>{_text(name)}</th>" for name in sheet.columns)
    across = max((len(row.cells) for row in sheet.rows), default=1)
    form = f"style='--across:{min(across, ABREAST)}'" + (" class=long" if across > ABREAST else "")
    rows = []
    for row in sheet.rows:
        cells = (_cell(cell, row.name, sheet, number) for number, cell in enumerate(row.cells))
        rows.append(f"<tr><th scope=row>{_text(row.name)}</th>{''.join(cells)}</tr>")
    return (
        f"<figure class=sheet><h2>{_text(title)}</h2>"
        f'<div class=scroll tabindex=0 role=region aria-label="{_text(f"{title}. {sheet.finding}")}">'
        f"<table {form}><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        f"<figcaption><b>{_text(sheet.finding)}</b> {_text(sheet.says)}</figcaption></figure>"
    )


def _cell(cell: Cell, row: str, sheet: Sheet, number: int) -> str:
    column = sheet.columns[number] if number < len(sheet.columns) else str(number + 1)
    form, more = ("png", " class=map") if _is_map(cell) else ("jpeg", "")
    alt = _text(f"{column} of {row}" + (f", {cell.says}" if cell.says else ""))
    said = f"<small>{_text(cell.says)}</small>" if cell.says else ""
    source = f"data:image/{form};base64,{cell.image}"
    return f"<td><img{more} src='{source}' alt=\"{alt}\" width=112 loading=lazy>{said}</td>"


def _is_map(cell: Cell) -> bool:
    """Maps are PNG, which begin so; photos are JPEG."""
    return cell.image.startswith("iVBOR")


def _text(text: str) -> str:
    return escape(plain(text))


def write(stories: Sequence[Story], out: Path) -> None:
    """A PNG for each sheet of a run that is alone on its page; those of an older page go."""
    sheets = stories[0].sheets if len(stories) == 1 else {}
    for name in SHEETS:
        file = out / f"{name}.png"
        if name in sheets:
            drawn(sheets[name]).save(file, optimize=True)
        else:
            file.unlink(missing_ok=True)


def drawn(sheet: Sheet) -> Image.Image:
    """Rows and columns with their names, on white."""
    step, across = SIDE + GAP, max(len(row.cells) for row in sheet.rows)
    feet = [FOOT if any(cell.says for cell in row.cells) else 0 for row in sheet.rows]
    tall = [max(_height(decoded(cell)) for cell in r.cells) + f + GAP for r, f in zip(sheet.rows, feet, strict=True)]
    whole = Image.new("RGB", (LEFT + across * step, HEAD + sum(tall)), "white")
    pen, font = ImageDraw.Draw(whole), ImageFont.load_default(12)
    for number, name in enumerate(sheet.columns):
        pen.text((LEFT + number * step, 8), plain(name)[:16], fill="#3c454d", font=font)
    top = HEAD
    for row, height in zip(sheet.rows, tall, strict=True):
        pen.text((4, top + 4), plain(row.name)[:15], fill="#3c454d", font=font)
        for number, cell in enumerate(row.cells):
            picture = decoded(cell)
            smooth = Image.Resampling.NEAREST if _is_map(cell) else Image.Resampling.BICUBIC
            whole.paste(picture.resize((SIDE, _height(picture)), smooth), (LEFT + number * step, top))
            pen.text((LEFT + number * step, top + height - FOOT - GAP), cell.says[:18], fill="#5b6670", font=font)
        top += height
    return whole


def _height(picture: Image.Image) -> int:
    return max(1, min(2 * SIDE, round(picture.height * SIDE / picture.width)))
