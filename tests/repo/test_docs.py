r"""Documents: links that lead somewhere, pictures with words, figures that were measured, terms."""

from __future__ import annotations

import json
import re
import tomllib
from itertools import pairwise

import pytest
import torch

import codec_lib
from codec_lib.codecs import registry

LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
FENCE = re.compile(r"```.*?```|`[^`\n]+`", re.S)
MARK = re.compile(r"<!-- result: (\S+?)#(\S+?) -->\s*([-+−]?[\d.,]+)")
HTML_IMAGE = re.compile(r"<img\b[^>]*>")
# Bold words that head a paragraph and are no terms.
LABEL = re.compile(r"[.:?!]$|^(?:\d|Eq|Exercise|What to look at|Predict)|^\W*$")


@pytest.fixture(scope="module")
def documents(root, files, notebooks):
    """Return (path relative to the repository, text) of every markdown text, cells included."""
    texts = [
        (path, path.read_text(encoding="utf-8"))
        for path in files
        if path.suffix == ".md" and path.relative_to(root).parts[0] != "build"
    ]
    return texts + [(n.path, "\n\n".join(c.text for c in n.prose)) for n in notebooks]


def _anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text), re.M)
    named = set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))
    return named | {re.sub(r"[^\w\- ]", "", t.lower()).replace(" ", "-") for t in titles}


def test_links_lead_somewhere(root, documents, report):
    problems = []
    for path, text in documents:
        for _, _, target in LINK.findall(FENCE.sub("", text)):
            if re.match(r"(?:https?|mailto):", target):
                continue
            name, _, anchor = target.partition("#")
            where = (path.parent / name).resolve() if name else path
            if not where.exists():
                problems.append(f"{path.relative_to(root)}: {target} does not exist")
            elif anchor and where.suffix == ".md" and anchor not in _anchors(where.read_text()):
                problems.append(f"{path.relative_to(root)}: no heading for #{anchor}")
    report(problems)


def test_pictures_are_local_and_described(root, documents, report):
    problems = []
    for path, text in documents:
        name = path.relative_to(root)
        for is_image, words, target in LINK.findall(FENCE.sub("", text)):
            if is_image and len(words.split()) < 3:
                problems.append(f"{name}: {target} needs alternative text of three words or more")
            if is_image and re.match(r"https?:", target):
                problems.append(f"{name}: {target} is not kept in the repository")
        for tag in HTML_IMAGE.findall(FENCE.sub("", text)):
            if not re.search(r"alt=\"[^\"]{10,}\"", tag):
                problems.append(f"{name}: {tag[:60]} needs alternative text")
    report(problems)


def _look_up(tree, path: str):
    for part in path.split("."):
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree


def test_marked_figures_are_those_of_the_results(root, documents, report):
    """``<!-- result: bench.json#codec.ratio --> 1.31`` must be what data/results/bench.json says.

    A figure is compared at the precision at which it is printed.
    """
    problems = []
    for path, text in documents:
        for file, key, printed in MARK.findall(text):
            name = f"{path.relative_to(root)}: {file}#{key}"
            source = root / "data" / "results" / file
            try:
                value = float(_look_up(json.loads(source.read_text()), key))
            except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
                problems.append(f"{name}: {error!r}")
                continue
            shown = printed.replace(",", "").replace("−", "-").rstrip(".")
            digits = len(shown.partition(".")[2])
            if f"{value:.{digits}f}" != f"{float(shown):.{digits}f}":
                problems.append(f"{name}: printed {shown}, measured {value}")
    report(problems)


def _terms(text: str) -> list[str]:
    """Return what is bold inside running text, outside code and tables."""
    prose = FENCE.sub("", re.sub(r"^\s*\|.*$|^#.*$", "", text, flags=re.M))
    return [term for term in re.findall(r"\*\*([^*\n]+)\*\*", prose) if not LABEL.search(term)]


def _normal(term: str) -> str:
    return re.sub(r"[-\s]+", " ", re.sub(r"\(.*?\)", "", term)).strip().lower()


@pytest.fixture(scope="module")
def glossary(root):
    entries = re.findall(r"\*\*([^*]+)\*\*", (root / "docs" / "glossary.md").read_text())
    known = {_normal(entry) for entry in entries}
    return known | {m.lower() for e in entries for m in re.findall(r"\(([^)]+)\)", e)}


def test_glossary_has_every_term_that_a_notebook_sets_in_bold(notebooks, glossary, report):
    problems = []
    for notebook in notebooks:
        for term in _terms("\n\n".join(cell.text for cell in notebook.prose)):
            normal = _normal(term)
            forms = {normal, normal.removesuffix("s"), normal.removesuffix("es")}
            if normal.endswith("ies"):
                forms.add(normal.removesuffix("ies") + "y")
            if not forms & glossary:
                problems.append(f"{notebook.name}: **{term}** is not in docs/glossary.md")
    report(problems)


def test_glossary_is_in_order(root, report):
    problems = []
    for section in (root / "docs" / "glossary.md").read_text().split("\n## ")[1:]:
        terms = [
            _normal(t).replace("–", " ") for t in re.findall(r"^\*\*([^*]+)\*\*", section, re.M)
        ]
        for first, second in pairwise(terms):
            if first > second:
                problems.append(f"{section.splitlines()[0]}: {second!r} stands after {first!r}")
    report(problems)


def test_reading_map_has_every_file_once(root, library):
    """codec_lib/README.md lists each file of the library, with its rounded number of lines."""
    text = (root / "codec_lib" / "README.md").read_text()
    rows = re.findall(r"^\| *\d+ *\| *\[`([^`]+)`\]\(([^)]+)\) *\| *(\d+) *\|", text, re.M)
    listed = [name for name, _, _ in rows]
    actual = {m.name.removeprefix("codec_lib/"): len(m.text.splitlines()) for m in library}
    expected = {name for name, lines in actual.items() if not name.endswith("__init__.py")}
    assert len(listed) == len(set(listed)), "a file is listed twice"
    assert set(listed) == expected, "the map and the folder differ"
    for name, target, lines in rows:
        assert name == target
        assert abs(int(lines) - actual[name]) <= 50, (
            f"{name}: {lines} printed, {actual[name]} lines"
        )


def test_cards_point_to_the_lines_of_their_equations(root, report):
    """A row "Eq. (n) | ... | [file:line]" of a card leads to within 5 lines of an "Eq. (n)"."""
    row = re.compile(r"^\| Eqs?\. \((\d+)\).*\[([a-z_/]+\.py):(\d+)\]", re.M)
    problems = []
    for card in sorted((root / "docs" / "codecs").glob("*.md")):
        for equation, name, line in row.findall(card.read_text()):
            lines = (root / "codec_lib" / name).read_text().splitlines()
            near = "\n".join(lines[max(0, int(line) - 6) : int(line) + 5])
            if f"({equation})" not in near:
                problems.append(f"{card.name}: no Eq. ({equation}) near {name}:{line}")
    report(problems)


def test_one_version(root):
    init = (root / "codec_lib" / "__init__.py").read_text()
    version = re.search(r"__version__ = \"([^\"]+)\"", init)[1]
    assert f"version: {version}\n" in (root / "CITATION.cff").read_text()
    project = tomllib.loads((root / "pyproject.toml").read_text())
    assert project["tool"]["hatch"]["version"]["path"] == "codec_lib/__init__.py"


def test_changelog_has_its_headings(root):
    text = (root / "CHANGELOG.md").read_text()
    assert (
        text.index("## [Unreleased]") < text.index("### Learner-visible") < text.index("### Added")
    )


def test_make_help_names_every_command_of_the_readme(root):
    makefile = (root / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.M))
    for name in ("README.md", "CONTRIBUTING.md"):
        used = set(
            re.findall(r"\bmake ([a-z]+)\b", "".join(FENCE.findall((root / name).read_text())))
        )
        assert used, f"{name} names no command"
        assert used <= targets, f"{name}: {used - targets} is no make target"


def test_the_whole_check_is_make_test(root):
    script = root / ".ci" / "run"
    commands = [s for s in script.read_text().splitlines() if s and not s.startswith("#")]
    assert commands[-1] == "exec make test"
    assert script.stat().st_mode & 0o111, ".ci/run is not executable"


def test_the_readme_lists_every_codec_with_its_size(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\d,]+) \| \[card\]", text, re.M))
    assert sorted(rows) == registry.names()
    for name, count in rows.items():
        with torch.device("meta"):
            codec = codec_lib.build(name, scale="paper")
        assert sum(p.numel() for p in codec.parameters()) == int(count.replace(",", "")), name
