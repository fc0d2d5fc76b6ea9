"""Download Decathlon tasks, other data sets and published weights. ``--list`` shows them all."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cli.compose import parse
from cli.download import DownloadSettings, download


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 where what was asked for is in place."""
    settings = parse((DownloadSettings,), argv, "Download Decathlon tasks, other data sets and published weights.")[
        DownloadSettings
    ]
    try:
        download(settings)
    except KeyboardInterrupt:
        print("error: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
