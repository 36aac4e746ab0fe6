"""S3PRL's `run_downstream.py` with the upstreams of streamnest: `python -m streamnest.interop.s3prl -h`."""

from __future__ import annotations

from collections.abc import Sequence

from streamnest.console.entry_point import without_trace
from streamnest.errors import UserError
from streamnest.interop.s3prl.registration import register


@without_trace
def main(_argv: Sequence[str] | None = None) -> int:
    """Registers the upstreams and runs a downstream task of S3PRL with its own arguments."""
    register()
    try:
        from s3prl import run_downstream
    except ImportError as error:
        raise UserError(
            f"S3PRL's run_downstream cannot be imported ({error}): run pip install 'streamnest[s3prl]'"
        ) from None
    run_downstream.main()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
