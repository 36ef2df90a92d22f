"""mkdocs hook: the front page (README), the folders' pages and the API reference, formulas, and links out of docs/.

In the repository a guide may point at a source file; on the site, where there is none, such a link is its text.
Formulas become MathML, which browsers draw themselves: the site needs no network and no script for them.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
#: Code is left alone; what remains between dollars is a formula.
_FORMULA = re.compile(r"(```.*?```|`[^`\n]*`)|\$\$(.+?)\$\$|\$([^$\n]+?)\$", re.DOTALL)
#: Folder of guides -> its title in the navigation.
FOLDERS = {"maths": "The maths", "extend": "Extending it"}


def modules() -> dict[str, list[str]]:
    """Public modules by package, with a docstring, in order."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "threedistill").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        if any(p.startswith("_") and p != "__init__" for p in parts) or "commands" in parts:
            continue
        name = ".".join(p for p in parts if p != "__init__")
        if ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))):
            group = parts[1] if len(parts) > 2 else "threedistill"
            found.setdefault(group, []).append(name)
    return found


def on_config(config: Any) -> Any:
    """Adds what the folders hold to the navigation."""
    for folder, title in FOLDERS.items():
        pages = [f"{folder}/{p.name}" for p in sorted((DOCS / folder).glob("*.md"))]
        config.nav.append({title: pages})
    config.nav.append({"API": [{group: f"api/{group}.md"} for group in modules()]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """The front page and one API page per package."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    files.append(File.generated(config, "index.md", content=readme))
    for group, names in modules().items():
        content = f"# {group}\n\n" + "\n\n".join(f"::: {name}" for name in names) + "\n"
        files.append(File.generated(config, f"api/{group}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Formulas become MathML; links to files and folders that are not on the site become their text."""
    here = Path(page.file.src_uri).parent

    def link(match: re.Match[str]) -> str:
        label, target, _ = match.groups()
        if re.match(r"[a-z]+:", target):
            return match.group(0)
        place = (DOCS / here / target).resolve()
        inside = place.is_relative_to(DOCS) and place.is_file()
        return match.group(0) if inside or files.get_file_from_path(target) else label

    def formula(match: re.Match[str]) -> str:
        code, display, inline = match.groups()
        if code:
            return code
        if display:
            return f"<div>{convert(display, display='block')}</div>"
        return f"<span>{convert(inline)}</span>"  # markdown would take a bare <math> for a block

    return _FORMULA.sub(formula, _LINK.sub(link, markdown))
