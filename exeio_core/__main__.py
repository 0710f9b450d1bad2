"""Lets the package run as `python3 -m exeio_core`; `exeio.py` and the installed `exeio` come in by their own doors."""

from __future__ import annotations

import sys

from exeio_core.cli import main

sys.exit(main())
