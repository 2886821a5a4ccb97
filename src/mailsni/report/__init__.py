"""What the commands say: views of the same results as text for people and as JSON for programs."""
