"""SeaweedFS as the stack's S3 server: one port with S3's keys, and inner ports that nobody else can use.

Its master, volume server, filer and admin server have no users. They accept whoever shows a certificate that
they trust, over HTTP and gRPC. This stack trusts one, made at each start, whose key stays in the home.
"""

import ipaddress
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from infra.local.settings import LocalSettings
from infra.local.supervisor import Service
from registry.files import write_atomically
from registry.settings import home
from registry.storage.s3 import s3_client
from registry.storage.settings import StorageSettings

# The sections of `weed scaffold -config=security`: who listens, and the client in each of them.
_GRPC = ("master", "volume", "filer", "s3", "admin", "worker", "client")
_HTTPS = ("master", "volume", "filer", "admin")
# A server runs until `make down`; the next start makes another certificate.
_VALID = timedelta(days=3650)


def service(settings: LocalSettings) -> Service:
    """Return SeaweedFS as a service of the stack; `prepare` must have run before it starts."""
    master, volume, filer = (int(port) for port in settings.s3_internal_ports.split(","))
    data, certificates = _folder("s3"), _folder("s3-tls")
    return Service(
        name="s3",
        title="S3 (SeaweedFS)",
        port=settings.s3_port,
        extra_ports=(master, volume, filer),
        command=(
            *(str(Path(sys.executable).parent / "weed"), "-logtostderr=true", f"-config_dir={certificates}"),
            *("mini", f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
            *(f"-bucket={settings.s3_bucket}", f"-s3.port={settings.s3_port}"),
            *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}"),
            # These two sockets ask for no certificate. The paths are relative to the home: longer ones may
            # be too long. Those of gRPC are always in /tmp, and do ask.
            *("-filer.localSocket=tmp/filer.sock", "-s3.localSocket=tmp/s3.sock"),
            *("-webdav=false", "-admin.ui=false", "-master.telemetry=false"),
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        ),
        env=login(settings),
        ready=lambda: _bucket_answers(settings),
        variable="GREENROOM_S3_PORT",
    )


def login(settings: LocalSettings) -> dict[str, str]:
    """Return the variables with the keys of S3."""
    return {
        "AWS_ACCESS_KEY_ID": settings.s3_access_key.get_secret_value(),
        "AWS_SECRET_ACCESS_KEY": settings.s3_secret_key.get_secret_value(),
    }


def prepare() -> None:
    """Make a certificate, and the configuration that lets no other one in."""
    folder = _folder("s3-tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    public, private = _certificate()
    write_atomically(key, private, 0o600)
    write_atomically(certificate, public, 0o600)
    pair = f'cert = "{certificate}"\nkey = "{key}"\n'
    trust = f'ca = "{certificate}"\n'
    sections = [
        f"[grpc]\n{trust}",
        *(f"[grpc.{part}]\n{pair}" for part in _GRPC),
        *(f"[https.{part}]\n{pair}{trust}" for part in _HTTPS),
        f"[https.client]\nenabled = true\n{pair}{trust}",
    ]
    write_atomically(folder / "security.toml", "\n".join(sections).encode(), 0o600)


def _certificate() -> tuple[bytes, bytes]:
    """Return a new self-signed certificate for 127.0.0.1 and its private key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "greenroom-s3")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # A clock that is set back a little must not shut the parts out from each other.
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + _VALID)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private


def _folder(name: str) -> Path:
    folder = home() / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _bucket_answers(settings: LocalSettings) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - only a start needs it

    storage = StorageSettings(
        s3_endpoint_url=settings.s3_url,
        s3_access_key=settings.s3_access_key,
        s3_secret_key=settings.s3_secret_key,
    )
    client = s3_client(storage, attempts=1, connect_timeout=1, read_timeout=5)
    try:
        client.head_bucket(Bucket=settings.s3_bucket)
        # The bucket may answer before there is a volume to write to.
        client.put_object(Bucket=settings.s3_bucket, Key="greenroom-ready", Body=b"ready")
    except (BotoCoreError, ClientError):
        return False
    return True
