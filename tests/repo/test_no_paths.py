r"""Nothing in the repository depends on one machine: no user paths, no registry hosts, no keys."""

from __future__ import annotations

import re

TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".ipynb", ".lock", ".cfg", ".json", ".csv", ".cff"}
TEXT |= {".txt", ".svg", "", ".sh"}

FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/(?:home|Users|root|work|tmp|mnt|scratch)/(?!someone)\w",
    "a path of one machine (Windows)": r"\b[A-Z]:\\" + r"\\?Users",
    "a registry's host": r"(?:--(?:extra-)?index-url|--find-links|--trusted-host)\b",
    "a registry's host ": r"https?://(?:[\w.-]*pypi|files\.pythonhosted)\.",
    "a folder next to the repository": r"\.\./shared\b",
    "a key": r"\b(?:ghp_|hf_|sk-|AKIA)[A-Za-z0-9]{16,}",
}
EXEMPT = {"tests/repo/test_no_paths.py"}


def test_no_file_names_a_machine(root, files, report):
    problems = []
    for path in files:
        name = path.relative_to(root).as_posix()
        if path.suffix not in TEXT or name in EXEMPT:
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for what, pattern in FORBIDDEN.items():
                if re.search(pattern, line):
                    problems.append(f"{name}:{number}: {what}: {line.strip()[:100]}")
    report(problems)


def test_no_large_file_but_checkpoints(root, files, report):
    limit = 500_000
    problems = []
    for path in files:
        name = path.relative_to(root).as_posix()
        if name.startswith("data/checkpoints/"):
            limit_here = 6 * 2**20  # what the design allows a shipped checkpoint
        else:
            limit_here = limit
        if path.stat().st_size > limit_here:
            problems.append(f"{name}: {path.stat().st_size} bytes, limit {limit_here}")
    report(problems)


def test_no_pickle(library, report):
    problems = []
    for module in library:
        for number, line in enumerate(module.text.splitlines(), 1):
            if re.search(r"^\s*(?:import|from) (?:pickle|dill|cloudpickle|joblib)\b", line):
                problems.append(f"{module.name}:{number}: {line.strip()}")
            if re.search(r"weights_only\s*=\s*False|torch\.save\(", line):
                problems.append(f"{module.name}:{number}: {line.strip()}")
            if "torch.load(" in line and "weights_only=True" not in line:
                problems.append(f"{module.name}:{number}: torch.load without weights_only=True")
    report(problems)
