"""Find turns of phrase that a reader stumbles over, in pages and in docstrings, comments and messages.

python docs/check_words.py [PATH ...]    # exit 1 and list them; by default in all pages and in the swept packages

A line that needs such a word (a quotation, a term of another field) ends with ``words: ok``.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs")
# Packages whose prose was rewritten. Add a package when it is clean; never take one out.
SWEPT = (
    "docs",
    "examples",
    "pipelines/beam",
    "pipelines/cli",
    "pipelines/demo",
    "pipelines/health",
    "pipelines/models",
    "pipelines/planning",
    "pipelines/training",
    "schemas",
    "serving",
    "transforms",
)
# Their files that were not rewritten yet. Take one out when it is clean.
PENDING_FILES = frozenset(
    [
        "pipelines/planning/check.py",
        "pipelines/planning/compile_jobs.py",
        "pipelines/planning/plan.py",
        "pipelines/planning/preparing.py",
        "transforms/publish/final.py",
        "transforms/work/calibration.py",
        "transforms/work/compute.py",
        "transforms/work/model_bench.py",
        "transforms/work/models.py",
        "transforms/work/part_records.py",
        "transforms/work/progress.py",
        "transforms/work/shards.py",
    ]
)
# Pages that were not rewritten yet, or are generated from packages that were not. Take one out when it is clean.
PENDING: frozenset[str] = frozenset()

# What is found, and what to write instead.
TURNS: tuple[tuple[str, str], ...] = (
    (r"\bM: ", "measured:, and by which benchmark"),
    (r"\bmend(s|ed|ing)?\b", "fix, repair"),
    (r"\btold\b", "reported, given, informed"),
    (r"\bpassed over\b", "ignored, skipped"),
    (r"\bat the most\b", "at most"),
    (r"\bat the least\b", "at least"),
    (r"\bone's own\b", "your own, custom"),
    (r"\blaws?\b", "rule, policy"),
    (r"\bstands?\b(?! for\b)", "is, are, comes"),
    (r"\bheld\b(?![- ](?:out|back)\b|:|``)", "existing, stored, kept"),
    (r"(?<!there )(?<!There )\bis no\b(?! (?:longer|more))", "is not a"),
    (r"(?<!there )(?<!There )\bare no\b(?! (?:longer|more))", "are not"),
    (r"\bfor the clock\b", "to estimate the time"),
    (r"\bslip of the finger\b", "typo"),
    (r"\blet loose\b", "started"),
    (r"\boftener\b", "more often"),
    (r"\bwants? a person\b", "needs manual attention"),
    (r"\b(?:can't|cannot) be asked\b", "is unreachable, does not support this query"),
    (r"\bgive(?:s)? word\b(?! vectors)|\bleave(?:s)? word\b|\blast words\b", "report, last line of the log"),
    (r"\bwho (?:has|have) to\b", "callers that must"),
    (r"\bfor who\b", "for callers that"),
    (r"\bthat there (?:is|are)\b", "existing"),
    (r"\bwhat there is\b", "the existing ..."),
    (r"\bis of use\b|\bof no (?:use|interest)\b", "is useful, is irrelevant"),
    (r"\bhas (?:it|them) (?:read|made|done)\b", "an active verb"),
    (r"\bbeg[ai]ns? anew\b|\bbegun anew\b", "restarts, restarted"),
    (r"\bnot yet there\b|\bnot there yet\b", "does not exist yet"),
    (r"\bas it (?:were|came)\b", "unchanged"),
    (r"\bthe whole is\b", "all of ..."),
    (r"\bsuch a one\b|\bsuch one\b", "one of these"),
    (r"\bmay be left out\b", "is optional"),
    (r"\bin a process of (?:its|their) own\b", "in a separate process"),
    (r"\bRaised when\b", "Increase it when (a REVISION)"),
    (r"\bfor a person\b", "as text, for users"),
    (r"\b(?:can't|cannot) be had\b", "is unavailable, is not supported"),
    (r"\btakes? (?:it|the process) down\b|\btakes its process down\b", "crashes the process"),
    (r"\btells? apart\b|\btold apart\b", "distinguishes"),
    (r"\bof which there (?:is|are)\b|\bwhere there (?:is|are) none\b", "if there is none"),
    (r"\bhanded? (?:it|them) on\b|\bhands on\b", "passes, yields"),
    (r"\bas said\b|\bis said of\b", "as described, is reported for"),
)


def prose_of_python(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each comment and string of a Python file, line by line."""
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type in (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
                for number, line in enumerate(io.StringIO(token.string)):
                    yield token.start[0] + number, line.rstrip("\n")


def prose_of_page(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line number and text of each line outside of fenced blocks."""
    fenced = False
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, re.sub(r"`[^`]*`", "``", line)


def findings(path: Path) -> Iterator[str]:
    """Yield a sentence for each turn in a file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    prose = prose_of_python(path) if path.suffix == ".py" else prose_of_page(path)
    for number, text in prose:
        if lines[number - 1].rstrip(" .").endswith("words: ok"):
            continue
        for turn, instead in TURNS:
            for match in re.finditer(turn, text, re.IGNORECASE if turn.islower() else 0):
                yield f"{path.relative_to(ROOT)}:{number}: {match[0]!r}; write {instead}"


def files(names: list[str]) -> Iterator[Path]:
    """Yield the files to look at."""
    if names:
        for name in names:
            path = (ROOT / name).resolve()
            yield from (
                [path] if path.is_file() else sorted([*path.rglob("*.py"), *path.rglob("*.md"), *path.glob("*.md")])
            )
        return
    for name in PAGES:
        path = ROOT / name
        yield from [path] if path.is_file() else sorted(each for each in path.rglob("*.md") if each.name not in PENDING)
    for name in SWEPT:
        for path in sorted((ROOT / name).rglob("*.py")):
            if path != Path(__file__).resolve() and path.relative_to(ROOT).as_posix() not in PENDING_FILES:
                yield path


def main(names: list[str]) -> int:
    """List what is found."""
    found = [sentence for path in dict.fromkeys(files(names)) for sentence in findings(path)]
    print(*found, sep="\n", end="\n" if found else "")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
