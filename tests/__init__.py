"""Tests of mailsni: unit, property, golden and fault on any host, e2e with real servers in the lab."""
