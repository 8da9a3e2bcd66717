"""A hook of mkdocs: each notebook of the docs is run from start to end, and becomes a page of what it prints and draws.

Notebooks lie in the repository without outputs. A cell that fails ends the build. ``notebooks.py NOTEBOOK FOLDER``
writes one page and its pictures to a folder.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

BAR = r"\d+%\|"  # of progress


def on_files(files: Any, config: Any) -> Any:
    from mkdocs.exceptions import PluginError
    from mkdocs.structure.files import File

    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        with tempfile.TemporaryDirectory() as made, tempfile.TemporaryDirectory() as folder:
            environment = os.environ | {"PYTHONWARNINGS": "ignore", "MPLBACKEND": "agg"}
            words = [sys.executable, __file__, file.abs_src_path, made]
            done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise PluginError(f"{file.src_uri}: a cell failed\n{done.stderr[-3000:]}")
            for path in sorted(Path(made).iterdir()):
                name = f"{Path(file.src_uri).parent.as_posix()}/{path.name}"
                content = path.read_text(encoding="utf-8") if path.suffix == ".md" else path.read_bytes()
                files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Other pages link to the notebook, which is there without the site too; on the site they lead to its page."""
    return markdown if page.file.generated_by else markdown.replace(".ipynb)", ".md)")


def write_page(notebook: Path, folder: Path) -> None:
    """Run a notebook in the current folder, and write ``NAME.md`` and ``NAME_1.png``, ``NAME_2.png``, ..."""
    names: dict[str, Any] = {"shell": shell}
    parts, pictures = [], 0
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = io.StringIO()
        with redirect_stdout(printed):
            drawn = run(source, names)
        if text := printed.getvalue().replace(f"{os.getcwd()}/", "").strip():
            parts.append(f"```text\n{text}\n```")
        for picture in drawn:
            pictures += 1
            name = f"{notebook.stem}_{pictures}.png"
            (folder / name).write_bytes(picture)
            parts.append(f"![What the cell draws]({name})")
    parts.append(f"[This page as a notebook]({notebook.name})")
    (folder / f"{notebook.stem}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def run(source: str, names: dict[str, Any]) -> list[bytes]:
    """Run a cell as a notebook does: print the value of its last line, or draw it. The pictures are returned."""
    tree = ast.parse(as_python(source))
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last else None
    pictures = figures()
    if hasattr(value, "_repr_png_"):  # a picture of PIL
        pictures.append(value._repr_png_())
    elif value is not None and not pictures:
        print(repr(value))
    return pictures


def as_python(source: str) -> str:
    return re.sub(r"^!(.*)$", lambda line: f"shell({line[1]!r})", source, flags=re.MULTILINE)


def shell(command: str) -> None:
    ours = command.replace("sam-monai ", f"{shlex.quote(sys.executable)} -m sam_monai ", 1)  # of this installation
    done = subprocess.run(ours, shell=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print("\n".join(line for line in done.stdout.split("\n") if not re.search(BAR, line)))
    if done.returncode:
        raise SystemExit(f"{command}\n{done.stdout}")


def figures() -> list[bytes]:
    """The figures that matplotlib has open, which are closed."""
    if "matplotlib.pyplot" not in sys.modules:
        return []
    from matplotlib import pyplot

    drawn = []
    for number in pyplot.get_fignums():
        file = io.BytesIO()
        pyplot.figure(number).savefig(file, format="png", bbox_inches="tight", dpi=80)
        drawn.append(file.getvalue())
    pyplot.close("all")
    return drawn


if __name__ == "__main__":
    write_page(Path(sys.argv[1]), Path(sys.argv[2]))
