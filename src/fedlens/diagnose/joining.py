"""Checks that use a visit to the server: clocks, the key, versions, other clients."""

from __future__ import annotations

from importlib.metadata import version

from fedlens.diagnose.outcome import HEAR_SECONDS, Barred, Joined, Welcome
from fedlens.diagnose.subject import Subject
from fedlens.diagnose.verdict import Unseen, Verdict, fail, ok, warn

CLOCK_SECONDS = 30
AHEAD_SECONDS = 5
"""Flower rejects a signature that is more than this many seconds ahead, or more than five minutes old."""

_SET_CLOCK = "have both machines set their clocks by NTP (timedatectl)"
_MAKE_KEYS = "on the server's machine, fedlens certs create; then --certs on both sides"
_SAME = "install the same FedLens on both sides"


def clock(subject: Subject) -> Verdict | Unseen:
    """Check that the clocks agree: signatures contain the time."""
    met, signs = subject.met, subject.credentials is not None
    if isinstance(met, Welcome):
        return _difference(met.ahead, signs=signs)
    if isinstance(met, Barred) and met.why == "clock":
        return fail(met.text, _SET_CLOCK)
    if signs and (isinstance(met, Joined) or met.why == "key"):
        return ok("near enough to the server's, which took this site's signature")
    return Unseen("the server did not tell")


def _difference(ahead: float, *, signs: bool) -> Verdict:
    text = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    if -CLOCK_SECONDS < ahead < (AHEAD_SECONDS / 2 if signs else CLOCK_SECONDS):
        return ok(text)
    refused = f"; the server refuses more than {AHEAD_SECONDS} s ahead, or five minutes behind" if signs else ""
    return warn(f"{text}{refused}", _SET_CLOCK)


def authentication(subject: Subject) -> Verdict:
    """Check that the server accepts this site's key."""
    met, site = subject.met, subject.site
    if isinstance(met, Barred):
        return _not_let_in(subject) if met.why == "key" else _no_server(subject, met)
    if subject.credentials is None:
        text = "the server asks for no key"
        return ok(text) if subject.here else warn(text, _MAKE_KEYS)
    if isinstance(met, Welcome) and met.registered not in ("", site.client):
        return fail(
            f"the server knows this key as {met.registered}, and this site calls itself {site.client}",
            "give that client's --partition_id, or name: in site.yaml; or take the folder of this one for --certs",
        )
    return ok("the server lets this site's key in")


def _no_server(subject: Subject, met: Barred) -> Verdict:
    reason = met.text.rpartition("last error: ")[2]  # gRPC's innermost error message
    return fail(
        f"{subject.target} takes connections, but does not answer as a server of FedLens does ({reason})",
        "see that `fedlens server` has that port, and no other program",
    )


def _not_let_in(subject: Subject) -> Verdict:
    """Flower gives the same response for an unknown key and for a key that it considers connected."""
    if subject.client_runs:
        return warn(
            f"the server does not let this key in again: {subject.site.client} runs on this machine, and seems to be "
            "connected with it",
            "nothing, if that client says that it joined; else stop it, wait 25 s and ask again",
        )
    held = subject.credentials
    return fail(
        f"the server does not let this key in{f' ({held.fingerprint})' if held else ''}: it does not know it or has "
        "revoked it, or it still counts a client that is connected with it",
        "where a client with this key runs, or ended just now, wait 25 s without it and ask again; else the server's "
        "administrator looks for the key in what `fedlens certs show FOLDER` lists",
    )


def versions(subject: Subject) -> Verdict | Unseen:
    """Check that both sides run the same versions of FedLens and Flower."""
    met = subject.met
    own, flower = version("fedlens"), version("flwr")
    if isinstance(met, Barred):
        return Unseen("the server did not tell")
    if isinstance(met, Joined):
        return _unknown(met.text, f"here are FedLens {own} and Flower {flower}")
    if met.fedlens != own:
        return fail(f"FedLens is {own} here, {met.fedlens} at the server", _SAME)
    if not met.same_code:
        return fail(f"FedLens is {own} on both sides, but the code of the server's run is another", _SAME)
    if met.flwr != flower:
        return warn(f"Flower is {flower} here, {met.flwr} at the server", "install the same Flower on both sides")
    return ok(f"FedLens {own} and Flower {flower} on both sides")


def _unknown(text: str, here: str) -> Verdict:
    if text:
        return fail(f"{text}; {here}", f"{_SAME}, and give the address of a `fedlens server`")
    return warn(
        f"the server said nothing within {HEAR_SECONDS:g} s; {here}",
        "ask again, for it may be testing the model just now; else its run is over",
    )


def partition(subject: Subject) -> Verdict | Unseen:
    """Check that no other client uses this site's partition number."""
    met, own = subject.met, subject.site.partition_id
    if not isinstance(met, Welcome):
        return Unseen("the server did not tell")
    if own not in met.present:
        others = ", ".join(map(str, met.present))
        return ok(f"{own} is free; " + (f"taken: {others}" if others else "no other client is there"))
    if subject.client_runs:
        return warn(
            f"{own} is taken: it seems by {subject.site.client}, which runs on this machine",
            "nothing, if that is this site; else give another --partition_id",
        )
    free = next(number for number in range(len(met.present) + 1) if number not in met.present)
    return fail(
        f"{own} is taken by another client, or by this one if it was killed within the last 25 s",
        f"give each client a --partition_id of its own; {free} is free",
    )
