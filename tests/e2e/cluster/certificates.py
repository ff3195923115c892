"""The certificates of a control plane, made by openssl."""

from collections.abc import Sequence
from pathlib import Path

from ..build import call

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_DAYS = ("-days", "30")


def make_certificates(folder: Path, addresses: Sequence[str]) -> None:
    """Write ca.crt, the API server's api.crt and api.key, and sa.key, which signs service accounts' tokens.

    The authority has what Python's VERIFY_X509_STRICT asks for, as kubeadm's has.
    """
    folder.mkdir(parents=True)
    ca_crt, ca_key = str(folder / "ca.crt"), str(folder / "ca.key")
    api_csr, extensions = str(folder / "api.csr"), folder / "api.cnf"
    usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-addext", "subjectKeyIdentifier=hash"]
    authority = ["-subj", "/CN=e2e", *usage, "-keyout", ca_key, "-out", ca_crt]
    call(["openssl", "req", "-x509", *_KEY, *_DAYS, *authority])
    server = ["-subj", "/CN=kube-apiserver", "-keyout", str(folder / "api.key"), "-out", api_csr]
    call(["openssl", "req", *_KEY, *server])
    names = ",".join(["DNS:kubernetes.default.svc", *(f"IP:{address}" for address in addresses)])
    extensions.write_text(
        f"subjectAltName={names}\nextendedKeyUsage=serverAuth\nauthorityKeyIdentifier=keyid\n"
    )
    sign = ["-CA", ca_crt, "-CAkey", ca_key, "-CAcreateserial", *_DAYS, "-extfile", str(extensions)]
    call(["openssl", "x509", "-req", *sign, "-in", api_csr, "-out", str(folder / "api.crt")])
    call(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(folder / "sa.key")])
