"""Keys by which clients know each other beyond one attempt: those that a federation's register has, NIST P-384."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA384

from fedlens.errors import ProtocolError

_HALF = 48
REGISTERED_BYTES = 2 * _HALF
"""Bytes of a signature: r and s of ECDSA (FIPS 186-5); zeros where a client has no registered key."""


@dataclass(frozen=True)
class RegisteredKeys:
    """What one client has of them.

    own    its private key; None: it has none
    peers  the public keys of the clients with which it aggregates, by name; None: it does not ask for signatures
    """

    own: EllipticCurvePrivateKey | None = None
    peers: Mapping[str, EllipticCurvePublicKey] | None = None

    def sign(self, message: bytes) -> bytes:
        if self.own is None:
            return bytes(REGISTERED_BYTES)
        r, s = decode_dss_signature(self.own.sign(message, ECDSA(SHA384())))
        return r.to_bytes(_HALF, "big") + s.to_bytes(_HALF, "big")

    def check(self, client: str, signature: bytes, message: bytes) -> None:
        """Raises ProtocolError: the client is none of the peers, or has not signed `message`."""
        if self.peers is None:
            return
        if client not in self.peers:
            raise ProtocolError(f"{client} is none of the clients whose keys are known here")
        r, s = (int.from_bytes(signature[at : at + _HALF], "big") for at in (0, _HALF))
        try:
            self.peers[client].verify(encode_dss_signature(r, s), message, ECDSA(SHA384()))
        except InvalidSignature as error:
            raise ProtocolError(f"{client} has not signed its keys with its registered key") from error


NO_KEYS = RegisteredKeys()
