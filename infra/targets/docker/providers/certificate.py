"""The proxy's own certificate: an authority of this stack, and a certificate that it signs.

For a server that nobody outside has to trust yet. Clients trust the authority's certificate, which
lies beside the profile and outlives every certificate of the server.
"""

from __future__ import annotations

import datetime
import ipaddress
from typing import TYPE_CHECKING, Any, ClassVar

from infra.files import write_file, write_private
from infra.sensitive import Sensitive
from infra.stack.locations import StackFolder
from infra.targets.docker.names import PROXY_USER, Names
from infra.targets.docker.providers.secret_file import is_written, write_secret
from infra.targets.docker.proxy_settings import CERTIFICATE, KEY
from infra.targets.providers.provider import Properties, Provider

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

AUTHORITY_DAYS = 3650
DAYS = 397  # the longest that clients accept
RENEW_DAYS = 60


class OwnCertificate(Provider):
    """Inputs: `prefix`, `image`, `host`. Outputs: `not_after` (ISO 8601), `fingerprint`.

    `up` makes a new certificate when the old one has less than 60 days left.
    """

    outputs: ClassVar[tuple[str, ...]] = (
        "fingerprint",
        "not_after",
    )

    compared: ClassVar[tuple[str, ...]] = ("prefix", "host")

    def make(self, folder: StackFolder, inputs: Properties) -> tuple[str, Properties]:
        from cryptography.hazmat.primitives import hashes

        authority, signing_key = _authority(folder)
        certificate, key = _issue(authority, signing_key, str(inputs["host"]))
        names = Names(inputs["prefix"])
        chain = _pem(certificate) + _pem(authority)
        for name, text in ((KEY, _key_pem(key)), (CERTIFICATE, chain)):
            write_secret(names, inputs["image"], name, PROXY_USER, Sensitive(text))
        return names.prefix, {
            "not_after": certificate.not_valid_after_utc.isoformat(),
            "fingerprint": certificate.fingerprint(hashes.SHA256()).hex(),
        }

    def drift(self, folder: StackFolder, outputs: Properties) -> str | None:
        if not is_written(Names(outputs["prefix"]), outputs["image"], CERTIFICATE):
            return "its file is gone"
        if not folder.authority.is_file():
            return f"{folder.authority} is gone"
        ends = datetime.datetime.fromisoformat(outputs["not_after"])
        left = ends - datetime.datetime.now(datetime.UTC)
        return f"it ends in {left.days} days" if left.days < RENEW_DAYS else None


def _authority(folder: StackFolder) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """The stack's authority, made once."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    if folder.authority.is_file() and folder.authority_key.is_file():
        key = serialization.load_pem_private_key(folder.authority_key.read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)  # noqa: S101  # we wrote it
        return x509.load_pem_x509_certificate(folder.authority.read_bytes()), key
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, f"letta-ops authority of {folder.stack}")]
    )
    made = _builder(name, name, key.public_key(), AUTHORITY_DAYS)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    made = made.add_extension(_usage(signs=True), critical=True)
    certificate = _signed(made, key, key)
    write_private(folder.authority_key, _key_pem(key))
    write_file(folder.authority, _pem(certificate), 0o644)
    return certificate, key


def _issue(
    authority: x509.Certificate, signing_key: ec.EllipticCurvePrivateKey, host: str
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host[:64])])
    made = _builder(name, authority.subject, key.public_key(), DAYS)
    known = sorted({host, "localhost", "127.0.0.1", "::1"})
    made = made.add_extension(x509.SubjectAlternativeName([_known_as(one) for one in known]), False)
    made = made.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    made = made.add_extension(_usage(signs=False), critical=True)
    purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    made = made.add_extension(purpose, critical=False)
    return _signed(made, key, signing_key), key


def _builder(subject: Any, issuer: Any, public_key: Any, days: int) -> x509.CertificateBuilder:
    from cryptography import x509

    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # Clocks differ a little.
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _signed(
    made: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    signing_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key())
    made = made.add_extension(own, critical=False).add_extension(signer, critical=False)
    return made.sign(signing_key, hashes.SHA256())


def _known_as(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM).decode()


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()
