"""The web configuration: what is read, and what is said of each mistake."""

import re
import ssl
import subprocess
from pathlib import Path

import bcrypt
import pytest

from exporter.config.errors import ConfigError
from exporter.web.security.tls import CIPHER_SUITES, has_allowed_name
from exporter.web.security.web_config import RateLimit, WebConfig, WebConfigReader
from tests.certificates import Pair, make_pair
from tests.support import REPOSITORY, program

HASH = "$2y$04$" + bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()[7:]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A certificate and its key."""
    return make_pair(tmp_path_factory.mktemp("pair"), "server")


@pytest.fixture
def folder(tmp_path: Path, pair: Pair) -> Path:
    """A directory with s.crt, s.key and other files that are none."""
    (tmp_path / "s.crt").write_bytes(pair.cert.read_bytes())
    (tmp_path / "s.key").write_bytes(pair.key.read_bytes())
    (tmp_path / "other.key").write_bytes(make_pair(tmp_path, "other").key.read_bytes())
    (tmp_path / "empty").touch()
    return tmp_path


def read(folder: Path, text: str) -> WebConfig:
    """Read a text as the file web.yml of a directory."""
    path = folder / "web.yml"
    path.write_text(text)
    return WebConfigReader(str(path)).read()


def mistakes(folder: Path, text: str) -> list[str]:
    """What is said of a bad text, line by line, without the directory."""
    with pytest.raises(ConfigError) as caught:
        read(folder, text)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def tls_mistakes(folder: Path, text: str) -> list[str]:
    """The same of what stands in tls_server_config beside a good certificate, without the place and the section."""
    told = mistakes(folder, f"tls_server_config: {{cert_file: s.crt, key_file: s.key, {text}}}")
    return [line.partition("tls_server_config.")[2] for line in told]


def test_everything_is_read(folder: Path) -> None:
    """Each key has its effect."""
    config = read(
        folder,
        f"""
        tls_server_config:
          cert_file: s.crt
          key_file: {folder}/s.key
          client_ca_file: s.crt
          client_auth_type: RequireAndVerifyClientCert
          client_allowed_sans: [example.org, 127.0.0.1]
          min_version: TLS12
          max_version: TLS12
          cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384]
          prefer_server_cipher_suites: false
          curve_preferences: [CurveP521]
        http_server_config:
          http2: false
          headers:
            X-Frame-Options: deny
            X-XSS-Protection: ""
            Strict-Transport-Security: max-age=60
        basic_auth_users: {{alice: {HASH}, "Bob B.": {HASH}}}
        rate_limit: {{interval: 1m0.5s, burst: 20}}
        """,
    )
    assert config.tls is not None
    assert config.tls.verify_mode is ssl.CERT_REQUIRED
    assert (config.tls.minimum_version, config.tls.maximum_version) == (ssl.TLSVersion.TLSv1_2,) * 2
    older = [cipher["name"] for cipher in config.tls.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    assert older == ["ECDHE-ECDSA-AES256-GCM-SHA384"]
    assert not config.tls.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    assert config.allowed_sans == {"example.org", "127.0.0.1"}
    assert config.headers == {"X-Frame-Options": "deny", "Strict-Transport-Security": "max-age=60"}
    assert config.users == {b"alice": HASH.encode(), b"Bob B.": HASH.encode()}
    assert config.rate_limit == RateLimit(60.5, 20)
    assert config.warnings == ()


def test_defaults(folder: Path) -> None:
    """TLS 1.2 and 1.3, no certificate of the client, nobody's password."""
    config = read(folder, "tls_server_config: {cert_file: s.crt, key_file: s.key}")
    assert config.tls is not None
    assert config.tls.verify_mode is ssl.CERT_NONE
    assert (config.tls.minimum_version, config.tls.maximum_version) == (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
    assert config.tls.options & ssl.OP_CIPHER_SERVER_PREFERENCE
    assert (config.users, config.headers, config.rate_limit) == ({}, {}, None)


def test_inline(folder: Path) -> None:
    """Certificate, key and authority can stand in the file itself."""
    cert, key = ((folder / name).read_text().replace("\n", "\n    ") for name in ("s.crt", "s.key"))
    text = f"tls_server_config:\n  cert: |\n    {cert}\n  key: |\n    {key}\n  client_ca: |\n    {cert}\n"
    config = read(folder, text + "  client_auth_type: VerifyClientCertIfGiven\n")
    assert config.tls is not None
    assert config.tls.verify_mode is ssl.CERT_OPTIONAL
    assert len(config.tls.get_ca_certs()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "# nothing\n",
        "---\n",
        "null",
        "{}",
        "tls_server_config:\nbasic_auth_users:\n",
        "tls_server_config: {}",
    ],
)
def test_nothing_in_it(folder: Path, text: str) -> None:
    """Protects nothing, as exporter-toolkit has it."""
    assert read(folder, text) == WebConfig()


def test_what_python_can_not_do(folder: Path) -> None:
    """Told where it can be served in another way."""
    text = "tls_server_config: {cert_file: s.crt, key_file: s.key, %s}\nhttp_server_config: {http2: %s}"
    settings = "client_auth_type: RequestClientCert, min_version: TLS10, curve_preferences: [X25519, CurveP256]"
    assert read(folder, text % (settings, "true")).warnings == (
        "tls_server_config.client_auth_type: RequestClientCert requests no certificate; every client is served",
        "tls_server_config.min_version: TLS10 is not supported; the minimum is TLS 1.2",
        "tls_server_config.curve_preferences: Python's ssl takes one curve or all of OpenSSL's; "
        "with several given it is all",
        "http_server_config.http2: HTTP/2 is not supported; clients use HTTP/1.1",
    )
    assert read(folder, text % ("client_auth_type: RequireAndVerifyClientCert", "false")).warnings == (
        "tls_server_config.client_auth_type: without client_ca_file this system's authorities are trusted",
    )


def test_every_cipher_suite_is_known_to_openssl(folder: Path) -> None:
    """One by one; those of TLS 1.3 alone exclude TLS 1.2."""
    for name, older in CIPHER_SUITES.items():
        config = read(folder, f"tls_server_config: {{cert_file: s.crt, key_file: s.key, cipher_suites: [{name}]}}")
        assert config.tls is not None
        least = ssl.TLSVersion.TLSv1_2 if older else ssl.TLSVersion.TLSv1_3
        assert config.tls.minimum_version is least


def test_every_mistake_at_once(folder: Path) -> None:
    """Each with its place, misspelt keys with what was meant, keys that come twice."""
    text = f"""tls_server_config:
  cert_fiel: s.crt
  key_file: /no/key
  client_auth_type: RequireAndVerifyClientCret
http_server_config:
  http2: perhaps
  headers: {{X-Frame-Option: deny, X-Content-Type-Options: sniff, Content-Security-Policy: "a\\nb"}}
basic_auth_users:
  alice: hunter2
  alice: {HASH}
  bob: 12345
rate_limit: {{interval: soon}}
tls_sever_config: 1
"""
    assert mistakes(folder, text) == [
        "web.yml:2:3: tls_server_config.cert_fiel: unknown key, did you mean 'cert_file'?",
        "web.yml:2:3: tls_server_config: one of 'cert' and 'cert_file' is missing",
        "web.yml:3:13: tls_server_config.key_file: cannot be read: No such file or directory",
        "web.yml:4:21: tls_server_config.client_auth_type: unknown client_auth_type 'RequireAndVerifyClientCret', "
        "did you mean 'RequireAndVerifyClientCert'?",
        "web.yml:6:10: http_server_config.http2: expected true or false, found a string",
        "web.yml:7:13: http_server_config.headers.X-Frame-Option: unknown key, did you mean 'X-Frame-Options'?",
        "web.yml:7:59: http_server_config.headers.X-Content-Type-Options: expected nosniff",
        "web.yml:7:91: http_server_config.headers.Content-Security-Policy: expected one line of ASCII",
        "web.yml:9:10: basic_auth_users.alice: no bcrypt hash, expected one such as $2y$10$ and 53 more characters; "
        "htpasswd -nBC 10 '' makes one",
        "web.yml:10:3: basic_auth_users.alice: the key is defined twice, first in line 9",
        "web.yml:11:8: basic_auth_users.bob: expected a bcrypt hash, found a value that is not a string; "
        "put it in quotes",
        "web.yml:12:13: rate_limit.burst: the key is missing, expected a whole number of requests",
        "web.yml:12:24: rate_limit.interval: no duration, expected one such as 1s or 250ms; 0 for no limit",
        "web.yml:13:1: tls_sever_config: unknown key, did you mean 'tls_server_config'?",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "client_auth_type: RequireAnyClientCert",
            "client_auth_type: Python's ssl cannot request a certificate without verifying it, and an unverified one "
            "protects nothing; expected RequireAndVerifyClientCert or NoClientCert",
        ),
        ("client_ca_file: s.crt", "client_auth_type: is missing or NoClientCert, so the authority of clients would not "
        "be used"),
        ("client_auth_type: VerifyClientCertIfGiven, client_ca_file: s.key", "client_ca_file: no certificate in it, "
        "expected at least one in PEM"),
        ("client_auth_type: RequireAndVerifyClientCert, client_ca_file: empty", "client_ca_file: no certificate in it, "
        "expected at least one in PEM"),
        ("client_allowed_sans: [a]", "client_allowed_sans: expected client_auth_type to be RequireAndVerifyClientCert"),
        ("max_version: TLS11", "max_version: Python's ssl supports TLS 1.2 and 1.3 only, expected TLS12 or TLS13"),
        ("min_version: TLS13, max_version: TLS12", "min_version: is above max_version, which is TLS12"),
        ("min_version: TLS1.2", "min_version: unknown version 'TLS1.2', did you mean 'TLS12'?"),
        ("cipher_suites: [TLS_AES_128_GCM_SHA256], max_version: TLS12", "cipher_suites: all of them are of TLS 1.3, "
        "which max_version excludes"),
        ("curve_preferences: [X2559]", "curve_preferences[0]: unknown curve 'X2559', did you mean 'X25519'?"),
        ("cert: x", "cert_file: 'cert' is given too, expected one of them"),
    ],
)  # fmt: skip
def test_tls_mistakes(folder: Path, text: str, told: str) -> None:
    """What does not go together, or not at all."""
    assert tls_mistakes(folder, text) == [told]


@pytest.mark.parametrize(
    ("cert", "key", "told"),
    [
        ("empty", "s.key", "5:12: tls_server_config.cert_file: no certificate in it, expected at least one in PEM"),
        ("s.key", "s.key", "5:12: tls_server_config.cert_file: no certificate in it, expected at least one in PEM"),
        ("s.crt", "s.crt", "5:25: tls_server_config.key_file: no private key in it, expected one in PEM"),
        ("s.crt", "other.key", "5:25: tls_server_config.key_file: the key in other.key does not belong to the "
         "certificate in s.crt"),
        ("s.crt", "rsa.key", "5:25: tls_server_config.key_file: the key in rsa.key does not belong to the "
         "certificate in s.crt"),
        ("s.crt", ".", "5:25: tls_server_config.key_file: cannot be read: Is a directory"),
        ("s.crt", "encrypted", "5:25: tls_server_config.key_file: is encrypted, expected a private key without a "
         "passphrase"),
    ],
)  # fmt: skip
def test_bad_pairs(folder: Path, cert: str, key: str, told: str) -> None:
    """Each is told at the file that is at fault."""
    command = [
        program("openssl"),
        "ec",
        "-aes128",
        "-passout",
        "pass:x",
        "-in",
        folder / "s.key",
        "-out",
        folder / "encrypted",
    ]
    subprocess.run(command, check=True, capture_output=True)
    command = [program("openssl"), "genpkey", "-algorithm", "RSA", "-out", folder / "rsa.key"]
    subprocess.run(command, check=True, capture_output=True)
    told = told.replace("5:12", "web.yml:1:32").replace("5:25", f"web.yml:1:{44 + len(cert)}")
    assert mistakes(folder, f"tls_server_config: {{cert_file: {cert}, key_file: {key}}}") == [told]


@pytest.mark.parametrize(
    "text",
    [
        "basic_auth_users: alice:hunter2",
        "basic_auth_users: {alice:hunter2}",
        "basic_auth_users:\n  alice: *hunter2\n",
        "basic_auth_users:\n  alice: &hunter2 x\n  bob: &hunter2 y\n",
        "basic_auth_users:\n  alice: !hunter2 x\n",
        "basic_auth_users:\n  alice: !hunter2!x x\n",
        "basic_auth_users:\n  alice: [hunter2]\n",
        "basic_auth_users: [alice, hunter2]\n",
        "basic_auth_users:\n  alice: 'hunter2\n",
        'basic_auth_users:\n  alice: "\\hunter2"\n',
        "basic_auth_users:\n  alice: %hunter2\n",
        "basic_auth_users:\n  alice: hunter2: hunter2\n",
        "basic_auth_users: {? [hunter2] : 1}",
        "alice:hunter2",
        "{key:hunter2: 1}",
        "tls_server_config: {key: hunter2, cert: hunter2}",
        "tls_server_config: hunter2",
        "tls_server_config:\n  key: |\n  hunter2\n",
        "http_server_config: {http2: hunter2}",
        "http_server_config: {http2: !!bool hunter2}",
        "basic_auth_users: {!!binary hunter2: x}",
        "rate_limit: {interval: hunter2}",
    ],
)
def test_no_message_has_a_secret_in_it(folder: Path, text: str) -> None:
    """Whatever the way in which a password or a key got to a wrong place."""
    told = mistakes(folder, text)
    assert told
    assert not [line for line in told if "hunter2" in line]


def test_the_example(folder: Path) -> None:
    """config/web-config.yml is valid as it is, and with everything in it that is commented out."""
    example = (REPOSITORY / "config" / "web-config.yml").read_text()
    assert read(folder, example).headers == {"X-Frame-Options": "deny"}
    for name in ("server.crt", "client-ca.crt"):
        (folder / name).write_bytes((folder / "s.crt").read_bytes())
    (folder / "server.key").write_bytes((folder / "s.key").read_bytes())
    config = read(folder, re.sub(r"(?m)^( *)#(?=[\w-]+:)", r"\1", example))
    assert config.tls is not None
    assert (len(config.allowed_sans), len(config.headers), len(config.users)) == (1, 5, 1)
    assert config.rate_limit == RateLimit(0.1, 20)
    assert config.warnings == ()
    assert bcrypt.checkpw(b"change me", config.users[b"alice"])


def test_names_of_clients() -> None:
    """As they stand in the certificate; addresses in their short form."""
    names = (("DNS", "a.example"), ("IP Address", "0:0:0:0:0:0:0:1"), ("URI", "spiffe://x/y"), ("email", "a@b"))
    for name in ("a.example", "::1", "spiffe://x/y", "a@b"):
        assert has_allowed_name({"subjectAltName": names}, {name, "z"})
    assert not has_allowed_name({"subjectAltName": names}, {"example"})
    assert not has_allowed_name({}, {"example"})
    assert not has_allowed_name(None, {"example"})
