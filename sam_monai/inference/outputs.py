"""Result files: none replaces a file that this package did not write for that very case."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..data.made import LISTS, Written, digest, written
from ..errors import InputError
from ..files import as_bytes, aside, cannot_write
from ..locks import NO_LINK

RUN = ""  # the case of files that belong to a whole run, such as a report


class Outputs:
    """The way of every result into its folder.

    ``written/<rank>.jsonl`` in the folder lists each file with the case that it was written for and the
    SHA-256 of its content. A file that is there and not listed so belongs to somebody else and stays: an image, the
    results of another program, a mask that somebody has corrected. Names are compared without regard to case, as some
    disks do.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def check(self, claims: Iterable[tuple[Path, str]]) -> None:
        """Find out before the work whether files can be written. A claim is a path, and the image of the case that it
        belongs to, or :data:`RUN`."""
        listed = written(self.folder)
        claimed: dict[str, str] = {}
        for path, case in claims:
            if (other := claimed.setdefault(self.key(path), case)) != case:
                raise InputError(f"{path}: would hold the results of both {other} and {case}; rename one of them")
            self.refuse_another(path, case, listed)

    @contextmanager
    def writing(self, path: Path, case: str | Path = RUN) -> Iterator[Path]:
        """The path of a part that takes the place of ``path``, as :func:`sam_monai.files.aside` gives it. Refused where
        ``path`` holds something else."""
        self.refuse_another(path, str(case))
        with aside(path) as part:
            yield part
            # Listed before it is there: a kill between the two leaves a file that is known.
            self.note({"file": self.key(path), "case": identity(case), "sha256": digest(part)})

    def write(self, content: str, path: Path, case: str | Path = RUN) -> None:
        """Text in UTF-8 through :meth:`writing`."""
        with self.writing(path, case) as part:
            part.write_bytes(as_bytes(content))

    def remove(self, path: Path, case: str | Path = RUN) -> None:
        """Remove what an earlier run wrote for that very case and this one does not write. What is somebody else's
        stays."""
        if os.path.lexists(path):
            if digest(path) in written(self.folder).get(self.key(path), {}).get(identity(str(case)), set()):
                path.unlink()

    def refuse_another(self, path: Path, case: str, listed: Written | None = None) -> None:
        if not os.path.lexists(path):
            return
        found = digest(path)  # before the list is read: another process lists what it writes first
        of = (written(self.folder) if listed is None else listed).get(self.key(path), {})
        if found in of.get(identity(case), set()):
            return
        owner = next((owner for owner, known in of.items() if found in known), None)
        if owner is not None:
            what = f"holds the results of {owner}"
        else:
            what = "has been changed since this package wrote it" if of else "was not written by this package"
        raise InputError(
            f"{path}: is there already and {what}; the results of {case or 'this run'} would replace it: "
            "name another folder by the key output_dir, or move the file away"
        )

    def key(self, path: Path) -> str:
        return os.path.relpath(path, self.folder).casefold()

    def note(self, entry: dict[str, str]) -> None:
        path = self.folder / LISTS / f"{int(os.environ.get('RANK', 0))}.jsonl"
        if path.parent.is_symlink():
            raise InputError(f"{path.parent}: is a link, and what is listed there would land elsewhere: remove it")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # A line that a kill cut short ends where this one begins.
            with open(
                path, "a", encoding="utf-8", opener=lambda name, how: os.open(name, how | NO_LINK, 0o666)
            ) as file:
                file.write(f"\n{json.dumps(entry)}\n")
        except OSError as error:
            raise cannot_write(path, error) from error


def picture_file(folder: Path, name: str, spatial_dims: int) -> Path:
    """The picture that shows a case and its mask; of a 2D image, with a name that no image and no mask has."""
    return folder / f"{name}{'_picture' if spatial_dims == 2 else ''}.png"


def identity(case: str | Path) -> str:
    """A case by its image's real path, whatever links lead there."""
    return os.path.realpath(case) if str(case) != RUN else RUN
