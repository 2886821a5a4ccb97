"""Views of the same results: text for people, JSON, Nagios and Prometheus."""
