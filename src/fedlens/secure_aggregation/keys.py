"""Keys of one attempt: X25519 (RFC 7748) for masks and encryption, Ed25519 (RFC 8032) for signatures, HKDF-SHA256
(RFC 5869) for every symmetric key. All from the package `cryptography`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import accumulate

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedlens.core.randomness import KEY_BYTES, random_bytes
from fedlens.errors import ProtocolError
from fedlens.secure_aggregation.registered import NO_KEYS, REGISTERED_BYTES, RegisteredKeys
from fedlens.secure_aggregation.session import Session

SIGNATURE_BYTES = 64
ADVERT_BYTES = 3 * KEY_BYTES + SIGNATURE_BYTES + REGISTERED_BYTES


@dataclass(frozen=True)
class Advert:
    """A client's public keys of one attempt, and its signatures of them.

    signature   by `signing_key`
    registered  by the client's registered key, where it has one
    """

    mask_key: bytes
    cipher_key: bytes
    signing_key: bytes
    signature: bytes = b""
    registered: bytes = b""

    def to_bytes(self) -> bytes:
        return self.mask_key + self.cipher_key + self.signing_key + self.signature + self.registered

    @classmethod
    def from_bytes(cls, content: bytes) -> Advert:
        """Raises ProtocolError: `content` has another length."""
        if len(content) != ADVERT_BYTES:
            raise ProtocolError(f"public keys of {len(content)} bytes instead of {ADVERT_BYTES}")
        ends = list(accumulate((KEY_BYTES, KEY_BYTES, KEY_BYTES, SIGNATURE_BYTES, REGISTERED_BYTES)))
        return cls(*(content[start:end] for start, end in zip((0, *ends), ends, strict=False)))

    def signed(self, client: str, session: Session) -> bytes:
        """What the signatures are of."""
        return session.label("keys", client) + self.mask_key + self.cipher_key + self.signing_key

    def check(self, client: str, session: Session, known: RegisteredKeys = NO_KEYS) -> None:
        """Raises ProtocolError: a signature is not of these keys, this client and this attempt."""
        message = self.signed(client, session)
        verify(self.signing_key, self.signature, message, f"the public keys of {client}")
        known.check(client, self.registered, message)


@dataclass(frozen=True)
class PrivateKeys:
    """A client's private keys of one attempt, as raw bytes."""

    mask_key: bytes
    cipher_key: bytes
    signing_key: bytes

    @classmethod
    def new(cls) -> PrivateKeys:
        """Raises RuntimeFailure: the system has no source of randomness."""
        return cls(random_bytes(KEY_BYTES), random_bytes(KEY_BYTES), random_bytes(KEY_BYTES))

    @property
    def public(self) -> Advert:
        """The public keys, not signed yet."""
        signing = Ed25519PrivateKey.from_private_bytes(self.signing_key).public_key().public_bytes_raw()
        return Advert(public_key(self.mask_key), public_key(self.cipher_key), signing)

    def advert(self, client: str, session: Session, known: RegisteredKeys = NO_KEYS) -> Advert:
        """The public keys, signed."""
        message = self.public.signed(client, session)
        return replace(self.public, signature=self.sign(message), registered=known.sign(message))

    def sign(self, message: bytes) -> bytes:
        return Ed25519PrivateKey.from_private_bytes(self.signing_key).sign(message)


def public_key(private: bytes) -> bytes:
    """The X25519 public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def agree(private: bytes, public: bytes, label: bytes) -> bytes:
    """The 256-bit key that two clients share, bound to `label`: each makes it from its own private key and the other's
    public key.

    Raises:
        ProtocolError: `public` is one of the few points that give everybody the same key.
    """
    try:
        shared = X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError as error:
        raise ProtocolError("a public key that is none") from error
    return derived(shared, label)


def derived(secret: bytes, label: bytes) -> bytes:
    """A 256-bit key from a secret, bound to `label`."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=label).derive(secret)


def verify(public: bytes, signature: bytes, message: bytes, what: str) -> None:
    """Raises ProtocolError: `signature` is not one of `message` by that key."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError) as error:
        raise ProtocolError(f"a forged signature of {what}") from error
