"""What a command may print: PEM, or JSON with PEM in it.

PEM: any number of private keys and certificates in any order. A key and a certificate with the same public key belong
together; the issuers are taken from the rest.

JSON: an object with a certificate and a key is one; objects and lists may have such objects in them, as deep as the
answers of Vault, 1Password and Kubernetes. Where an object has ``fields`` with ``label`` (or ``id``) and ``value``,
these count as members.
"""

from __future__ import annotations

import base64
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from mailsni.core.model import Reason
from mailsni.core.x509 import InvalidPair, LooseCertificate, contents, describe
from mailsni.sources.document import DamagedDocumentError, Entry, load_json

LEAF_MEMBERS = ("certificate", "cert", "crt", "tlscrt", "tlscert", "servercert", "certificatepem", "certpem")
CHAIN_MEMBERS = (
    *("fullchain", "fullchainpem", "certificatechain", "chain", "chainpem", "cachain", "issuingca", "ca", "cacert"),
    *("intermediate", "intermediates", "cabundle", "cacrt"),
)
KEY_MEMBERS = ("privatekey", "key", "privkey", "tlskey", "serverkey", "privatekeypem", "privkeypem", "keypem")
BOTH_MEMBERS = ("pem", "bundle", "pembundle", "combined", "tlscombinedpem")
"""Names of members in lower case, without anything but letters and digits: ``private_key`` and ``Private Key``."""
_NAME_MEMBERS = ("name", "title", "commonname", "domain")
_PLAIN_MEMBERS = ("data", "items", "secret", "result", "results", "value", "certificates")
"""Members that hold certificates, and are not called after one."""
_DEPTH = 8
_BEGIN = "-----BEGIN "
_NO_LETTER = re.compile(r"[^a-z0-9]")


def entries(data: bytes) -> list[Entry]:
    """The certificates that a command printed.

    Raises:
        DamagedDocumentError: they are not of a form that is known; a key has no certificate; or nobody can tell which
            certificate it is that is damaged.
    """
    text = data.lstrip(b"\xef\xbb\xbf\0 \t\r\n")
    if text[:1] in (b"{", b"["):
        document = load_json(text)
        found = list(_of_json(document, "", _DEPTH))
        if not found and document not in ({}, []):
            raise DamagedDocumentError("JSON without a certificate and a key")
        return found
    if _BEGIN.encode() not in text:
        raise DamagedDocumentError("neither PEM nor JSON")
    return list(_of_pem(text))


def _of_pem(pem: bytes) -> Iterator[Entry]:
    found = contents(pem)
    if damage := found.damage or (found.useless_key and found.useless_key.detail):
        raise DamagedDocumentError(damage)
    keys = {key.spki: key for key in found.keys}
    leaves = dict.fromkeys(each for each in found.certificates if each.spki in keys or each.is_leaf)
    if alone := len(keys.keys() - {leaf.spki for leaf in leaves}):
        raise DamagedDocumentError(f"{alone} of the private keys have no certificate")
    authorities: dict[bytes, list[LooseCertificate]] = defaultdict(list)
    for each in dict.fromkeys(each for each in found.certificates if each not in leaves):
        authorities[each.subject].append(each)
    for leaf in leaves:
        chain = b"".join(each.pem for each in (leaf, *_issuers(leaf, authorities)))
        name = next(iter(leaf.names), "")
        if leaf.spki in keys:
            yield Entry(name, chain, keys[leaf.spki].pem)
        else:
            yield Entry(name, chain, refusal=(Reason.KEY_MISSING, "there is no private key for the certificate"))


def _issuers(leaf: LooseCertificate, by_subject: Mapping[bytes, list[LooseCertificate]]) -> list[LooseCertificate]:
    """Those that may have issued it, those that may have issued them, and so on."""
    found: list[LooseCertificate] = []
    wanted = [leaf.issuer]
    for at, subject in enumerate(wanted):
        issuers = by_subject.get(subject, []) if subject not in wanted[:at] else []
        found += issuers
        wanted += [each.issuer for each in issuers]
    return found


def _of_json(value: object, name: str, depth: int) -> Iterator[Entry]:
    if depth == 0:
        return
    if isinstance(value, list):
        for item in value:
            yield from _of_json(item, "", depth - 1)
    if not isinstance(value, dict):
        return
    members = _members(value)
    own_name = _own_name(members) or name
    entry = _entry(own_name, members)
    if entry is not None:
        yield entry
        return
    for key, member in value.items():
        inner = own_name if _normal(key) in _PLAIN_MEMBERS else key
        yield from _of_json(member, inner, depth - 1)


def _members(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """The members of an object by their normal names, and its fields."""
    members = {_normal(key): member for key, member in value.items()}
    fields = members.get("fields")
    for field in fields if isinstance(fields, list) else ():
        if isinstance(field, dict):
            for label in (field.get("label"), field.get("id")):
                if isinstance(label, str):
                    members.setdefault(_normal(label), field.get("value"))
    return members


def _own_name(members: Mapping[str, Any]) -> str:
    metadata = members.get("metadata")
    names = [members.get(member) for member in _NAME_MEMBERS]
    if isinstance(metadata, dict):
        names.append("/".join(str(metadata[part]) for part in ("namespace", "name") if metadata.get(part)))
    return next((name for name in names if isinstance(name, str) and name), "")


def _entry(name: str, members: Mapping[str, Any]) -> Entry | None:
    """The certificate that an object is; None when it is none."""
    both = _pem(members, BOTH_MEMBERS)
    leaf = _pem(members, LEAF_MEMBERS)
    chain = b"\n".join(part for part in (leaf, _pem(members, CHAIN_MEMBERS), both) if part)
    key = _pem(members, KEY_MEMBERS) or both
    if not chain and b"PRIVATE KEY" not in key:
        return None
    if not chain:
        refusal = Reason.CHAIN_MISSING, "the object has a private key and no certificate"
    elif not key:
        refusal = Reason.KEY_MISSING, "the object has a certificate and no private key"
    else:
        refusal = None
    if not name and (not chain or isinstance(describe(chain), InvalidPair)):
        raise DamagedDocumentError("an object with a certificate that cannot be parsed does not say its name")
    return Entry(name, chain, key, refusal=refusal)


def _pem(members: Mapping[str, Any], names: tuple[str, ...]) -> bytes:
    """What stands in some members: a text, or a list of texts; as it is, in base64, or with its line ends escaped."""
    values = [members.get(name) for name in names]
    texts = [text for value in values for text in (value if isinstance(value, list) else [value])]
    return "\n".join(_plain(text) for text in texts if isinstance(text, str) and text).encode("utf-8", "replace")


def _plain(text: str) -> str:
    if _BEGIN in text:
        return text.replace("\\n", "\n")
    try:
        decoded = base64.b64decode(text, validate=True).decode("ascii")
    except ValueError:
        return text
    return decoded if _BEGIN in decoded else text


def _normal(name: str) -> str:
    return _NO_LETTER.sub("", name.lower())
