"""The pages and the local control: one application, served on a loopback port and on a unix socket."""
