"""The gateway: an HTTP API that starts runs, follows them, and serves what they made. It computes nothing itself."""
