r"""The conventions of the code, so that they survive: sizes, names, docstrings, imports."""

from __future__ import annotations

import ast
import statistics
from collections import defaultdict
from collections.abc import Iterator

import pytest

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MEDIAN_FUNCTION_LINES = 15  # without docstring
MIN_DUPLICATE_LINES = 5

# What may import what: a part imports from its own layer and from those before it.
LAYERS = (
    {"shapes", "paths", "audio", "opus"},
    {"blocks", "quantizers", "rate"},
    {"codecs", "hub", "bitstream"},
    {"losses", "discriminators", "teachers", "data"},
    {"training", "lm", "evaluation"},
    {
        "cli",
        "commands",
        "benchmark_commands",
        "language_commands",
        "study_commands",
        "teacher_commands",
    },
)
PRESENTATION = {"nb", "cells", "charts", "plotting", "widgets", "course", "pages", "student"}
PRESENTATION |= {"figures", "ladders", "listening", "maps", "panels", "strips"}
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


def _length(node: ast.AST, docstring: bool = True) -> int:
    """Return the lines of a definition, with or without its docstring."""
    lines = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if not docstring and ast.get_docstring(node) is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, FUNCTION))


def _public(tree: ast.Module) -> Iterator[tuple[ast.AST, bool]]:
    """Yield public functions, classes and methods, and whether each is a method."""
    for node in tree.body:
        if isinstance(node, (*FUNCTION, ast.ClassDef)) and not node.name.startswith("_"):
            yield node, False
            if isinstance(node, ast.ClassDef):
                for method in node.body:
                    if isinstance(method, FUNCTION) and not method.name.startswith("_"):
                        yield method, True


def test_files_and_functions_are_short(python_modules, report):
    problems = []
    for module in python_modules:
        lines = len(module.text.splitlines())
        if lines > MAX_FILE_LINES:
            problems.append(f"{module.name}: {lines} lines, limit {MAX_FILE_LINES}")
        for node in _functions(module.tree):
            if _length(node) > MAX_FUNCTION_LINES:
                where = f"{module.name}:{node.lineno}"
                problems.append(f"{where}: {node.name} has {_length(node)} lines")
    report(problems)


def test_functions_are_short_by_the_median(library):
    lengths = [_length(f, docstring=False) for m in library for f in _functions(m.tree)]
    assert statistics.median(lengths) <= MEDIAN_FUNCTION_LINES


def _definitions(tree: ast.Module) -> Iterator[ast.AST]:
    for node in tree.body:
        if isinstance(node, (*FUNCTION, ast.ClassDef)) and _length(node) >= MIN_DUPLICATE_LINES:
            yield node


def test_nothing_is_defined_twice(library, notebooks, report):
    """No function or class of five lines or more has its name in two places."""
    places = defaultdict(list)
    for module in library:
        for node in _definitions(module.tree):
            places[node.name].append(f"{module.name}:{node.lineno}")
    for notebook in notebooks:
        for number, cell in enumerate(notebook.cells):
            exercise = {"exercise", "solution"} & set(cell.tags)
            if cell.kind != "code" or exercise or cell.text.lstrip().startswith(("%", "!")):
                continue
            for node in _definitions(ast.parse(cell.text)):
                places[node.name].append(f"{notebook.path.name}, cell {number}")
    # Commands of the command line may be named as what they call; so may private helpers.
    places.pop("main", None)
    report([f"{name}: {', '.join(where)}" for name, where in places.items() if len(where) > 1])


def test_no_test_helper_is_copied(python_modules, report):
    """No body of five lines or more stands in two test files."""
    places = defaultdict(list)
    for module in python_modules:
        if module.name.startswith("tests/"):
            for node in _definitions(module.tree):
                places[ast.dump(ast.Module(body=node.body, type_ignores=[]))].append(
                    f"{module.name}:{node.name}"
                )
    report([", ".join(where) for where in places.values() if len(where) > 1])


def _raw(text: str, docstring: ast.Constant) -> bool:
    """Return whether a docstring's literal is raw, or needs no such thing."""
    literal = ast.get_source_segment(text, docstring) or ""
    return "\\" not in literal or literal[: literal.index('"')].lower().startswith("r")


def test_docstrings(library, report):
    problems = []
    for module in library:
        if ast.get_docstring(module.tree) is None and module.tree.body:
            problems.append(f"{module.name}: no module docstring")
        for node, _ in _public(module.tree):
            if ast.get_docstring(node) is None:
                problems.append(f"{module.name}:{node.lineno}: {node.name} has no docstring")
        for node in ast.walk(module.tree):
            has_body = isinstance(node, (ast.Module, ast.ClassDef, *FUNCTION)) and node.body
            if has_body and ast.get_docstring(node) is not None:
                if not _raw(module.text, node.body[0].value):
                    line = node.body[0].lineno
                    problems.append(f"{module.name}:{line}: backslash in a docstring not raw")
    report(problems)


def test_public_functions_document_each_parameter(library, report):
    """A public function that has a Parameters section names every argument in it."""
    problems = []
    for module in library:
        for node, _ in _public(module.tree):
            text = ast.get_docstring(node) or ""
            if not isinstance(node, FUNCTION) or "Parameters\n----" not in text:
                continue
            section = text.split("Parameters\n", 1)[1].split("\n\nReturns\n")[0]
            named = {
                name.strip().lstrip("*")
                for line in section.splitlines()[1:]
                if line and not line[0].isspace()
                for name in line.split(":")[0].split(",")
            }
            for argument in _arguments(node):
                if argument.arg not in named and argument.arg not in ("self", "cls"):
                    where = f"{module.name}:{node.lineno}: {node.name}"
                    problems.append(f"{where}: {argument.arg} is not documented")
    report(problems)


def test_functions_of_three_arguments_have_a_parameters_section(library, report):
    problems = []
    for module in library:
        if module.name.removeprefix("codec_lib/").removesuffix(".py") in LAYERS[-1]:
            continue  # typer's help texts describe the options
        for node, is_method in _public(module.tree):
            if isinstance(node, FUNCTION) and not is_method and len(_arguments(node)) >= 3:
                if "Parameters\n----" not in (ast.get_docstring(node) or ""):
                    where = f"{module.name}:{node.lineno}: {node.name}"
                    problems.append(f"{where} has no Parameters section")
    report(problems)


def _arguments(node: ast.FunctionDef) -> list[ast.arg]:
    args = node.args
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    return named + [a for a in (args.vararg, args.kwarg) if a is not None]


def test_public_functions_are_annotated(library, report):
    problems = []
    for module in library:
        for node, is_method in _public(module.tree):
            if not isinstance(node, FUNCTION):
                continue
            where = f"{module.name}:{node.lineno}: {node.name}"
            static = any(getattr(d, "id", "") == "staticmethod" for d in node.decorator_list)
            arguments = _arguments(node)[1 if is_method and not static else 0 :]
            problems += [f"{where}: {a.arg} has no type" for a in arguments if a.annotation is None]
            if node.returns is None:
                problems.append(f"{where}: no return type")
    report(problems)


def _part(name: str) -> str:
    """Return the part of the library that a file or module name belongs to."""
    parts = name.removesuffix(".py").replace("/", ".").split(".")
    return parts[1] if len(parts) > 1 else ""


def _imported_parts(module) -> Iterator[tuple[int, str]]:
    package = module.name.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{stem}.{alias.name}" for alias in node.names] if stem else []
        else:
            continue
        for name in names:
            if name.split(".")[0] == "codec_lib" and "." in name:
                yield node.lineno, _part(name)


def test_imports_run_one_way(library, report):
    rank = {part: number for number, layer in enumerate(LAYERS) for part in layer}
    problems = []
    for module in library:
        part = _part(module.name)
        if part == "__init__" or module.name == "codec_lib/__main__.py":
            continue
        if part not in rank and part not in PRESENTATION:
            problems.append(f"{module.name}: {part} is in no layer; name it in LAYERS here")
            continue
        if part in PRESENTATION:
            continue
        for line, target in _imported_parts(module):
            if target in PRESENTATION:
                problems.append(f"{module.name}:{line}: imports {target}, which is presentation")
            elif rank.get(target, 0) > rank[part]:
                problems.append(f"{module.name}:{line}: {part} imports {target}, a later layer")
    report(problems)


def test_only_audio_touches_audio_files(library, report):
    problems = []
    for module in library:
        if module.name in ("codec_lib/audio.py", "codec_lib/opus.py"):
            continue
        for node in ast.walk(module.tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if any(name.split(".")[0] in ("soundfile", "torchcodec", "librosa") for name in names):
                problems.append(f"{module.name}:{node.lineno}: imports {names[0]}; use audio.py")
            if ast.unparse(node) == "torchaudio.load" if isinstance(node, ast.Attribute) else False:
                problems.append(f"{module.name}:{node.lineno}: torchaudio.load; use audio.py")
    report(problems)


def test_no_test_is_empty(python_modules, report):
    """Every test function asserts something, itself or through what it calls."""
    problems = []
    for module in python_modules:
        if not module.name.startswith("tests/"):
            continue
        for node in _functions(module.tree):
            if not node.name.startswith("test_"):
                continue
            names = {getattr(n, "attr", getattr(n, "id", "")) for n in ast.walk(node)}
            checks = any(isinstance(n, ast.Assert) for n in ast.walk(node)) or any(
                word in name for name in names for word in ("assert", "raises", "report", "check")
            )
            if not checks:
                problems.append(f"{module.name}:{node.lineno}: {node.name} asserts nothing")
    report(problems)


@pytest.mark.parametrize("name", ["latents", "num_codebooks", "n_codebooks", "sampling_rate"])
def test_the_field_has_one_word_for_it(library, report, name):
    """No argument or attribute has a name that the glossary gives up for another one."""
    problems = []
    for module in library:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.arg) and node.arg == name:
                problems.append(f"{module.name}:{node.lineno}: argument {name}")
    report(problems)
