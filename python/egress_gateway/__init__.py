"""The control plane of the egress gateway: it reads policy files and talks to people; Rust moves the bytes."""
