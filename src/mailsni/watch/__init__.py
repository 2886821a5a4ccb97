"""`mailsni watch`: stays running and applies when certificates change."""
