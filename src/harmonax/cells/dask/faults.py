"""What distributed says when workers die again and again, or its scheduler goes away, as one error of ours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import CancelledError

from ...errors import HarmonaxError
from ...system.extras import need


@contextlib.contextmanager
def cluster_errors() -> Iterator[None]:
    """Raise these as `HarmonaxError`; errors of the user's graph come out as they are."""
    distributed = need("distributed", "dask")
    try:
        yield
    except distributed.KilledWorker as error:
        raise HarmonaxError(
            f"the workers of the Dask cluster died one after another (of '{error.task}'): they have too little memory, "
            "or something ends them, which their logs say; give them more memory, or the embedding smaller chunks"
        ) from None
    except (CancelledError, distributed.comm.CommClosedError) as error:
        said = (str(error).splitlines() or ["it does not say why"])[0]
        raise HarmonaxError(
            f"the Dask cluster let go of what this run has there ({said}): its scheduler was restarted, or lost this "
            "client; run again"
        ) from None
