"""The Markdown pages: links, documented commands, line length and wording. Needs no TensorFlow."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

import tpu_tlm
from tests.paths import ROOT
from tpu_tlm.config import cli
from tpu_tlm.config.command_table import COMMANDS

# The commands that `python -m` and `tpu-tlm` know, also as the first argument of an image.
_COMMAND = re.compile(r"(?:\bpython\S*\s+-m\s+tpu_tlm[. ]|\btpu-tlm(?::\w+)?\s+)([a-z]\w*)(.*)")
_MODULE = re.compile(r"\bpython\S*\s+-m\s+((?:benchmarks|tests)\.[\w.]+)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FILE = re.compile(r"`([\w.-]+(?:/[\w.-]+)+\.(?:py|md|ya?ml|sh|txt|ipynb))(?=[`:])")
_ADDING = re.compile(r"docs/(adding_\w+|own_objective)\.md")
# Words that only an author understands, or that say less than the field's term.
_PRIVATE = re.compile(
    r"\b(?:mend(?:s|ed|ing)?|riddles?|passed over|told apart|asked of|is heard|hear the others)\b"
    r"|\b(?:met|meets|has met) (?:no |a )?(?:hardware|TPU|GPU)|\bbury the last"
    r"|\bbeside it lies|\bso many\b|\blot by lot|\b(?:last|whole) lots?\b|\bsees others",
    re.IGNORECASE,
)


def _pages() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    # A source archive has no repository.
    found = listed.stdout.split() if listed.returncode == 0 else []
    return found or sorted(
        str(path.relative_to(ROOT))
        for part in (".", "docs", "benchmarks", "docker", "manifests")
        for path in (ROOT / part).glob("*.md")
    )


PAGES = [page for page in _pages() if (ROOT / page).is_file()]
RECIPES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "recipes").glob("*.yaml"))


def _text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def _code_lines(page: str) -> list[tuple[int, str]]:
    """Line numbers and lines of code: blocks of a page, or the comments that head a recipe.

    Backslash continuations are joined.
    """
    lines, found, fence = _text(page).splitlines(), [], False
    for number, line in enumerate(lines, 1):
        if page.endswith(".yaml"):
            if line.startswith("#"):
                found.append((number, line[1:].partition("Commands:")[2] or line[1:]))
        elif line.lstrip().startswith("```"):
            fence = not fence
        elif fence or line.startswith("    "):
            found.append((number, line))
    joined: list[tuple[int, str]] = []
    for number, line in found:
        if joined and joined[-1][1].endswith("\\"):
            joined[-1] = (joined[-1][0], joined[-1][1][:-1] + " " + line.strip())
        else:
            joined.append((number, line.rstrip()))
    return joined


def _inline(page: str) -> Iterator[tuple[int, str]]:
    """Line numbers and contents of inline code, which may run over the end of a line."""
    text = re.sub(r"^```.*?^```", lambda m: "\n" * m[0].count("\n"), _text(page), flags=re.M | re.S)
    for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
        yield text.count("\n", 0, match.start()) + 1, " ".join(match[1].split())


def words_of(rest: str) -> list[str]:
    """The arguments of a command, up to a comment, pipe or another command."""
    lexer = shlex.shlex(rest, posix=True, punctuation_chars="|;&<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("|;&<>()"):
            break
        words.append(word)
    return words


def documented() -> Iterator[tuple[str, str, str]]:
    """Every documented command: page and line, name, arguments."""
    for page in [*PAGES, *RECIPES]:
        code = _code_lines(page)
        if page.startswith("docs/adding_"):
            continue  # Their options exist once the example is added; other tests run them.
        for number, line in [*code, *(_inline(page) if page.endswith(".md") else ())]:
            if (match := _COMMAND.search(line)) and match[1] != "help":
                yield f"{page}:{number}", match[1], match[2]


def test_there_is_something_to_check():
    assert len(PAGES) > 10 and len(RECIPES) > 5 and len(list(documented())) > 60


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in _LINK.findall(_text(page)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), f"{page}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", there.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert anchor in slugs, f"{page}: {target}"


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page):
    # Pages on adding something name files to be written; those of the tests, other projects' files.
    if _ADDING.fullmatch(page) or page.startswith("tests/"):
        return
    # Files of the product are named from the root or from the package.
    rooms = {path.name for base in (ROOT, ROOT / "tpu_tlm") for path in base.iterdir()}
    for name in _FILE.findall(_text(page)):
        if name.partition("/")[0] in rooms and "NAME" not in name:
            bases = (ROOT, ROOT / "tpu_tlm", (ROOT / page).parent)
            assert any((base / name).exists() for base in bases), f"{page}: {name}"


@pytest.mark.parametrize("case", list(documented()), ids=lambda case: f"{case[0]}-{case[1]}")
def test_documented_commands_parse(case):
    where, name, rest = case
    if name not in COMMANDS:
        # A page may come before the table of its command; the module has its own parser.
        assert (ROOT / "tpu_tlm" / f"{name}.py").is_file(), f"{where}: no command {name}"
        return
    words = words_of(rest)
    if not words:
        return  # The command's name alone.
    shortened = "..." in words
    words = [word for word in words if word != "..."]
    if name == "doctor":
        words = [word for word in words if "/" not in word]  # Paths to check, read by the command.
    if "--config" in words:
        index = words.index("--config")
        file = ROOT / words.pop(index + 1)
        # A file of the reader's own cannot be read here.
        words[index : index + 1] = ["--config", str(file)] if file.is_file() else []
    groups, prog = COMMANDS[name].groups, f"tpu_tlm.{name}"
    if shortened:
        # Arguments are left out on purpose: only the flags can be checked.
        known = cli.build_parser(prog, "", groups)._option_string_actions
        flags = [word.partition("=")[0] for word in words if word.startswith("--")]
        help_ = {"--help", "--help-all", "--version"}
        assert not [f for f in flags if f not in known and f not in help_], where
        return
    try:
        cli.parse(prog, "", groups, words, check_required=False)
        if name == "train":
            # Whatever is trained can be planned, with the same options.
            planned = [*words, "--tpu", "v5e-1"] if "--tpu" not in words else words
            cli.parse("tpu_tlm.plan", "", COMMANDS["plan"].groups, planned, check_required=False)
    except SystemExit as stop:  # --help
        assert stop.code == 0, where


def test_the_snippet_on_configurations_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, *_ = re.findall(r"^```python\n(.*?)^```", _text("docs/configuration.md"), re.M | re.S)
    names: dict[str, Any] = {}
    exec(compile(first, "docs/configuration.md", "exec"), names)
    assert names["config"].run.steps == 20000 and names["config"].optim.lr == 1e-3


@pytest.mark.parametrize("page", PAGES)
def test_named_modules_and_make_targets_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for _, line in [*_code_lines(page), *_inline(page)]:
        for module in _MODULE.findall(line):
            assert (ROOT / (module.replace(".", "/") + ".py")).is_file(), f"{page}: {module}"
        if match := re.match(r"\s*(?:\w+='?\S+'? )?make ([a-z][a-z-]*)\b", line):
            assert match[1] in targets, f"{page}: make {match[1]}"


@pytest.mark.parametrize("page", PAGES)
def test_lines_end_at_100_columns(page):
    """Tables, links and code that Markdown cannot break may be longer."""
    for number, line in enumerate(_text(page).splitlines(), 1):
        unbreakable = line.startswith("|") or re.fullmatch(r"\s*\S+", line)
        assert len(line) <= 100 or unbreakable, f"{page}:{number}: {len(line)} columns"


@pytest.mark.parametrize("page", PAGES)
def test_pages_use_the_terms_of_the_field(page):
    for number, line in enumerate(_text(page).splitlines(), 1):
        found = _PRIVATE.search(line)
        assert not found, f"{page}:{number}: {found and found[0]!r}"


def test_every_variable_of_the_environment_is_documented():
    page = (ROOT / "docs/reference/environment.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", page))
    code = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tpu_tlm").rglob("*.py"))
    read = set(re.findall(r'environ(?:\.get\(|\[)"([A-Z0-9_]+)"', code))
    read |= set(re.findall(r'"(TPU_TLM_[A-Z_]+)"', code))
    # Set by this package for a process of its own.
    own = {"TPU_TLM_PLAN_CHILD", "MLFLOW_ALLOW_FILE_STORE", "TOKENIZERS_PARALLELISM"}
    assert len(read) > 8 and read - own <= named, read - own - named
    assert not [n for n in named if n not in code and not n.startswith(("GOOGLE_", "CUDA_"))]


def test_the_citation_and_the_templates_are_what_their_readers_expect():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= set(cited)
    assert cited["version"] == tpu_tlm.__version__ and cited["authors"][0]["name"]
    templates = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.md"))
    assert len(templates) >= 2
    for path in templates:
        _, head, body = path.read_text(encoding="utf-8").split("---\n", 2)
        assert {"name", "about", "labels"} <= set(yaml.safe_load(head)) and body.strip()
    for name in ("CODE_OF_CONDUCT.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE"):
        assert (ROOT / name).stat().st_size > 500, name
    assert tpu_tlm.__version__ in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_readme_is_one_screen_first():
    """What, picture, one command and Python stand before everything else."""
    first = "\n".join(_text("README.md").splitlines()[:32])
    for part in ("![", "tpu-tlm quickstart", "```python", "fill_mask", "docs/tutorial.md"):
        assert part in first, part
