r"""Executed notebooks as pages that work offline: one HTML file each, and an index of them all.

Formulas are turned into MathML when the page is written and no script is loaded from anywhere, so
a page opens the same on a train. Pictures and sounds are also laid beside the page as files, which
the index shows. Notebook: all, after they ran. Leaves out: running them (``course.py``). Read next:
``student.py``.
"""

from __future__ import annotations

import base64
import html
import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import latex2mathml.converter
import nbformat
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from PIL import Image

from codec_lib.paths import replace_text

THUMBNAIL = 360  # pixels across
AUDIO = re.compile(r"aria-label='([^']*)'[^>]*src='(data:audio/wav;base64,([^']+))'")
EXTERNAL = re.compile(r"<(?:script|link|img|audio)\b[^>]*(?:src|href)=[\"']https?://", re.I)

# Without a font that has mathematical tables, brackets do not stretch and sums stay small.
FONT = Path(__file__).resolve().parent / "_fonts" / "STIXTwoMath-subset.woff"

# nbconvert's own page, less the scripts that it fetches from the network.
TEMPLATE = """{%- extends 'lab/index.html.j2' -%}
{%- block html_head_js -%}{%- endblock -%}
{%- block html_head_js_mathjax -%}{%- endblock -%}
{%- block html_head_js_mermaidjs -%}{%- endblock -%}
{%- block jupyter_widgets -%}{%- endblock -%}
{%- block html_head_css -%}<style>
main { max-width: 1040px; margin: 0 auto; padding: 24px; }
body.jp-Notebook { overflow: auto; }
.jp-RenderedHTMLCommon { font-size: 16px; line-height: 1.55; }
.jp-RenderedHTMLCommon p, .jp-RenderedHTMLCommon li { max-width: 76ch; }
@font-face { font-family: "STIX Two Math"; src: url(data:font/woff;base64,FONT); }
math { font-family: "STIX Two Math", math; font-size: 110%; }
math[display=block] { margin: 0.8em 0; }
.jp-RenderedHTMLCommon table { margin-left: 0; font-size: 14px; }
.source pre { white-space: pre-wrap; }
.jp-RenderedMarkdown .highlight pre { margin: 0.6em 0 1em; font-size: 13px; }
details { margin: 0.6em 0; }
</style>{%- endblock -%}"""


class OfflineMath(IPythonRenderer):
    """nbconvert's Markdown renderer with formulas written as MathML instead of for MathJax."""

    def block_html(self, html: str) -> str:
        """Keep HTML as it is: the parent closes tags whose end follows after a blank line."""
        return html + "\n"

    def block_math(self, body: str) -> str:
        """Render display mathematics."""
        return mathml(body, display="block")

    def inline_math(self, body: str) -> str:
        """Render mathematics within a line."""
        return mathml(body, display="inline")

    def latex_environment(self, name: str, body: str) -> str:
        """Render a LaTeX environment such as ``align``."""
        return mathml(rf"\begin{{{name}}}{body}\end{{{name}}}", display="block")


def mathml(latex: str, display: str = "inline") -> str:
    r"""Return LaTeX as a MathML element.

    Parameters
    ----------
    latex
        Without dollar signs; a trailing ``\tag{n}`` becomes the equation's number.
    display
        ``inline`` or ``block``.

    Raises
    ------
    ValueError
        If the formula cannot be converted, with the formula.

    Examples
    --------
    >>> mathml("x^2")[:5]
    '<math'
    """
    tag = re.search(r"\\tag\{([^}]*)\}", latex)
    body = re.sub(r"\\tag\{[^}]*\}", "", latex).strip()
    number = rf" \qquad ({tag[1]})" if tag else ""
    body = re.sub(r"\\arg\b", r"\\operatorname{arg}", body)
    bare = re.sub(r"\\[\\{}]", "", body)
    if bare.count("{") != bare.count("}"):
        raise ValueError(f"formula: got {latex!r}, expected as many '}}' as '{{'")
    try:
        converted = latex2mathml.converter.convert(body + number, display=display)
    except Exception as error:  # the converter raises its own and built-in errors alike
        raise ValueError(f"formula: got {latex!r}, which cannot be shown offline") from error
    unknown = re.search(r">(\\\w+)<", converted)  # commands it does not know stay as they are
    if unknown:
        raise ValueError(f"formula: got {latex!r}, expected no command {unknown[1]}")
    return converted


class OfflineExporter(HTMLExporter):
    """nbconvert's HTML exporter, self-contained."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        font = base64.b64encode(FONT.read_bytes()).decode()
        self.raw_template = TEMPLATE.replace("FONT", font)
        self.embed_images = True

    @pass_context  # nbconvert hands the cell to filters that ask for it
    def markdown2html(self, context: Any, source: str) -> str:
        """Convert a Markdown cell."""
        cell = context.get("cell", {})
        renderer = OfflineMath(
            escape=False,
            embed_images=True,
            exclude_anchor_links=True,
            path=context.get("resources", {}).get("metadata", {}).get("path", ""),
            attachments=cell.get("attachments", {}) if hasattr(cell, "get") else {},
        )
        return MarkdownWithMath(renderer=renderer).render(source)


def write_page(executed: Path, title: str, images_from: Path) -> Path:
    r"""Write an executed notebook as a self-contained HTML file beside it.

    Parameters
    ----------
    executed
        The executed copy.
    title
        Title of the page.
    images_from
        Folder that pictures and links in the text are relative to.

    Returns
    -------
    Path
        The HTML file.

    Raises
    ------
    ValueError
        If a formula cannot be converted or the page would fetch something from the network.
    """
    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata["title"] = title
    up = os.path.relpath(images_from.parent, executed.parent)
    for cell in notebook.cells:
        cell.source = re.sub(r"\]\((\w+)\.ipynb", r"](\1.html", cell.source)
        cell.source = re.sub(r"\]\(\.\./", f"]({up}/", cell.source)
    resources = {"metadata": {"path": str(images_from), "name": executed.stem}}
    text, _ = OfflineExporter().from_notebook_node(notebook, resources=resources)
    found = EXTERNAL.search(text)
    if found:
        raise ValueError(f"{executed.name}: the page would load {found[0]!r} from the network")
    page = executed.with_suffix(".html")
    page.write_text(text, encoding="utf-8")
    return page


def outputs(notebook: Any) -> Iterator[Any]:
    """Yield every output of every code cell."""
    for cell in notebook.cells:
        yield from cell.get("outputs", [])


def pictures(notebook: Any) -> list[tuple[str, bytes]]:
    """Return the pictures of a notebook in order: alt text and PNG bytes."""
    found = []
    for output in outputs(notebook):
        if "image/png" in output.get("data", {}):
            alt = output.get("metadata", {}).get("image/png", {}).get("alt", "")
            found.append((alt, base64.b64decode(output["data"]["image/png"])))
    return found


def players(notebook: Any) -> list[tuple[str, bytes]]:
    """Return the sounds of a notebook in order: label and WAV bytes."""
    pages = (output.get("data", {}).get("text/html", "") for output in outputs(notebook))
    found = (match for page in pages for match in AUDIO.finditer("".join(page)))
    return [(html.unescape(match[1]), base64.b64decode(match[3])) for match in found]


def extract(executed: Path) -> dict[str, list[dict[str, str]]]:
    r"""Lay the pictures and sounds of an executed notebook into a folder beside it.

    Returns
    -------
    dict
        ``pictures`` (file, thumbnail, alt) and ``players`` (file, label); files are relative to
        the folder that holds the notebook.
    """
    notebook = nbformat.read(executed, as_version=4)
    folder = executed.with_suffix("")
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    shown = []
    for index, (alt, png) in enumerate(pictures(notebook), start=1):
        (folder / f"{index:02d}.png").write_bytes(png)
        small = Image.open(io.BytesIO(png)).convert("RGB")
        small.thumbnail((THUMBNAIL, 2 * THUMBNAIL))
        small.save(folder / f"{index:02d}_small.png")
        name = f"{folder.name}/{index:02d}"
        shown.append({"file": f"{name}.png", "thumbnail": f"{name}_small.png", "alt": alt})
    heard = []
    for index, (label, wav) in enumerate(players(notebook), start=1):
        (folder / f"{index:02d}.wav").write_bytes(wav)
        heard.append({"file": f"{folder.name}/{index:02d}.wav", "label": label})
    return {"pictures": shown, "players": heard}


INDEX_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: white;
       max-width: 1040px; margin: 0 auto; padding: 24px; }
h1 { font-size: 28px; margin-bottom: 0; }
h2 { font-size: 20px; margin: 0; }
article { border-top: 1px solid #ccc; padding: 18px 0;
          display: grid; grid-template-columns: 370px 1fr; gap: 20px; }
article > a img { max-width: 100%; max-height: 240px; border: 1px solid #ddd; }
.facts { color: #555; font-size: 14px; }
.failed { color: #a00; }
.grid { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: 12px; margin-top: 8px; }
.grid img { width: 230px; border: 1px solid #ddd; }
figure { margin: 0; width: 230px; }
figcaption { font-size: 13px; }
audio { width: 230px; height: 36px; }
details { grid-column: 1 / -1; }
"""


def write_index(target: Path, entries: Sequence[Mapping[str, Any]], subtitle: str) -> Path:
    r"""Write the index of the course.

    Parameters
    ----------
    target
        The HTML file to write.
    entries
        One per executed notebook, as ``course.py`` records them; files in them are relative to
        ``target``.
    subtitle
        A line under the title.
    """
    cards = "\n".join(_article(entry) for entry in entries)
    replace_text(
        target,
        "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>codec_lib: the course</title><style>{INDEX_STYLE}</style></head><body>"
        f"<h1>Neural speech codecs: the course</h1><p class='facts'>{html.escape(subtitle)}</p>"
        f"\n{cards}\n</body></html>\n",
    )
    return target


def _article(entry: Mapping[str, Any]) -> str:
    esc = html.escape
    page, shown, heard = entry["page"], entry["pictures"], entry["players"]
    number = entry["file"].split("_")[0]
    facts = " · ".join(
        [
            f"{entry['seconds']:.0f} s",
            f"profile {entry['profile']}",
            entry["device"],
            f"revision {entry['revision']}",
            f"{len(shown)} pictures, {len(heard)} players",
        ]
    )
    failed = "".join(f"<li>{esc(problem)}</li>" for problem in entry["problems"])
    cover = shown[min(1, len(shown) - 1)] if shown else None
    thumbnail = f"<img src='{esc(cover['thumbnail'])}' alt='{esc(cover['alt'])}'>" if cover else ""
    sounds = "".join(_sound(sound) for sound in heard)
    images = "".join(
        f"<a href='{esc(one['file'])}'><img src='{esc(one['thumbnail'])}' alt='{esc(one['alt'])}' "
        "loading='lazy'></a>"
        for one in shown
    )
    return (
        f"<article><a href='{esc(page)}'>{thumbnail}</a><div>"
        f"<h2><a href='{esc(page)}'>{number} · {esc(entry['title'])}</a></h2>"
        f"<p>{esc(entry['question'])}</p><p class='facts'>{esc(facts)}</p>"
        + (f"<ul class='failed'>{failed}</ul>" if failed else "")
        + "</div>"
        + _folded("Listen", sounds)
        + _folded("All pictures", images)
        + "</article>"
    )


def _folded(summary: str, body: str) -> str:
    if not body:
        return ""
    return f"<details><summary>{summary}</summary><div class='grid'>{body}</div></details>"


def _sound(sound: Mapping[str, str]) -> str:
    label = html.escape(sound["label"])
    return (
        f"<figure><figcaption>{label}</figcaption><audio controls preload='metadata' "
        f"aria-label='{label}' src='{html.escape(sound['file'])}'></audio></figure>"
    )
