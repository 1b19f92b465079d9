//! Workers, listeners, connections, dialling and the relay.
