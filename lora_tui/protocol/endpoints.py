"""The endpoints of a run in words, as a progress event has each: busy with what, or left out and why.

Small and apart: the command line and the app both say it. Foreign text is made safe by whoever shows it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lora_tui.text import one_line

_ASKED = ("works", "tried")


def endpoint_line(one: Mapping[str, Any]) -> str:
    """Return an endpoint as it is now: "http://one:8000/v1: 46 of 48 in flight · 812 tokens/s · 1,204 done"."""
    url, state = one_line(str(one.get("url", "")), 60), str(one.get("state", ""))
    if state not in _ASKED:
        what = "is left out" if state == "left out" else "is away, looked at every few seconds"
        return f"{url} {what}: {one_line(str(one.get('reason', '')), 200)}"
    if state == "tried":
        return f"{url} answers again, one call is to prove it"
    of = f" of {int(one.get('limit') or 0):,}" if one.get("limit_found") else ""
    figures = f"{int(one.get('in_flight') or 0):,}{of} in flight · {float(one.get('tokens_per_s') or 0):,.0f} tokens/s"
    roles = [str(role) for role in one.get("roles") or ()]
    role = f" · {roles[0]}" if len(roles) == 1 else ""
    return f"{url}: {figures} · {int(one.get('answers') or 0):,} done{role}"


def asked_count(endpoints: Sequence[Mapping[str, Any]]) -> int:
    """Return how many endpoints are asked now."""
    return sum(one.get("state") in _ASKED for one in endpoints)
