"""What `mailsni verify` is asked for, and what it expects of each name."""

from __future__ import annotations

import pytest

from mailsni.errors import UsageError
from mailsni.probes.endpoint import Endpoint
from mailsni.probes.expectation import Expectation
from mailsni.verify.request import VerifyRequest, expected_certificates
from tests.support.builders import certificate, deployment, snapshot

NAME = "mail.a.test"


def test_a_deployed_certificate_without_a_winner_is_expected_until_the_next_run() -> None:
    """Its certificate has expired, or its lineage is gone: it is served all the same."""
    gone, renewed = certificate("gone.test", "mail.gone.test"), certificate("a.test", NAME)
    seen = snapshot(renewed, deployed=deployment(gone, certificate("a.test", NAME, age=60, left=30)))
    assert expected_certificates(seen) == (
        Expectation(NAME, renewed.fingerprint),
        Expectation("mail.gone.test", gone.fingerprint),
    )
    assert expected_certificates(seen, ["mail.gone.test", "mail.x.test"]) == (
        Expectation("mail.gone.test", gone.fingerprint),
        Expectation("mail.x.test"),
    )


@pytest.mark.parametrize(
    ("names", "urls", "said"),
    [
        (["mail.a.test\n"], [], "not a host name"),
        (["1.2.3.4"], [], "not a host name"),
        ([], ["http://a.test"], "unknown protocol"),
        ([], ["imaps://::1:993"], "IPv6 address goes in brackets"),
    ],
)
def test_a_name_or_url_that_cannot_be_probed_is_a_usage_error(names: list[str], urls: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        VerifyRequest.parse(names, urls)


def test_names_and_endpoints_of_a_request_are_normalized_and_unique() -> None:
    assert VerifyRequest.parse(["Mail.A.test", "mail.a.test"], ["imaps://a.test"]) == VerifyRequest(
        ("mail.a.test",), (Endpoint("imaps", "a.test", 993),)
    )
