#!/usr/bin/env python3
"""Makes exeio.pyz, one file that is all of exeio: `python3 tests/build_pyz.py [FILE]`; needs no package.

The same sources give the same bytes, whatever builds them, where and when: entries are sorted, their times and modes
fixed, and nothing is compressed, since the compressors of two Pythons need not agree. (What runs is not slower for it.)
"""

import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Iterator, Tuple

ROOT = Path(__file__).resolve().parent.parent
SHEBANG = b"#!/usr/bin/env python3\n"
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # that a zip file can name
MODE = 0o644
UNIX = 3


def entries() -> Iterator[Tuple[str, Path]]:
    """What goes in: the name within the archive, and the file it is made of."""
    yield "LICENSE", ROOT / "LICENSE"
    yield "__main__.py", ROOT / "exeio.py"
    for path in (ROOT / "exeio_core").glob("*.py"):
        yield f"exeio_core/{path.name}", path


def build(target: Path) -> None:
    """Write the archive to `target`, executable for all; whoever reads meanwhile sees the old or the new one whole."""
    number, name = tempfile.mkstemp(prefix=".exeio-", suffix=".pyz", dir=str(target.parent))
    try:
        with open(number, "wb") as file:
            file.write(SHEBANG)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for entry, path in sorted(entries()):
                    info = zipfile.ZipInfo(entry, FIRST_DAY)
                    info.create_system = UNIX
                    info.external_attr = (0o100000 | MODE) << 16
                    archive.writestr(info, path.read_bytes())
        os.chmod(name, 0o755)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


if __name__ == "__main__":
    made = Path(sys.argv[1] if len(sys.argv) > 1 else "exeio.pyz").absolute()
    build(made)
    print(made)
