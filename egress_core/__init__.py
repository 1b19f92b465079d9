"""The compiled core of the egress gateway."""
