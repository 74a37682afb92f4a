"""Clock differences: Flower's SuperLink refuses a signature with a wrong time, without giving the difference."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any

from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

REFUSAL = "Invalid timestamp"
"""The text of Flower's refusal."""

AHEAD_SECONDS = SYSTEM_TIME_TOLERANCE
BEHIND_SECONDS = TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE
"""How far a site's clock may be ahead of the server's, and behind it."""


def tell_the_time() -> None:
    """Make the SuperLink of this process add its time to such a refusal."""
    from flwr.server.superlink.fleet.grpc_rere import node_auth_server_interceptor as interceptor

    plain = interceptor._unary_unary_rpc_terminator

    def terminator(message: str, *code: Any) -> Any:
        told = f"{message}; it is {datetime.now(UTC).isoformat()}" if message == REFUSAL else message
        return plain(told, *code)

    interceptor._unary_unary_rpc_terminator = terminator  # type: ignore[assignment]


def difference(details: str) -> str:
    """The explanation of a refusal for the site."""
    bounds = f"the server takes {AHEAD_SECONDS} s ahead and {BEHIND_SECONDS} s behind"
    found = re.search(r"; it is (\S{10,40})$", details)
    try:
        ahead = (datetime.now(UTC) - datetime.fromisoformat(found[1])).total_seconds() if found else None
    except (ValueError, TypeError):  # no time, or one without a zone
        ahead = None
    if ahead is None:
        return f"this machine's clock is too far ahead of the server's, or behind it ({bounds}); set it"
    way = "ahead of" if ahead > 0 else "behind"
    return f"this machine's clock is {abs(ahead):,.0f} s {way} the server's ({bounds}); set it"
