"""`mailsni verify`: probes every name at every port and assesses the answers."""
